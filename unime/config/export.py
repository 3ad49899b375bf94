"""Settings of an export."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from omegaconf import MISSING

from unime.config.model import Precision
from unime.config.values import FilePath


class ExportForm(Enum):
    merged = "merged"  # a model of its own
    adapter = "adapter"  # one LoRA adapter for peft


@dataclass
class ExportConfig:
    """Which run becomes which folder (stages.export)."""

    run: FilePath = MISSING  # run.output_dir of a stage, or a folder of adapters
    output_dir: FilePath = MISSING
    form: ExportForm = ExportForm.merged
    base: FilePath | None = None  # where the base model is, if not where the run found it
    precision: Precision | None = None  # of the merged weights; null: as the run computed
    trust_remote_code: bool = False  # of the base model
    code: bool = True  # carry the code that reads pictures as training did (trust_remote_code)
    max_shard_size: str = "5GB"
    report: FilePath | None = None  # report.json of an evaluation, for the model card
    name: str | None = None  # on the model card; null: the folder's
    license: str | None = None  # on the model card; that of the base model binds what is made of it
    push_to_hub: str | None = None  # repository to upload to
    private: bool = True  # that repository, if it does not exist
    dry_run: bool = False  # say what would be uploaded
