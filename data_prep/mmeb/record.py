"""What was done with MMEB: notes to go on by, and the record for whoever trains or asks."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import yaml

from data_prep.mmeb.archives import Inside
from data_prep.mmeb.needed import Part
from data_prep.mmeb.sources import Listed, Source
from unime.config import MmebConfig
from unime.config.reading.descriptions import made_otherwise
from unime.errors import DataError
from unime.runtime.files import check_kinds, read_json, write_aside, write_json

NOTES, RECORD, STAGE2 = ".prepare.json", "prepared.json", "stage2.yaml"


@dataclass
class Notes:
    """What is done already, written whenever something is.

    Attributes:
        source: name and commit, which a killed run goes on with.
        files: of what was verified: size, time of its last change, sha256.
        archives: what was unpacked: files and bytes.
    """

    folder: Path
    source: dict[str, Any] = field(default_factory=dict)
    files: dict[str, Any] = field(default_factory=dict)
    archives: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, folder: Path) -> Notes:
        """Those of a folder, or none; damaged ones cost what was done."""
        try:
            found = read_json(folder / NOTES)
            kinds = {"source": dict, "files": dict, "archives": dict}
            return cls(folder, **{key: check_kinds(found, kinds, NOTES)[key] for key in kinds})
        except DataError:
            return cls(folder)

    def revision(self, name: str) -> str | None:
        """The commit of this source that was begun with."""
        return self.source.get("revision") if self.source.get("name") == name else None

    def is_begun(self, source: Source) -> bool:
        """Whether they are of this source."""
        return self.source == {"name": source.name, "revision": source.revision}

    def begun(self, source: Source) -> Notes:
        """With this source: of another nothing is known."""
        if not self.is_begun(source):
            self.source = {"name": source.name, "revision": source.revision}
            self.files, self.archives = {}, {}
            self._write()
        return self

    def knows(self, name: str, path: Path, listed: Listed) -> bool:
        """Whether this very file was verified."""
        noted = self.files.get(name)
        if not isinstance(noted, list) or len(noted) != 3 or noted[:2] != _state(path):
            return False
        return noted[0] == listed.size and listed.sha256 in (None, noted[2])

    def verified(self, name: str, path: Path, sha256: str) -> None:
        self.files[name] = [*_state(path), sha256]
        self._write()

    def is_unpacked(self, source: Source, name: str) -> bool:
        noted = self.archives.get(name)
        return isinstance(noted, dict) and noted.get("archive") == source.files[name].size

    def unpacked(self, source: Source, name: str, found: Inside) -> None:
        self.archives[name] = {"archive": source.files[name].size, **asdict(found)}
        self._write()

    def _write(self) -> None:
        content = {"source": self.source, "files": self.files, "archives": self.archives}
        write_json(self.folder / NOTES, content)


def _state(path: Path) -> list[int]:
    found = path.stat()
    return [found.st_size, found.st_mtime_ns]


def write_record(config: MmebConfig, part: Part, notes: Notes, counts: dict[str, int]) -> None:
    """prepared.json: what was taken from where."""
    files = {name: {"size": one[0], "sha256": one[2]} for name, one in sorted(notes.files.items())}
    record: dict[str, Any] = {
        "source": notes.source, "split": part.split, "rows": counts, "files": files,
        "archives": notes.archives, "asked": asked(config, part),
    }  # fmt: skip
    if part.key == "train":
        record |= {"chosen": chosen(config, counts), "sample": config.sample, "seed": config.seed}
    write_json(part.folder / RECORD, record)


def asked(config: MmebConfig, part: Part) -> dict[str, Any]:
    """The settings that decide what is in a part's folder, and which of its rows are trained on."""
    made = _source_of(part, part.source.name, part.source.revision)
    if part.key == "train":
        made |= {name: getattr(config, name) for name in ("split", "rows", "sample")}
        made |= {"subsets": sorted(part.rows)}
        made |= {"seed": config.seed} if config.sample == "random" else {}
    return made


def unfit(config: MmebConfig, part: Part) -> str:
    """Why a part's folder cannot take what is asked for; "": it can."""
    now, path = asked(config, part), part.folder / RECORD
    source = _source_of(part, part.source.name, part.source.revision)
    is_own = part.folder.resolve() == Path(part.source.name).resolve()  # nothing else is there
    if (begun := Notes.of(part.folder).source) and not is_own:
        was = _source_of(part, begun.get("name"), begun.get("revision"))
        if words := made_otherwise(part.folder, was, source):
            return words
    if not path.is_file():
        return ""
    made = check_kinds(read_json(path), {"asked": dict}, str(path))["asked"]
    words = made_otherwise(part.folder, made | source if is_own else made, now)
    return words and f"{words}, or remove {path}, which is then written anew"


def _source_of(part: Part, name: str | None, revision: str | None) -> dict[str, Any]:
    return {f"{part.key}_source": name, f"{part.key}_revision": revision}


def chosen(config: MmebConfig, counts: dict[str, int]) -> dict[str, int]:
    """How many rows of each subset are trained on."""
    return {name: min(config.rows or count, count) for name, count in counts.items()}


def write_stage2(config: MmebConfig, part: Part, counts: dict[str, int]) -> str:
    """stage2.yaml: the `data` section that trains on the chosen rows; returns how to use it."""
    rows = chosen(config, counts)
    sources = {
        name: {"rows": count} | ({"sample": "random"} if config.sample == "random" else {})
        for name, count in rows.items()
    }
    data = {"root": str(part.folder), "split": part.split, "sources": sources}
    content: dict[str, Any] = {"data": data}
    if config.sample == "random":
        content["run"] = {"seed": config.seed}
    path = part.folder / STAGE2
    head = f"# {sum(rows.values()):,} rows of {len(rows)} subsets, by ./launch.sh prepare mmeb\n"
    write_aside(path, head + yaml.safe_dump(content, sort_keys=False, allow_unicode=True))
    return f"{path}: the data section of stage 2, {sum(rows.values()):,} rows"
