"""Which reader takes somebody's data: the first of READERS that recognises them."""

from __future__ import annotations

from pathlib import Path

from data_prep.own.readers.base import Reader
from data_prep.own.readers.folder import PictureFolder
from data_prep.own.readers.lco import Lco
from data_prep.own.readers.mme5 import Mme5
from data_prep.own.readers.mmeb_train import MmebTrain
from data_prep.own.readers.ms_swift import MsSwift
from data_prep.own.readers.nemo import Nemo
from data_prep.own.readers.sentence_transformers import SentenceTransformers
from data_prep.own.readers.tables import Tables
from data_prep.own.readers.unime_v2 import UnimeV2
from data_prep.own.readers.webdataset import Tars
from unime.config import OwnDataConfig
from unime.errors import ConfigError

# The particular forms come first: any of them is a table or a folder, too.
READERS: dict[str, type[Reader]] = {
    "ms_swift": MsSwift,
    "lco": Lco,
    "nemo": Nemo,
    "unime_v2": UnimeV2,
    "mme5": Mme5,
    "mmeb_train": MmebTrain,
    "sentence_transformers": SentenceTransformers,
    "webdataset": Tars,
    "tables": Tables,
    "folder": PictureFolder,
}
SHEETS = (".xlsx", ".xls", ".ods", ".numbers")


def open_reader(config: OwnDataConfig) -> tuple[Reader, str]:
    """The reader of the data, and why it is this one.

    Raises:
        ConfigError: there is no such reader, or none takes the data.
        DataError: data that cannot be read.
    """
    path = Path(config.path)
    if config.reader is not None:
        if config.reader not in READERS:
            known = ", ".join(READERS)
            raise ConfigError(f"reader: got {config.reader!r}, expected one of {known}", "reader")
        return READERS[config.reader](path, config), f"read as {config.reader}, as asked for"
    for name, reader in READERS.items():
        if words := reader.recognises(path):
            return reader(path, config), f"read as {name}: {words}"
    why = "" if path.exists() else ", which is not there"
    if path.suffix.lower() in SHEETS:
        why = ", a spreadsheet: save it as CSV"
    elif path.is_dir() and not any(path.iterdir()):
        why = ", which is empty"
    raise ConfigError(
        f"path: no reader recognises {path}{why}; name one: reader={'|'.join(READERS)}", "path"
    )
