"""A folder of data that is made as a whole, and kept where it was made the same way."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from unime.errors import ConfigError
from unime.runtime.files import read_json, replacing, write_json, writing
from unime.runtime.folder_lock import NAME as LOCK
from unime.runtime.folder_lock import locked

SUMMARY = "summary.json"  # in the folder; written last


def make_once(
    output_dir: Path, facts: Mapping[str, Any], other: str, make: Callable[[Path], dict[str, Any]]
) -> dict[str, Any] | None:
    """Make the folder, unless it was made of the same facts.

    Args:
        facts: of everything that decides what is made.
        other: what a folder is that somebody else has made, for messages.
        make: writes into a folder and returns what is said of it in SUMMARY.

    Returns:
        What `make` did; None: the folder is kept.

    Raises:
        ConfigError: the folder is somebody else's, another program has it, or it cannot be written.
    """
    with locked("output_dir", output_dir):
        summary = output_dir / SUMMARY
        said = read_json(summary) if summary.is_file() else {}
        if said.get("facts") == facts:
            print(f"{output_dir}: made with the same settings already")
            return None
        if "facts" not in said and any(path.name != LOCK for path in output_dir.iterdir()):
            raise ConfigError(f"output_dir: {output_dir} is there and {other}")
        with writing("output_dir", output_dir), replacing(output_dir) as aside:
            found = make(aside)
            write_json(aside / SUMMARY, {"facts": facts, **found})
    return found
