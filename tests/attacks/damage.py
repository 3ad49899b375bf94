"""Damage that is generated: bytes flipped, files cut, headers that lie; the same in every run."""

from __future__ import annotations

import json
import os
import random
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.attacks.harness import Deed

Deeds = dict[str, Deed]


def flipped(path: str, count: int, first: int | None = None, at_once: int = 3) -> Deeds:
    """Bytes changed at random places of a file, or among so many first ones."""

    def flip(seed: int) -> None:
        draw = random.Random(f"{path} {seed}")
        content = bytearray(Path(path).read_bytes())
        most = min(len(content), first or len(content))
        for _ in range(at_once):
            content[draw.randrange(most)] ^= 1 << draw.randrange(8)
        Path(path).write_bytes(content)

    where = "bytes" if first is None else "head"
    return {f"{short(path)}-flipped-{where}-{n}": _with(flip, n) for n in range(count)}


def cut(path: str, count: int) -> Deeds:
    """A file that ends early: empty, after a byte, and at even distances."""

    def shorten(share: float) -> None:
        size = os.path.getsize(path)
        os.truncate(path, max(int(size * share), min(1, int(share * 1e9))))

    shares = [0.0, 1e-6, *((n + 1) / (count - 1) for n in range(count - 2))]
    shares[-1] = 0.9999
    return {f"{short(path)}-cut-{n}": _with(shorten, share) for n, share in enumerate(shares)}


def not_a_file(path: str) -> Deeds:
    """What would be waited for, or cannot be read, where a file should be."""

    def become(make: Callable[[], object]) -> None:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        Path(path).unlink(missing_ok=True)
        make()

    kinds: dict[str, Callable[[], object]] = {
        "fifo": lambda: os.mkfifo(path),
        "folder": lambda: os.mkdir(path),
        "endless": lambda: os.symlink("/dev/zero", path),
    }
    return {f"{short(path)}-{kind}": _with(become, make) for kind, make in kinds.items()}


JSON_TEXTS: dict[str, bytes] = {
    "deep": b"[" * 100_000 + b"]" * 100_000,
    "deep-object": b'{"a":' * 50_000 + b"1" + b"}" * 50_000,
    "list": b"[]",
    "null": b"null",
    "number": b"1e999",
    "long-number": b'{"a": ' + b"9" * 5_000 + b"}",
    "empty": b"",
    "utf-16": '{"a": 1}'.encode("utf-16"),
    "latin-1": b'{"a": "caf\xe9"}',
    "unfinished": b'{"a": ',
    "nul": b"\0\0\0\0",
    "not-json": b"<html>429 Too Many Requests</html>",
}


def no_json(path: str, *but: str) -> Deeds:
    """Other content than the JSON that should be there."""
    return {
        f"{short(path)}-{kind}": _with(write, path, content)
        for kind, content in JSON_TEXTS.items()
        if kind not in but
    }


def changed(path: str, changes: dict[str, Callable[[Any], object]]) -> Deeds:
    """A JSON file whose content was changed in place, by the name of the change."""

    def change(how: Callable[[Any], object]) -> None:
        content = json.loads(Path(path).read_text())
        how(content)
        Path(path).write_text(json.dumps(content))

    return {f"{short(path)}-{name}": _with(change, how) for name, how in changes.items()}


def values(path: str, key: str, *others: Any) -> Deeds:
    """A JSON file in which the value at a dotted key is another one."""

    def put(other: Any) -> Callable[[Any], object]:
        def change(content: Any) -> None:
            *above, last = key.split(".")
            for part in above:
                content = content[int(part) if isinstance(content, list) else part]
            content[last] = other

        return change

    return changed(path, {f"{key}-{_shown(other)}": put(other) for other in others})


def renamed(prefix: str, deeds: Deeds) -> Deeds:
    """The same under longer names, so that two victims can meet them."""
    return {f"{prefix}-{name}": deed for name, deed in deeds.items()}


def safetensors(header: Any, content: bytes = b"\0" * 64, length: int | None = None) -> bytes:
    """A file of safetensors with any header, which may lie about its own length."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    size = len(text) if length is None else length
    return struct.pack("<Q", size % 2**64) + text + content


def _tensor(dtype: str = "F32", shape: Any = (4, 4), offsets: Any = (0, 64)) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


LYING_HEADERS: dict[str, bytes] = {
    "length-huge": safetensors({}, length=2**63),
    "length-minus": safetensors({}, length=-1),
    "length-100-mb": safetensors({}, length=100_000_000),
    "length-zero": safetensors({}, length=0),
    "header-list": safetensors([]),
    "header-deep": safetensors(b'{"a":' * 20_000 + b"1" + b"}" * 20_000),
    "header-no-utf-8": safetensors(b'{"\xff": 1}'),
    "dtype-unknown": safetensors({"a": _tensor("F3")}),
    "dtype-number": safetensors({"a": _tensor(32)}),  # type: ignore[arg-type]
    "shape-negative": safetensors({"a": _tensor(shape=[-4, -4])}),
    "shape-huge": safetensors({"a": _tensor(shape=[2**40, 2**40])}),
    "shape-lies": safetensors({"a": _tensor(shape=[5, 5])}),
    "shape-none": safetensors({"a": _tensor(shape=None)}),
    "offsets-outside": safetensors({"a": _tensor(offsets=[2**40, 2**40 + 64])}),
    "offsets-backwards": safetensors({"a": _tensor(offsets=[64, 0])}),
    "offsets-overlap": safetensors({"a": _tensor(), "b": _tensor()}),
    "offsets-negative": safetensors({"a": _tensor(offsets=[-64, 0])}),
    "metadata-number": safetensors({"__metadata__": {"format": 1}, "a": _tensor()}),
    "metadata-list": safetensors({"__metadata__": [], "a": _tensor()}),
    "no-tensor": safetensors({}, content=b""),
    "other-tensor": safetensors({"a": _tensor()}),
    "million-names": safetensors(
        {f"t{n}": _tensor(shape=[0], offsets=[0, 0]) for n in range(20_000)}, content=b""
    ),
}


def lying_headers(path: str) -> Deeds:
    return {
        f"{short(path)}-{kind}": _with(write, path, content)
        for kind, content in LYING_HEADERS.items()
    }


class Payload:
    """Runs when it is unpickled."""

    def __reduce__(self) -> Any:
        pwned = os.path.abspath("../outside/pwned")
        return (os.system, (f"touch {pwned}",))


PAYLOAD_CODE = "import os\nopen(os.path.join({outside!r}, 'pwned'), 'w').close()\n"


def payload_code() -> str:
    """Python that leaves its mark where it is run."""
    return PAYLOAD_CODE.format(outside=os.path.abspath("../outside"))


def pickled(path: str) -> None:
    import pickle

    write(path, pickle.dumps(Payload()))


def write(path: str | Path, content: str | bytes) -> None:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_bytes(content.encode() if isinstance(content, str) else content)


def remove(path: str) -> None:
    if Path(path).is_dir():
        shutil.rmtree(path)
    else:
        Path(path).unlink()


def link(path: str, target: str) -> None:
    """Make a path a link, in place of what is there; from the folder that all of it is in."""
    if os.path.lexists(path):
        remove(path)
    os.symlink(os.path.abspath(target), path)


def short(path: str) -> str:
    return Path(path).name


def _shown(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) < 24 else f"{text[:20]}…{len(text)}"


def _with(action: Callable[..., object], *given: Any) -> Deed:
    return lambda: action(*given)
