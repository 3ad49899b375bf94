"""Where the data of an evaluation lie: rows, pictures and frames, in folders or on the hub.

A suite's task names its `repository`. Below ``data.root`` a folder of that name is taken if there
is one (``data/VLM2Vec/Kinetics-700``), laid out as on the hub; else it comes from the hub, at the
revision that the suite pins. Pictures and frames of videos lie below ``data.image_root``, or else
below ``data.root``.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import hf_hub_download

from unime.config import EvalData
from unime.data.split_files import boundary, check_inside, inside
from unime.data.tables import ImageFolder, Table, image_folder, load_table
from unime.errors import DataError
from unime.inputs.images import suffix_of
from unime.runtime.files import regular

READ_AT_ONCE = 16  # pages of several MB each: a corpus of thousands is never in memory


@dataclass(frozen=True)
class EvalSource:
    """The data of an evaluation, as its configuration names them."""

    data: EvalData

    def rows(
        self,
        repository: str | None,
        subset: str | None,
        split: str,
        revision: str | None,
        required: tuple[str, ...],
        optional: tuple[str, ...] = (),
    ) -> Table:
        """The rows of a split, with these columns.

        Args:
            repository: None: ``data.root`` itself, at ``data.revision``.

        Raises:
            DataError: no such folder, repository, subset, split or column.
        """
        place, pinned = self.data.root, self.data.revision
        if repository is not None:
            local = self.folder(repository)
            place, pinned = (str(local), None) if local is not None else (repository, revision)
        if place is None:
            raise DataError("data.root: null, expected where this task's rows are")
        links = self.data.follow_links
        return load_table(place, subset, split, pinned, required, optional, links)

    def folder(self, repository: str) -> Path | None:
        """The local folder of a repository, below ``data.root``; None: there is none.

        Raises:
            DataError: ``data.root`` is no folder, or the name, or a link, leads out of it.
        """
        if self.data.root is None:
            return None
        if not Path(self.data.root).is_dir():
            raise DataError(
                f"data.root: no folder {self.data.root!r} (null: repositories are taken from the"
                " hub)"
            )
        below = Path(self.data.root, inside(repository, "repository")).absolute()
        check_inside(below, boundary(self.data.root, self.data.follow_links))
        return below if below.is_dir() else None

    def file(self, repository: str, path: str, revision: str | None) -> Path:
        """One file of a repository: of its local folder if there is one, else of the hub.

        Raises:
            DataError: no such file, repository or revision, or a link that leads elsewhere.
        """
        local, path = self.folder(repository), inside(path, "file")
        if local is not None:
            check_inside(local / path, boundary(local, self.data.follow_links))
            if not regular(local / path).is_file():
                raise DataError(f"{local}: no file {path!r}")
            return local / path
        try:
            found = hf_hub_download(repository, path, repo_type="dataset", revision=revision)
        except (OSError, ValueError) as error:
            reason = f"{type(error).__name__}: {error}"
            where = f"data.root: no folder {repository!r} in {self.data.root!r}"
            raise DataError(f"{where}, and of the hub no file {path!r}: {reason}") from None
        return Path(found)

    def images(self, *below: str) -> ImageFolder:
        """Where pictures lie: ``data.image_root``, else ``data.root`` and folders `below` it."""
        if self.data.root is None and self.data.image_root is None:
            return ImageFolder([], "")  # whoever looks for a picture is told
        root, links = self.data.root or "", self.data.follow_links
        return image_folder(root, self.data.image_root, list(below), links)

    def frames(self, folder: str) -> tuple[str, ...]:
        """The frames of the video whose folder this is, relative to where pictures lie.

        Raises:
            DataError: no such folder, it leads elsewhere, or it holds no pictures.
        """
        return self.images().frames(folder)

    def keep_image(self, value: Any) -> str:
        """The path of a picture that a table holds as bytes (``{"bytes": …}``), which is written
        below ``data.cache`` by its content, as it is.

        Raises:
            DataError: no bytes, or not those of a picture that can be read.
        """
        content = value.get("bytes") if isinstance(value, dict) else None
        if not isinstance(content, bytes):
            raise DataError(f"got {type(value).__name__} without bytes, expected a picture")
        try:
            suffix = suffix_of(content)
        except Exception:  # Pillow raises nearly anything on damaged files
            raise DataError(f"not a picture: it begins with {content[:8]!r}") from None
        name = hashlib.blake2b(content, digest_size=16).hexdigest()
        path = Path(self.data.cache).absolute() / name[:2] / f"{name}{suffix}"
        if not path.is_file() or path.read_bytes() != content:  # a power cut leaves nothing of it
            path.parent.mkdir(parents=True, exist_ok=True)
            aside = path.with_name(f".{path.name}.{os.getpid()}")  # other ranks write it too
            aside.write_bytes(content)
            os.replace(aside, path)
        return str(path)
