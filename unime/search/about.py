"""What an index was made with: its model and its settings."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from unime.config.searching import IndexConfig
from unime.embedder import Embedder
from unime.errors import ConfigError
from unime.models.hub import locate
from unime.runtime.files import read_json, write_json

ABOUT = "index.json"
VERSION = 2  # of what lies in the folder
KEPT: dict[str, Any] = {  # settings that an index is made with, and their defaults
    "dimensions": [],
    "passage_characters": None,  # by the model
    "page_pixels": 1024,
    "max_pages": 2000,
    "max_text_mib": 16.0,
    "url": None,
    "collection": "unime",
    "quantization": "none",
}


def fingerprint(embedder: Embedder) -> str:
    """Of what decides a vector: the content of model and adapters, and how items are shown."""
    settings = [embedder.model.quantization.value, embedder.encoders[0].processor.inputs.decisive()]
    digest = hashlib.blake2b(json.dumps(settings, sort_keys=True).encode(), digest_size=16)
    locate(embedder.model).add_to(digest)
    return digest.hexdigest()


def model_of(folder: str | Path) -> str | None:
    """The model that made an index; None: there is no index."""
    path = Path(folder).expanduser() / ABOUT
    return str(read_json(path, key="index").get("model")) if path.is_file() else None


def read_about(folder: Path) -> dict[str, Any] | None:
    """What an index was made with; None: there is none.

    Raises:
        ConfigError: it is damaged, or another version's.
    """
    path = folder / ABOUT
    if not path.is_file():
        return None
    made: dict[str, Any] = read_json(path, key="index")
    kept = made.get("settings")
    if made.get("version") != VERSION or not isinstance(kept, dict) or kept.keys() != {*KEPT}:
        raise ConfigError(
            f"index: {path} was made by another version of unime; remove {folder}", "index"
        )
    return made


def write_about(folder: Path, embedder: Embedder, settings: dict[str, Any]) -> None:
    """Write down what an index is made with."""
    name = embedder.name
    model = str(Path(name).resolve()) if Path(name).exists() else name
    about = {"version": VERSION, "model": model, "fingerprint": fingerprint(embedder)}
    write_json(folder / ABOUT, about | {"settings": settings})


def remove_about(folder: Path) -> None:
    """There is no index after all."""
    (folder / ABOUT).unlink(missing_ok=True)


def settled(made: dict[str, Any] | None, config: IndexConfig, folder: Path) -> dict[str, Any]:
    """The settings of the index in a folder, those that are given and those that it was made with.

    Raises:
        ConfigError: one that is given is another than it was made with.
    """
    asked = asdict(config) | asdict(config.store)
    given = {name: asked[name] for name in KEPT if asked[name] is not None}
    if made is None:
        return KEPT | given
    for name, value in given.items():
        if made["settings"][name] != value:
            was = made["settings"][name]
            key = f"store.{name}" if name in asdict(config.store) else name
            raise ConfigError(
                f"{key}: got {value}, expected {was}, with which {folder} was made; name"
                " another index",
                key,
            )
    return dict(made["settings"])
