"""Suites of evaluation tasks: which there are, and which average each belongs to."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from pathlib import Path

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from unime.config import ConfigError

DISTRIBUTIONS = ("ind", "ood")  # training held rows of this task, or not


@dataclass(frozen=True)
class Task:
    meta_task: str  # classification, vqa, retrieval, grounding, …
    distribution: str


def load_suite(path: str, selection: list[str] | None = None) -> dict[str, Task]:
    """The tasks of a YAML file ``name: {meta_task: …, distribution: ind|ood}``, in its order.

    Args:
        selection: names to keep; None: all.

    Raises:
        ConfigError: unreadable, an entry that is wrong, a selected task that is not there.
    """
    try:
        loaded = OmegaConf.load(Path(path))
        content = OmegaConf.to_container(loaded) if isinstance(loaded, DictConfig) else None
    except (OSError, YAMLError, OmegaConfBaseException) as error:
        raise ConfigError(f"{path}: not a suite of tasks: {error}") from None
    if not isinstance(content, dict) or not content:
        raise ConfigError(
            f"{path}: not a suite of tasks: expected task: {{meta_task, distribution}}"
        )
    suite = {str(name): _task(path, str(name), entry) for name, entry in content.items()}
    if selection is None:
        return suite
    for name in selection:
        if name not in suite:
            near = difflib.get_close_matches(name, suite, n=1, cutoff=0.0)[0]
            raise ConfigError(f"data.tasks: {path} has no task {name!r}; the nearest is {near!r}")
    return {name: task for name, task in suite.items() if name in selection}


def _task(path: str, name: str, entry: object) -> Task:
    keys = sorted(map(str, entry)) if isinstance(entry, dict) else []
    if not isinstance(entry, dict) or keys != ["distribution", "meta_task"]:
        raise ConfigError(f"{path}: {name}: got {entry!r}, expected meta_task and distribution")
    if entry["distribution"] not in DISTRIBUTIONS:
        got = entry["distribution"]
        raise ConfigError(f"{path}: {name}.distribution: got {got!r}, expected ind or ood")
    return Task(str(entry["meta_task"]), entry["distribution"])
