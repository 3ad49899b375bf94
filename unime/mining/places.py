"""Where rows are that get negatives, and where these may be written."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from unime.config import BatchesConfig, JudgeConfig, MineConfig
from unime.config.reading.descriptions import made_otherwise
from unime.data.prepared.folder import PreparedSet
from unime.errors import ConfigError
from unime.retrieval.fingerprint import plain
from unime.retrieval.stored import StoredModel

REPORTS = "mining"  # the folder of the tasks' reports
SAME_ROWS = {  # settings that decide nothing of what is written
    *("output_dir", "store", "batch_size", "num_workers", "ray", "mining.memory"),
    *("clusters.memory", "data.verify_images", "data.follow_links", "inputs.feature_store"),
    "inputs.feature_store_gib",
}


def tasks_of(config: MineConfig | JudgeConfig | BatchesConfig) -> list[str]:
    """All tasks of a local folder, by name.

    Raises:
        ConfigError: it has none, or is no folder.
    """
    root = Path(config.data.root)
    split = config.data.split
    known = PreparedSet.of(root)
    if known is not None:
        wanted = split or "train"
        found = [task for task, rows in known.rows.items() if rows.get(wanted)]
    else:
        wanted = split or "original"
        found = [path.parent.name for path in root.glob(f"*/{wanted}-*.parquet")]
    if not found:
        raise ConfigError(
            f"data.tasks: {root} has no folder of a task with {wanted}-….parquet; name them",
            "data.tasks",
        )
    return sorted(set(found))


def made_with(
    config: MineConfig | JudgeConfig | BatchesConfig, models: Sequence[StoredModel]
) -> dict[str, Any]:
    """Settings, names and contents of the models, for whoever reads it and for `refuse_other`;
    asked for on all ranks together."""
    return {
        "settings": plain(config),
        "models": [model.found.describe() for model in models],
        "contents": [model.fingerprint for model in models],
    }


def refuse_other(folder: Path, made: Mapping[str, Any], asked: Mapping[str, Any]) -> None:
    """Refuse a folder that holds what other settings or models made.

    Args:
        made: as of `made_with`, with more parts perhaps.

    Raises:
        ConfigError: names the settings that differ.
    """
    if words := made_otherwise(folder, _deciding(made), _deciding(asked)):
        raise ConfigError(f"output_dir: {words}", "output_dir")


def _deciding(made: Mapping[str, Any]) -> dict[str, Any]:
    """By its dotted key what decides over the rows that are written."""
    found: dict[str, Any] = {
        "content of the model": made.get("contents"),
        "data.answer_column": None,  # of older versions, which had none
    }
    for key, value in made.get("settings", {}).items():
        parts = value.items() if isinstance(value, dict) else [("", value)]
        found |= {f"{key}.{part}".rstrip("."): entry for part, entry in parts}
    if (root := found.get("data.root")) is not None:
        found["data.root"] = os.path.abspath(root)
    return {key: value for key, value in found.items() if key not in SAME_ROWS}


def check_output(output: Path, root: Path, made: str = "mined") -> None:
    """Refuse to write into the data, or over others.

    Raises:
        ConfigError: output_dir is one of the two.
    """
    here, there = output.resolve(), root.resolve()
    if here == there or there in here.parents or here in there.parents:
        expected = f"a folder beside data.root ({root})"
        raise ConfigError(f"output_dir: got '{output}', expected {expected}", "output_dir")
    known = PreparedSet.of(output)
    if known is not None and made not in known.source:
        raise ConfigError(f"output_dir: {output} is another prepared set", "output_dir")
