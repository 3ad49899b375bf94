"""Where rows are that get negatives, and where these may be written."""

from __future__ import annotations

from pathlib import Path

from unime.config import BatchesConfig, JudgeConfig, MineConfig
from unime.data.prepared.folder import PreparedSet
from unime.errors import ConfigError

REPORTS = "mining"  # the folder of the tasks' reports


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
