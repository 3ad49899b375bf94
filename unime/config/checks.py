"""Settings of checks: of pairs, before they are trained on, and of stores of embeddings."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated

from omegaconf import MISSING

from unime.config.model import InputConfig
from unime.config.settings import Bounds, FilePath, NotNegative, Settings, setting
from unime.config.training import Stage2Config


@dataclass
class DataCheck(Settings, section="check"):
    """How pairs are checked, and against what (stages.check)."""

    output_dir: FilePath | None = setting(
        None,
        "folder of the table of rows, the counts and the page; null: check/ in a prepared set, "
        "else in run.output_dir",
    )
    against: FilePath | None = setting(
        None,
        "an evaluation's configuration (configs/eval/…): rows that show a query or right answer of "
        "its tasks are named",
    )
    near: Annotated[int, Bounds("in [0, 64]", lambda value: 0 <= value <= 64)] = setting(
        6, "bits by which the perceptual hashes (64 bits) of near-duplicates may differ"
    )
    num_workers: NotNegative[int] | None = setting(
        None, "processes that read pictures; null: one a core"
    )


@dataclass
class SetCheckConfig(Settings):
    """stages.check of a prepared set, of which all tasks are looked at."""

    root: FilePath = setting(MISSING, "the prepared set")
    model: FilePath | None = setting(
        None,
        "hub id or folder of a model whose processor looks at the items, or a configuration that "
        "trains one (configs/own/…), whose inputs then count, too; null: none does",
    )
    inputs: InputConfig = field(default_factory=InputConfig)
    check: DataCheck = field(default_factory=DataCheck)


@dataclass
class Stage2CheckConfig(Stage2Config):
    """A stage-2 configuration and how its data are checked."""

    check: DataCheck = field(default_factory=DataCheck)


@dataclass
class CheckConfig(Settings):
    """stages.check: which stores of embeddings are looked at."""

    store: FilePath = setting(MISSING, "a store, or a folder that holds some")
    repair: bool = setting(False, "take damaged rows out, so that they are embedded again")
