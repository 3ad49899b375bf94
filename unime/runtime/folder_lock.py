"""One program at a time in a folder that is written."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import socket
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from threading import Event

from unime.errors import ConfigError, DataError
from unime.runtime.files import regular, replacing, writing

NAME = ".lock"
LENT = "UNIME_LENT"  # in a program's environment: the folder that the one which started it has
HELD: dict[Path, int] = {}  # the lock files of this process: closing one would give the lock up
FLAGS = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
TAKEN = (errno.EACCES, errno.EAGAIN)


def lock_folder(key: str, folder: Path) -> None:
    """Let no other program lock `folder` until this process ends, however it ends; it is made if it
    is not there. Where the file system knows no locks, a warning says so.

    A POSIX lock: it is the process's own, which its children do not inherit, so that nothing holds
    it once the process was killed; over NFS it holds on all hosts.

    Args:
        key: the setting that names the folder, for messages.

    Raises:
        ConfigError: another program has it; says which, where and since when. Or no such folder
            can be made.
    """
    path = folder.absolute() / NAME
    if (path in HELD and path.is_file()) or os.environ.get(LENT) == str(path.parent.resolve()):
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = os.open(regular(path), FLAGS, 0o666)
    except (OSError, DataError) as error:
        raise ConfigError(f"{key}: {folder} cannot be written: {error}") from None
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in TAKEN:
            holder = os.read(file, 4096)
            os.close(file)
            raise ConfigError(
                f"{key}: {folder} is in use by {_named(holder)}; wait for it, stop it, or name"
                " another folder"
            ) from None
        warnings.warn(
            f"{key}: {folder} cannot be locked ({error.strerror}): take care that no other program"
            " writes there",
            stacklevel=2,
        )
    if not _is_at(file, path):  # its holder took it away just now
        os.close(file)
        return lock_folder(key, folder)
    now = datetime.now(UTC).isoformat(timespec="seconds")
    holder = json.dumps({"pid": os.getpid(), "host": socket.gethostname(), "since": now}).encode()
    try:
        os.ftruncate(file, 0)
        os.pwrite(file, holder, 0)
    except OSError as error:
        os.close(file)
        raise ConfigError(f"{key}: {folder} cannot be written: {error}") from None
    HELD[path] = file


def unlock_folder(folder: Path) -> None:
    """Give the lock up before the process ends."""
    if (file := HELD.pop(folder.absolute() / NAME, None)) is not None:  # None: it was lent
        os.close(file)


def wait_until_free(folder: Path, patience: float, ended: Event) -> bool:
    """Whether no other program has a folder, or gives it up in so many seconds. Not for a folder
    that this process has itself: looking gives its lock up.

    Args:
        ended: once it is set, nobody waits on.
    """
    path, deadline = folder / NAME, time.monotonic() + patience
    while path.is_file():
        with path.open("r+b") as file:
            try:
                fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return True
            except OSError:
                if time.monotonic() > deadline:
                    return False
        if ended.wait(0.2):
            return False
    return True


@contextmanager
def locked(key: str, folder: Path) -> Iterator[None]:
    """Lock a folder while entered. At the end nothing is left of the lock, nor of the folder if it
    was made for it and nothing else is in it.

    Raises:
        ConfigError: another program has it, or it cannot be made.
    """
    path, was_there = folder.absolute() / NAME, folder.is_dir()
    before = HELD.get(path)
    lock_folder(key, folder)
    try:
        yield
    finally:
        mine = HELD.get(path)
        if mine is not None and mine != before:
            with suppress(OSError):
                if _is_at(mine, path):
                    path.unlink()
                if not was_there:
                    folder.rmdir()
            unlock_folder(folder)


@contextmanager
def new_folder(key: str, folder: Path) -> Iterator[Path]:
    """Where to write a folder that is not there yet, or is empty, and that is there as a whole when
    the block is left in good order; locked meanwhile.

    Raises:
        ConfigError: there is something in it, another program has it, or it cannot be written.
    """
    folder = Path(os.path.abspath(folder))
    if os.path.ismount(folder):
        raise ConfigError(f"{key}: {folder} is a disk of its own; name a folder in it", key)
    with locked(key, folder):
        if any(path.name != NAME for path in folder.iterdir()):
            raise ConfigError(f"{key}: {folder} exists already", key)
        with writing(key, folder), replacing(folder) as aside:
            yield aside


def _is_at(file: int, path: Path) -> bool:
    """Whether an open file is the one that lies there."""
    try:
        return os.path.samestat(os.fstat(file), path.stat(follow_symlinks=False))
    except OSError:
        return False


def _named(holder: bytes) -> str:
    try:
        found = json.loads(holder)
        return f"process {found['pid']} on {found['host']} since {found['since']}"
    except (ValueError, TypeError, KeyError):
        return "another program"
