"""Where MMEB's files come from: a repository of the hub, or a folder that is laid out as it."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Protocol

from huggingface_hub import HfApi, hf_hub_url
from huggingface_hub.errors import HfHubHTTPError, HFValidationError
from huggingface_hub.file_download import http_get
from huggingface_hub.utils import build_hf_headers

from unime.data.split_files import boundary, check_inside
from unime.errors import ConfigError, DataError
from unime.runtime.files import PARTIAL, regular, replacing, sync

SHA256 = re.compile(r"[0-9a-f]{64}")
NOTES = ".cache/huggingface/download"  # where the hub's client notes what it downloaded
PIECE = 1 << 20  # bytes at a time
# No such name; an OSError, and what the library that the client uses raises.
NETWORK: tuple[type[Exception], ...] = (HFValidationError, *HfHubHTTPError.__bases__)  # type: ignore[assignment]
Progress = Callable[[int], object]


@dataclass(frozen=True)
class Listed:
    """A file of a source: its size, and its sha256 if that is known."""

    name: str
    size: int
    sha256: str | None = None


class Source(Protocol):
    """Files by their names.

    Attributes:
        revision: of the hub; None: a folder has none.
        is_remote: what is asked for is downloaded.
    """

    name: str
    is_remote: bool
    files: dict[str, Listed]

    @property
    def revision(self) -> str | None: ...

    def table(self, name: str, folder: Path) -> Path:
        """A small file, put into a folder under its name."""

    def archive(self, name: str, folder: Path) -> Path:
        """A large one, wherever it then is."""


@dataclass
class HubSource:
    """A repository of data, at one commit."""

    name: str
    revision: str
    files: dict[str, Listed]
    is_remote: bool = True

    @classmethod
    def of(cls, key: str, name: str, revision: str | None) -> HubSource:
        """As it is on the hub.

        Raises:
            ConfigError: it cannot be had.
        """
        try:
            found = HfApi().dataset_info(name, revision=revision, files_metadata=True)
        except NETWORK as error:
            reason = " ".join(str(error).split())
            lacking = "no folder, and not to be had from the hub"
            raise ConfigError(f"{key}: {name!r}: {lacking}: {reason}", key) from None
        listed = {
            one.rfilename: Listed(one.rfilename, one.size or 0, one.lfs.sha256 if one.lfs else None)
            for one in found.siblings or ()
        }
        return cls(name, found.sha or revision or "", listed)

    def table(self, name: str, folder: Path) -> Path:
        """Download it, going on with what is there of it (which `hf_hub_download` does not)."""
        target, size = folder / name, self.files[name].size
        if target.exists():
            return target
        partial_file = target.with_name(target.name + PARTIAL)
        partial_file.parent.mkdir(parents=True, exist_ok=True)
        with partial_file.open("ab") as file:
            if file.tell() > size:
                file.truncate(0)
            url = hf_hub_url(self.name, name, repo_type="dataset", revision=self.revision)
            try:
                http_get(url, file, resume_size=file.tell(), headers=build_hf_headers(),
                         expected_size=size, displayed_filename=name)  # fmt: skip
            except NETWORK as error:
                if getattr(error, "errno", None) is not None:  # of the disk
                    raise
                reason = " ".join(str(error).split())
                raise ConfigError(
                    f"{self.name}: {name} cannot be downloaded: {reason}; the same command goes on"
                ) from None
        sync(partial_file)
        partial_file.replace(target)
        return target

    archive = table


@dataclass
class FolderSource:
    """A folder of a copy."""

    folder: Path
    files: dict[str, Listed] = field(init=False)
    revision: str | None = None
    is_remote: bool = False

    def __post_init__(self) -> None:
        within = boundary(self.folder, follow_links=False)
        self.name = os.path.abspath(self.folder)
        self.files = {}
        for path in sorted(self.folder.glob("*")) + sorted(self.folder.glob("*/*")):
            if path.is_file() and not path.name.startswith("."):
                check_inside(path, within)
                name = path.relative_to(self.folder).as_posix()
                self.files[name] = Listed(name, path.stat().st_size, self._noted(name))

    def _noted(self, name: str) -> str | None:
        """The sha256 that the hub's client noted of a file that it downloaded here."""
        notes = self.folder / NOTES / f"{name}.metadata"
        lines = notes.read_text("utf-8", "replace").splitlines() if notes.is_file() else []
        return next(filter(SHA256.fullmatch, lines[1:2]), None)

    def table(self, name: str, folder: Path) -> Path:
        """Copy it, unless the folder is this one."""
        source, target = regular(self.folder / name), folder / name
        if not (target.exists() and target.samefile(source)):
            target.parent.mkdir(parents=True, exist_ok=True)
            with replacing(target) as aside:
                shutil.copyfile(source, aside)
        return target

    def archive(self, name: str, folder: Path) -> Path:
        """It stays where it is."""
        return regular(self.folder / name)


def open_source(key: str, name: str, revision: str | None) -> Source:
    """A folder if there is one, or a repository of the hub.

    Raises:
        ConfigError: neither is there, or a folder with a revision.
    """
    if not Path(name).is_dir():
        return HubSource.of(f"{key}_source", name, revision)
    if revision is not None:
        raise ConfigError(f"{key}_revision: got {revision!r}, and {name} is a folder")
    return FolderSource(Path(name))


def check_file(path: Path, listed: Listed, progress: Progress = lambda size: None) -> str:
    """Compare a file with what its source says of it; returns its sha256.

    Raises:
        DataError: another size or sha256.
    """
    size = regular(path).stat().st_size
    if size != listed.size:
        raise DataError(f"{path}: {size} bytes, where {listed.size} were expected; remove it")
    digest = hashlib.sha256()
    with path.open("rb") as file:
        for piece in iter(partial(file.read, PIECE), b""):
            digest.update(piece)
            progress(len(piece))
    found = digest.hexdigest()
    if listed.sha256 not in (None, found):
        raise DataError(f"{path}: sha256 {found}, where {listed.sha256} was expected; remove it")
    return found
