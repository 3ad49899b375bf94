"""Files that are whole or not there, and what is in them.

The one way to write what another step reads: aside, synced, renamed (`replacing`), or appended and
synced (`append`); the one way to read what a stranger may have made: `regular`, `read_text`,
`read_json`.
"""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from unime.errors import ConfigError, DataError

# an error of the system as libraries in Rust raise it, whose exceptions tell it by words alone
IN_RUST = re.compile(r"\(os error (\d+)\)")
os.umask(MASK := os.umask(0o022))  # it is read by setting it
READABLE = 0o666 & ~MASK
PARTIAL = ".partial"  # ends the name of what is being written, or deleted

APPENDING = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW


def write_json(path: Path, content: object) -> None:
    """Write aside, then rename."""
    write_aside(path, json.dumps(content, indent=1, allow_nan=False) + "\n")


def write_aside(path: Path, content: str | bytes) -> None:
    """Write a whole file, or leave the one that is there as it is."""
    with replacing(path) as aside:
        aside.write_bytes(content.encode("utf-8") if isinstance(content, str) else content)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Where to write a file or folder that takes the place of `path`, all of it on the disk, when
    the block is left in good order. If it fails, what was there stays, and what was written goes.

    Raises:
        OSError: it cannot be written; names `path`. Or a file would take the place of a folder.
    """
    aside, former = (path.with_name(path.name + end) for end in (PARTIAL, ".replaced"))
    _remove(aside)  # of a run that was killed, this and the next
    if former.exists() and not path.exists():
        former.rename(path)
    try:
        yield aside
        open_to_readers(aside)
        sync(aside)
        if path.is_dir():
            if not aside.is_dir():
                raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
            _remove(former)
            path.rename(former)
        os.replace(aside, path)
        sync(path.parent, below=False)
        _remove(former)
    except Exception as error:
        if (named := _of_path(error, path)) is error:
            raise
        raise named from error
    finally:
        if former.exists() and not path.exists():
            former.rename(path)
        _remove(aside)


def _of_path(error: Exception, path: Path) -> Exception:
    """An error of the system with the path that it is about; any other as it is."""
    found = IN_RUST.search(str(error))
    number = error.errno if isinstance(error, OSError) else int(found[1]) if found else None
    if number is None or getattr(error, "filename", None) is not None:
        return error
    return OSError(number, os.strerror(number), str(path))


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():  # of a link itself, whatever it leads to
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


@contextmanager
def writing(key: str, path: Path) -> Iterator[None]:
    """What is written here cannot be: a full disk, one that is read only, no such folder, …

    Args:
        key: the setting that names the path, for messages.

    Raises:
        ConfigError: an error of the system.
    """
    try:
        yield
    except Exception as error:
        if not isinstance(error, OSError) and IN_RUST.search(str(error)) is None:
            raise
        reason = " ".join(str(error).split())
        raise ConfigError(f"{key}: {path} cannot be written: {reason}", key) from error


def append(path: Path, content: str | bytes) -> None:
    """Add to the end of a file, on the disk when this returns; a kill may leave a part of it.

    Raises:
        OSError: it cannot be written, or is a link, which may lead to any other file.
    """
    is_new = not path.exists()
    with os.fdopen(os.open(path, APPENDING, 0o666), "ab") as file:
        file.write(content.encode("utf-8") if isinstance(content, str) else content)
        file.flush()
        os.fdatasync(file.fileno())
    if is_new:
        sync(path.parent, below=False)


def open_to_readers(path: Path) -> None:
    """Make a file, or all files below a folder, as readable as the umask says: safetensors writes
    them for their owner alone."""
    for found in path.rglob("*") if path.is_dir() else [path]:
        if found.is_file() and not found.is_symlink():
            found.chmod(stat.S_IMODE(found.stat().st_mode) | READABLE)


def sync(path: Path, below: bool = True) -> None:
    """Have a file, or a folder and (if `below`) all that is in it, on the disk: what a rename makes
    whole must not be empty after a power cut."""
    if below and path.is_dir():
        for entry in path.iterdir():
            if not entry.is_symlink():
                sync(entry)
    place = os.open(path, os.O_RDONLY)
    try:
        os.fsync(place)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.EBADF):  # a file system that syncs no folders
            raise
    finally:
        os.close(place)


def regular(path: Path) -> Path:
    """This path, if what is there, links followed, can be read without end: a file, or nothing.

    Raises:
        DataError: a pipe, a device, a socket or a folder, of which the first would be waited for.
    """
    try:
        mode = path.stat().st_mode
    except (OSError, ValueError):  # whoever opens it will say why
        return path
    if not stat.S_ISREG(mode):
        raise DataError(f"{path}: {'a folder' if stat.S_ISDIR(mode) else 'not a regular file'}")
    return path


def read_text(path: Path, key: str = "") -> str:
    """The text of a file in UTF-8, with "\\n" at the ends of its lines.

    Args:
        key: the setting that names the file, for messages.

    Raises:
        DataError: it cannot be read; a ConfigError if there is such a setting.
    """
    try:
        return regular(path).read_text(encoding="utf-8-sig")  # editors put a mark first
    except (OSError, ValueError) as error:  # a DataError names the path already
        known = isinstance(error, DataError)
        problem = str(error) if known else f"{path}: cannot read it: {error}"
        raise ConfigError(f"{key}: {problem}") if key else DataError(problem) from None


def read_json(path: Path, kind: type = dict, key: str = "") -> Any:
    """The content of a JSON file, which has to be an object (or a list).

    Args:
        key: the setting that names the file, for messages.

    Raises:
        DataError: it is not, or cannot be read; a ConfigError if there is such a setting.
    """
    text = read_text(path, key)
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        problem = f"{path}: cannot read it: {error}"
    else:
        if isinstance(value, kind):
            return value
        problem = f"{path}: expected a JSON {'object' if kind is dict else kind.__name__}"
    raise ConfigError(f"{key}: {problem}") if key else DataError(problem)


def inside(name: object) -> bool:
    """Whether this names something inside of a folder, however deep, by its path from there."""
    return isinstance(name, str) and not Path(name).is_absolute() and ".." not in Path(name).parts


def check_kinds(found: dict[str, Any], kinds: Mapping[str, Any], where: str) -> dict[str, Any]:
    """An object of a JSON file, if it has these keys and what belongs to them: a value of a type (a
    whole number is a float, too), or an object with keys of its own.

    Raises:
        DataError: it has not; `where` and the key are named.
    """
    for key, kind in kinds.items():
        value = found.get(key)
        within = kind if isinstance(kind, Mapping) else {}
        plain = dict if isinstance(kind, Mapping) else kind
        if isinstance(value, bool) or not isinstance(
            value, (int, float) if plain is float else plain
        ):
            name = "an object" if plain is dict else plain.__name__
            shown = repr(value)[:60] if key in found else "nothing"
            raise DataError(f"{where}, {key}: got {shown}, expected {name}")
        if isinstance(value, dict):
            check_kinds(value, within, f"{where}, {key}")
    return found
