"""One program at a time in a folder that is written."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import socket
import warnings
from datetime import UTC, datetime
from pathlib import Path

from unime.errors import ConfigError, DataError
from unime.runtime.files import regular

NAME = ".lock"
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
    if path in HELD and path.is_file():
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
    HELD[path] = file
    now = datetime.now(UTC).isoformat(timespec="seconds")
    holder = json.dumps({"pid": os.getpid(), "host": socket.gethostname(), "since": now}).encode()
    os.ftruncate(file, 0)
    os.pwrite(file, holder, 0)


def unlock_folder(folder: Path) -> None:
    """Give the lock up before the process ends."""
    os.close(HELD.pop(folder.absolute() / NAME))


def _named(holder: bytes) -> str:
    try:
        found = json.loads(holder)
        return f"process {found['pid']} on {found['host']} since {found['since']}"
    except (ValueError, TypeError, KeyError):
        return "another program"
