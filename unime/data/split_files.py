"""Which files of a repository, downloaded as it is on the hub, hold the rows of a split.

As on the hub, the repository's README.md decides if it declares its configurations. Else it is the
files' names: ``<subset>/<split>-00000-of-00001.parquet``, or ``data/`` or the root itself in place
of the subset, or one whole file ``<split>.parquet`` (``.jsonl``, ``.json``). What else lies there,
stale files of other splits and sets, is never read.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath
from typing import Any

from yaml.nodes import MappingNode

from unime.config.reading.values import pairs, read_node
from unime.config.reading.yaml_files import LONGEST_YAML, parse_yaml
from unime.errors import DataError
from unime.runtime.files import regular

SUFFIXES = ("parquet", "jsonl", "json")
SHARD = re.compile(rf"(.+)-(\d{{5}})-of-(\d{{5}})(?:-[0-9a-f]+)?\.({'|'.join(SUFFIXES)})")
WHOLE = re.compile(rf"(.+)\.({'|'.join(SUFFIXES)})")
FRONT_MATTER = re.compile(r"\s*---[ \t]*\n(.*?)\n---[ \t]*(?:\n|$)", re.DOTALL)
HUB_CACHE = re.compile(r"(datasets|models|spaces)--")
WILD = re.compile(r"[*?[]")
MOST_WILD = 100  # patterns of one split, each of which is a look at the folder


class MissingSplitError(DataError):
    """No file of a split is there."""


def split_files(root: Path, subset: str | None, split: str) -> list[Path]:
    """The files of a split, in their order.

    Args:
        subset: a configuration or folder; None: the only or default one, or ``data/`` or the root.

    Raises:
        MissingSplitError: no such subset or split.
        DataError: a shard is missing, or it is not clear which files.
    """
    config = _declared(root, subset)
    if config is not None:
        place = f"{root / 'README.md'}: configuration {config.get('config_name')!r}"
        folder = root / inside(config.get("data_dir") or ".", f"{place}: data_dir")
        if "data_files" in config:
            return _declared_files(place, folder, config["data_files"], split)
        return _named(folder, split)
    if subset is not None:
        inside(subset, f"{root}: subset")
        if not (root / subset).is_dir():
            have = sorted(entry.name for entry in root.iterdir() if split in _splits(entry))
            listed = ", ".join(have) or "none"
            raise MissingSplitError(
                f"{root}: no subset {subset!r}; subsets with split {split!r}: {listed}"
            )
        return _named(root / subset, split)
    only = root / "data" if (root / "data").is_dir() else root
    if split in _splits(only):
        return _named(only, split)
    below = sorted(entry for entry in root.iterdir() if split in _splits(entry))
    if len(below) > 1:
        names = ", ".join(entry.name for entry in below)
        raise DataError(f"{root}: split {split!r} is in several folders, name a subset: {names}")
    return _named(below[0] if below else only, split)


def inside(path: Any, key: str) -> str:
    """A path that names something in a folder, itself or below.

    Raises:
        DataError: no path, or one that leads out of the folder; names `key` and the value.
    """
    if not isinstance(path, str) or not path:
        raise DataError(f"{key}: got {path!r}, expected a path")
    pure = PurePosixPath(path.replace("\\", "/"))
    if pure.is_absolute() or ".." in pure.parts or ":" in path.split("/")[0]:
        raise DataError(f"{key}: {path!r} leaves the folder")
    return path


def boundary(root: str | Path, follow_links: bool) -> str:
    """The folder out of which no link in `root` may lead, for `check_inside`: the root's own place,
    links followed; in the hub's cache, where files are links to blobs beside them, the repository's
    folder.

    Args:
        follow_links: links may lead anywhere.
    """
    if follow_links:
        return os.sep
    place = Path(os.path.realpath(root))
    for folder in (place, *place.parents):
        if folder.name == "snapshots" and HUB_CACHE.match(folder.parent.name):
            return str(folder.parent)
    return str(place)


def check_inside(path: str | Path, within: str) -> None:
    """Refuse what a link leads elsewhere: a stranger's folder could show any file of the machine.

    Raises:
        DataError: it does; names the path and the setting.
    """
    place = os.path.realpath(path)
    if place != within and not place.startswith(os.path.join(within, "")):
        raise DataError(
            f"{path}: a link leads out of {within}; follow_links=true (data.follow_links=true of a"
            " configuration), if all links there are yours"
        )


def _splits(folder: Path) -> dict[str, list[Path]]:
    """The files of a folder that are called after a split, in their order."""
    found: dict[str, list[Path]] = {}
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        if named := SHARD.fullmatch(path.name) or WHOLE.fullmatch(path.name):
            found.setdefault(named[1], []).append(path)
    return found


def _named(folder: Path, split: str) -> list[Path]:
    """The files that are called after the split."""
    if not folder.is_dir():
        raise MissingSplitError(f"{folder}: no such folder")
    found = _splits(folder)
    if split not in found:
        has = ", ".join(sorted(found)) or f"no .{', .'.join(SUFFIXES)} file"
        raise MissingSplitError(f"{folder}: no split {split!r}; it has {has}")
    return _complete(folder, split, found[split])


def _complete(folder: Path, split: str, files: list[Path]) -> list[Path]:
    """These files, if they are all shards of one split, or a single file."""
    shards = [SHARD.fullmatch(file.name) for file in files]
    numbers = [(int(found[2]), int(found[3])) for found in shards if found]
    listed = ", ".join(file.name for file in files)
    if len({file.suffix for file in files}) > 1 or 0 < len(numbers) < len(files):
        raise DataError(f"{folder}: split {split!r} is there more than once: {listed}")
    if numbers and numbers != [(place, len(files)) for place in range(len(files))]:
        raise DataError(f"{folder}: incomplete split {split!r}: {listed}")
    return files


def _declared(root: Path, subset: str | None) -> dict[str, Any] | None:
    """What README.md says of this configuration; None: it does not declare it."""
    listed = _front_matter(root / "README.md").get("configs")
    listed = listed if isinstance(listed, list) else []
    configs = [entry for entry in listed if isinstance(entry, dict)]
    if subset is None and len(configs) == 1:
        return configs[0]
    for config in configs:
        name = config.get("config_name")
        if name == subset or subset is None and (config.get("default") or name == "default"):
            return config
    return None


def _front_matter(readme: Path) -> dict[str, Any]:
    """What stands in YAML at the head of a README.md; nothing: there is none, or no mapping."""
    try:
        with regular(readme).open(encoding="utf-8-sig") as file:
            head = file.read(2 * LONGEST_YAML)
        found = FRONT_MATTER.match(head)
        without_end = head.startswith("---") and len(head) == 2 * LONGEST_YAML
        node = parse_yaml(found[1] if found else head if without_end else "")
        if not isinstance(node, MappingNode):
            return {}
        return {
            name: read_node(value, Any, name, typed=False)
            for name, value in pairs(node, dict, "")
            if name == "configs"
        }
    except FileNotFoundError:
        return {}
    except DataError:
        raise
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{readme}: cannot read what it declares: {error}") from None


def _declared_files(place: str, folder: Path, data_files: Any, split: str) -> list[Path]:
    from datasets.data_files import sanitize_patterns  # slow to import, and seldom needed

    key = f"{place}: data_files"
    try:
        splits = sanitize_patterns(data_files)  # paths without a split are those of "train"
    except (ValueError, TypeError):
        raise DataError(f"{key}: got {data_files!r}, expected a path, or paths by split") from None
    if split not in splits:
        raise MissingSplitError(f"{place} has no split {split!r}; it has {', '.join(splits)}")
    patterns = [inside(pattern, key) for pattern in splits[split]]
    if sum(WILD.search(pattern) is not None for pattern in patterns) > MOST_WILD:
        raise DataError(f"{key}: more than {MOST_WILD} patterns")
    found = {pattern: _found(folder, pattern, key) for pattern in patterns}
    files = [file for own in found.values() for file in own]
    if missing := [pattern for pattern, own in found.items() if not own]:
        raise (DataError if files else MissingSplitError)(f"{place}: there is no {missing[0]!r}")
    for file in files:
        if file.suffix[1:] not in SUFFIXES:
            raise DataError(f"{file}: expected one of .{', .'.join(SUFFIXES)}")
    return _complete(folder, split, list(dict.fromkeys(files)))


def _found(folder: Path, pattern: str, key: str) -> list[Path]:
    """The files that a pattern names, in their order."""
    parts = PurePosixPath(pattern).parts
    if not parts or parts.count("**") > 1:
        raise DataError(f"{key}: got {pattern!r}, expected a pattern with at most one **")
    try:
        return sorted(_matching(folder, parts))
    except FileNotFoundError:
        return []
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{key}: cannot look for {pattern!r}: {error}") from None


def _matching(folder: Path, parts: tuple[str, ...]) -> Iterator[Path]:
    """The files that a pattern names, but for hidden ones and those below linked folders, which may
    lead in circles; ``**`` stands for any folders, or none."""
    first, rest = parts[0], parts[1:]
    if not WILD.search(first):
        if rest:
            yield from _matching(folder / first, rest)
        elif (folder / first).exists():
            yield folder / first
        return
    if first == "**" and rest:
        yield from _matching(folder, rest)
    with os.scandir(folder) as entries:
        fitting = [e for e in entries if fnmatchcase(e.name, first) and not e.name.startswith(".")]
    for entry in fitting:
        if entry.is_dir(follow_symlinks=False):
            if first == "**" or rest:
                yield from _matching(folder / entry.name, parts if first == "**" else rest)
        elif not rest and not entry.is_dir():
            yield folder / entry.name
