"""The long captions of UniME's retrieval suite: ShareGPT4V-1K and Urban1K, as Long-CLIP set them up
(beichenzbc/Long-CLIP, train/sharegpt4v.py and eval/retrieval/Urban1k.py)."""

from __future__ import annotations

import json
import re
import zlib
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path, PurePath, PurePosixPath
from typing import Any, TypeVar
from zipfile import BadZipFile, ZipFile

from eval.tasks.base import EvalTask
from eval.tasks.caption_retrieval import Captioned, CaptionRetrieval, check_caption, find_image
from eval.tasks.sources import EvalSource
from unime.errors import DataError

CHUNK = 1 << 20  # characters read at a time
LONGEST = 1 << 24  # characters of one item; more is no item but a broken file
LARGEST = 1 << 26  # bytes of one file of an archive; more is no picture of it
BEGIN, BETWEEN = re.compile(r"\s*\[\s*"), re.compile(r"\s*,\s*")  # before an item
END = re.compile(r"\s*[],]")  # after it
T = TypeVar("T")


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
                image, value = item["image"], item["conversations"][1]["value"]
            except (KeyError, IndexError, TypeError):
                raise DataError(f"{where}: no 'image' or no 'conversations[1].value'") from None
            caption = check_caption(value, f"{where}, 'conversations[1].value'")
            found = find_image(find, image, f"{where}, 'image'")
            pictures.append(Captioned(str(number), found, (caption.replace("\n", " "),)))
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
        if unpacked is not None:
            place, images, texts = unpacked, *_unpacked(unpacked)
        else:
            place = source.file(self.repository, self.archive, self.revision)
            images, texts = _packed(place, source)
        for kind, lone in (("caption", images.keys() - texts), ("image", texts.keys() - images)):
            if lone:
                listed = ", ".join(sorted(lone)[:5]) + (", …" if len(lone) > 5 else "")
                raise DataError(f"{place}: {len(lone)} ids without {kind}: {listed}")
        pictures, longer = [], []
        for key in sorted(images):
            where = f"{place}, caption of {key}"
            try:
                first, *rest = texts[key].decode("utf-8-sig").replace("\r\n", "\n").split("\n")
            except UnicodeDecodeError as error:
                raise DataError(f"{where}: {error}") from None
            pictures.append(Captioned(key, images[key], (check_caption(first, where),)))
            longer += [key] if any(line.strip() for line in rest) else []
        left_out = [f"{place}, caption of {key}: the lines after the first" for key in longer]
        return self.task(name, pictures, source.data.limit, left_out)


def _unpacked(folder: Path) -> tuple[dict[str, str], dict[str, bytes]]:
    """Paths of pictures, and captions, by their ids."""
    try:
        images, texts = (
            [path for path in (folder / kind).iterdir() if not path.name.startswith(".")]
            for kind in ("image", "caption")
        )
        return (
            _by_id(folder, ((path, str(path)) for path in images)),
            _by_id(folder, ((path, path.read_bytes()) for path in texts)),
        )
    except OSError as error:
        raise DataError(f"{error.filename}: cannot read it: {error.strerror}") from None


def _packed(archive: Path, source: EvalSource) -> tuple[dict[str, str], dict[str, bytes]]:
    try:
        with ZipFile(archive) as opened:
            files = [(PurePosixPath(info.filename), info) for info in opened.infolist()
                     if not info.is_dir()]  # fmt: skip
            for path, info in files:
                if info.file_size > LARGEST:
                    raise DataError(
                        f"{path} takes {info.file_size} bytes, expected a picture or a caption"
                    )
            images, texts = (
                [one for one in files if one[0].parent.name == kind and one[0].name[0] != "."]
                for kind in ("image", "caption")  # macOS adds what begins with a dot
            )
            kept = (
                (path, source.keep_image({"bytes": opened.read(info)})) for path, info in images
            )
            return (
                _by_id(archive, kept),
                _by_id(archive, ((path, opened.read(info)) for path, info in texts)),
            )
    # damaged, with a password, or packed in another way
    except (OSError, BadZipFile, zlib.error, RuntimeError, NotImplementedError, DataError) as error:
        raise DataError(f"{archive}: cannot read it: {error}") from None


def _by_id(place: Path, files: Iterable[tuple[PurePath, T]]) -> dict[str, T]:
    """The contents of files by their names without suffix.

    Raises:
        DataError: two files of one id.
    """
    paths: dict[str, PurePath] = {}
    found: dict[str, T] = {}
    for path, content in files:
        if path.stem in paths:
            raise DataError(f"{place}: two files of id {path.stem}: {paths[path.stem]} and {path}")
        paths[path.stem], found[path.stem] = path, content
    return found


def json_items(path: Path) -> Iterator[Any]:
    """The items of a JSON list one after another, for files too large to be read at once:
    ShareGPT4V's has 1.2 million, in 1.5 GB.

    Raises:
        DataError: unreadable, no list, or broken before the next item.
    """
    decoder, buffer, before = json.JSONDecoder(), "", BEGIN
    try:
        with path.open(encoding="utf-8") as opened:
            while chunk := opened.read(CHUNK):
                buffer += chunk
                if before is BEGIN and buffer.strip() and not BEGIN.match(buffer):
                    raise DataError(f"{path}: no JSON list")
                place = 0
                with suppress(json.JSONDecodeError):  # the rest of an item is in the next chunk
                    while found := before.match(buffer, place):
                        item, end = decoder.raw_decode(buffer, found.end())
                        if isinstance(item, int | float) and not END.match(buffer, end):
                            break  # perhaps the first digits of a number
                        yield item
                        place, before = end, BETWEEN
                buffer = buffer[place:]
                if len(buffer) > LONGEST:
                    break
    except (OSError, UnicodeDecodeError, RecursionError) as error:
        raise DataError(f"{path}: cannot read it: {error}") from None
    if "".join(buffer.split()) != ("[]" if before is BEGIN else "]"):
        found = before.match(buffer)
        place = found.end() if found else 0
        raise DataError(f"{path}: broken JSON at {buffer[place : place + 60].strip()!r}")
