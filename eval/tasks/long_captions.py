"""The long captions of UniME's retrieval suite: ShareGPT4V-1K and Urban1K, as Long-CLIP set them up
(beichenzbc/Long-CLIP, train/sharegpt4v.py and eval/retrieval/Urban1k.py).

An item of ShareGPT4V's list, and the two files of one of Urban1K's::

    {"image": "sam/images/sa_1.jpg", "conversations": [{"value": "Describe it."},
                                                       {"value": "The picture shows …"}]}
    Urban1k/image/1.jpg, Urban1k/caption/1.txt: "The image captures a street …"
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice
from pathlib import Path, PurePath, PurePosixPath
from typing import TypeVar
from zipfile import BadZipFile, ZipFile

from eval.tasks.base import EvalTask
from eval.tasks.caption_retrieval import Captioned, CaptionRetrieval
from eval.tasks.sources import EvalSource
from unime.data.json_files import json_items
from unime.data.rows import Row
from unime.data.split_files import boundary, check_inside
from unime.errors import DataError
from unime.runtime.files import regular

LARGEST = 1 << 26  # bytes of one file of an archive; more is no picture of it
CAPTION = "conversations[1].value"
KINDS = ("image", "caption")  # folders
AnyPath = TypeVar("AnyPath", bound=PurePath)


@dataclass(frozen=True)
class ShareGpt4v(CaptionRetrieval):
    """``Lin-Chen/ShareGPT4V``: the first 1,000 items of a JSON file, the picture's path in
    ``image``, its caption in ``conversations[1].value``, line breaks as spaces."""

    file: str = "share-captioner_coco_lcs_sam_1246k_1107.json"
    num_items: int = 1000

    def read(self, name: str, source: EvalSource) -> EvalTask:
        path = source.file(self.repository, self.file, self.revision)
        find = source.images(self.repository).find
        pictures = []
        for number, item in enumerate(islice(json_items(path), self.num_items)):
            where = f"{path}, item {number}"
            try:
                cells = {"image": item["image"], CAPTION: item["conversations"][1]["value"]}
            except (KeyError, IndexError, TypeError):
                raise DataError(f"{where}: no 'image' or no {CAPTION!r}") from None
            row = Row(cells, where)
            caption = row.text(CAPTION).replace("\n", " ")
            pictures.append(Captioned(str(number), row.image("image", find), (caption,)))
        return self.task(name, pictures, source.data.limit, [])


@dataclass(frozen=True)
class Urban1k(CaptionRetrieval):
    """``BeichenZhang/Urban1k``: ``image/<id>.jpg`` and ``caption/<id>.txt``, in the
    repository's folder, a folder ``Urban1k`` in it, or its archive; sorted by id. Of a caption the
    first line counts, without its line break (which the published code leaves in)."""

    archive: str = "Urban1k.zip"

    def read(self, name: str, source: EvalSource) -> EvalTask:
        folder = source.folder(self.repository)
        inside = [folder, folder / "Urban1k"] if folder is not None else []
        unpacked = next((one for one in inside if (one / "caption").is_dir()), None)
        place = unpacked or source.file(self.repository, self.archive, self.revision)
        images, texts = _read_files(place, source)
        for kind, lone in (("caption", images.keys() - texts), ("image", texts.keys() - images)):
            if lone:
                listed = ", ".join(sorted(lone)[:5]) + (", …" if len(lone) > 5 else "")
                raise DataError(f"{place}: {len(lone)} ids without {kind}: {listed}")
        pictures, left_out = [], []
        for key in sorted(images):
            where = f"{place}, caption of {key}"
            try:
                first, *rest = texts[key].decode("utf-8-sig").replace("\r\n", "\n").split("\n")
            except UnicodeDecodeError as error:
                raise DataError(f"{where}: {error}") from None
            if not first.strip():
                raise DataError(f"{where}: got {first!r}, expected a caption")
            pictures.append(Captioned(key, images[key], (first,)))
            if any(line.strip() for line in rest):
                left_out.append(f"{where}: the lines after the first")
        return self.task(name, pictures, source.data.limit, left_out)


def _read_files(place: Path, source: EvalSource) -> tuple[dict[str, str], dict[str, bytes]]:
    """Paths of pictures, and captions, by their ids, of a folder or an archive."""
    try:
        if place.is_dir():
            unpacked = [path for kind in KINDS for path in (place / kind).iterdir()]
            images, texts = (_by_id(unpacked, kind) for kind in KINDS)
            within = boundary(place, source.data.follow_links)
            for path in (*images.values(), *texts.values()):
                check_inside(regular(path), within)
            paths = {key: str(path) for key, path in images.items()}
            return paths, {key: path.read_bytes() for key, path in texts.items()}
        with ZipFile(place) as opened:
            for info in opened.infolist():
                if info.file_size > LARGEST:
                    found = f"{info.filename} takes {info.file_size} bytes"
                    raise DataError(f"{found}, expected a picture or a caption")
            names = {PurePosixPath(name): name for name in opened.namelist() if name[-1] != "/"}
            pictures, captions = (_by_id(names, kind) for kind in KINDS)
            kept = {
                key: source.keep_image({"bytes": opened.read(names[path])})
                for key, path in pictures.items()
            }
            return kept, {key: opened.read(names[path]) for key, path in captions.items()}
    # damaged; with a password, or packed in another way (RuntimeErrors)
    except (OSError, BadZipFile, zlib.error, RuntimeError, DataError) as error:
        raise DataError(f"{place}: cannot read it: {error}") from None


def _by_id(files: Iterable[AnyPath], kind: str) -> dict[str, AnyPath]:
    """Those that lie in a folder of this name, by their ids; macOS adds some that begin with a dot.

    Raises:
        DataError: two files of one id.
    """
    found: dict[str, AnyPath] = {}
    for path in files:
        if path.parent.name == kind and not path.name.startswith("."):
            if path.stem in found:
                raise DataError(f"two files of id {path.stem}: {found[path.stem]} and {path}")
            found[path.stem] = path
    return found
