"""Features on the disk: what a frozen tower made of a picture, for later epochs, runs and
evaluations.

A folder for each tower (`tower_fingerprint`); in it a file for each process that ever wrote, which
no other touches, so that ranks and programs share the folder without waiting for each other. A file
is records, one behind the other:

    magic, lengths of head and body, key, checksum of all of it | head: JSON | body: tensors

A record counts when all of it is there, and is held against its checksum whenever it is read: one
that a kill cut off, or the disk damaged, is computed again. It is a cache, so nothing waits for the
disk, and a disk that is full ends the writing, not the run. Records are read, not mapped: what cuts
a mapped file ends the process that looks at it, and they leave for the device anyway.
"""

from __future__ import annotations

import json
import logging
import os
import struct
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from zlib import crc32

import torch

from unime.models.features.fingerprint import memory_of
from unime.models.features.frozen import Features
from unime.runtime.files import APPENDING, writing

log = logging.getLogger("unime")

KEY = "inputs.feature_store"
MAGIC, END = b"UFS1", ".features"
START = struct.Struct("<4sIQ16sI")  # magic, bytes of head and body, key, CRC-32
CHECKED = START.size - 4  # bytes of it that stand before the checksum
ALIGNMENT = 16  # of the body, so that any type may lie there
TYPES = {str(kind).removeprefix("torch."): kind for kind in (torch.float32, torch.float16)}
TYPES["bfloat16"] = torch.bfloat16
HUGE = 1 << 63


class DamagedError(Exception):
    """A record that is not as it was written."""


@dataclass(frozen=True)
class Place:
    """Where a record lies."""

    file: str
    offset: int
    size: int


class FeatureStore:
    """The features of one tower in a folder, which others may be adding to.

    Args:
        folder: of the stores of all towers.
        fingerprint: of the tower.
        most_bytes: that all files in `folder` may have; when they do, no more are written.

    Raises:
        ConfigError: the folder cannot be made.
    """

    def __init__(self, folder: Path, fingerprint: str, most_bytes: int) -> None:
        self.root, self.folder, self.most_bytes = folder, folder / fingerprint, most_bytes
        with writing(KEY, folder):
            self.folder.mkdir(parents=True, exist_ok=True)
        self._places: dict[bytes, list[Place]] = {}  # whole ones, any of which may be damaged
        self._seen: dict[str, int] = {}  # bytes of each file whose records are known
        self._own = f"{uuid.uuid4().hex}{END}"
        self._closed = False  # to writing

    def get(self, keys: Sequence[bytes]) -> list[Features | None]:
        """The features of these units, on the CPU; None: they are not there."""
        if not all(key in self._places for key in keys):
            self._look()
        return [self._read(key) for key in keys]

    def put(self, keys: Sequence[bytes], features: Sequence[Features]) -> None:
        """Keep what is not there yet, as far as there is room."""
        new = {k: f for k, f in zip(keys, features, strict=True) if k not in self._places}
        if not new or self._closed:
            return
        records = [_record(key, unit) for key, unit in new.items()]
        if self._size() + sum(map(len, records)) > self.most_bytes:
            self._close(f"full ({self.most_bytes / 2**30:g} GiB, inputs.feature_store_gib)")
            return
        try:
            file = os.open(self.folder / self._own, APPENDING, 0o666)
            with os.fdopen(file, "ab", buffering=0) as own:
                offset = own.seek(0, os.SEEK_END)
                for key, record in zip(new, records, strict=True):
                    if own.write(record) != len(record):
                        raise OSError("the disk is full")
                    self._places.setdefault(key, []).append(Place(self._own, offset, len(record)))
                    offset += len(record)
        except OSError as error:  # what is behind a torn record would never be found
            self._close(f"cannot be written: {error}")

    def _close(self, reason: str) -> None:
        self._closed = True
        log.warning("%s: %s: %s; no more features are kept", KEY, self.root, reason)

    def _size(self) -> int:
        """Bytes of all stores in the folder."""
        sizes = 0
        for path in self.root.glob(f"*/*{END}"):
            try:
                sizes += path.stat().st_size
            except OSError:  # just deleted
                continue
        return sizes

    def _look(self) -> None:
        """Learn of the records that others have added."""
        for path in self.folder.glob(f"*{END}"):
            try:
                self._look_into(path)
            except OSError:  # just deleted, or not ours to read
                continue

    def _look_into(self, path: Path) -> None:
        at, size = self._seen.get(path.name, 0), path.stat().st_size
        if path.name == self._own or size - at < START.size:
            return
        with path.open("rb") as file:
            while size - at >= START.size:
                file.seek(at)
                magic, head, body, key, _ = START.unpack(file.read(START.size))
                if magic != MAGIC:
                    log.warning("%s: %s: damaged at byte %d: the rest is left", KEY, path, at)
                    at = HUGE
                    break
                length = START.size + head + body
                if at + length > size:  # it is being written, or was when its writer was killed
                    break
                self._places.setdefault(key, []).append(Place(path.name, at, length))
                at += length
        self._seen[path.name] = at

    def _read(self, key: bytes) -> Features | None:
        places = self._places.get(key, [])
        while places:
            place = places[0]
            path = self.folder / place.file
            try:
                with path.open("rb") as file:
                    file.seek(place.offset)
                    record = bytearray(place.size)
                    file.readinto(record)
                return _features(key, record)
            except FileNotFoundError:  # somebody made room
                pass
            except (OSError, DamagedError) as error:
                reason = "damaged" if isinstance(error, DamagedError) else str(error)
                then = "another copy is read" if places[1:] else "computed again"
                log.warning("%s: %s, byte %d: %s; %s", KEY, path, place.offset, reason, then)
            places.pop(0)  # another run may have computed it again
        self._places.pop(key, None)
        return None


def _record(key: bytes, features: Features) -> bytes:
    tensors = [
        (name, str(value.dtype).removeprefix("torch."), list(value.shape))
        for name, value in features.items()
    ]
    head = json.dumps(tensors).encode()
    head += b" " * (-(START.size + len(head)) % ALIGNMENT)
    body = b"".join(map(memory_of, features.values()))
    start = START.pack(MAGIC, len(head), len(body), key, 0)[:CHECKED]
    checksum = crc32(body, crc32(start + head))
    return b"".join([start, checksum.to_bytes(4, "little"), head, body])


def _features(key: bytes, record: bytearray) -> Features:
    """The tensors of a record, which share its memory.

    Raises:
        DamagedError: it is not the one that was written.
    """
    _, head, _, written, checksum = START.unpack_from(record)
    whole = memoryview(record)
    if written != key or crc32(whole[START.size :], crc32(whole[:CHECKED])) != checksum:
        raise DamagedError
    at, features = START.size + head, {}
    for name, kind, shape in json.loads(bytes(whole[START.size : at])):
        count = prod(shape)
        features[name] = torch.frombuffer(record, dtype=TYPES[kind], count=count, offset=at)
        features[name] = features[name].view(shape)
        at += features[name].nbytes
    return features
