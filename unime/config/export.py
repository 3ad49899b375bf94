"""Settings of an export."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum
from typing import Annotated

from omegaconf import MISSING

from unime.config.model import Precision
from unime.config.settings import Bounds, FilePath, Settings, setting

Size = Annotated[str, Bounds("such as 5GB", re.compile(r"\d+[KMGT]B").fullmatch)]


class ExportForm(Enum):
    merged = "merged"
    adapter = "adapter"


@dataclass
class ExportConfig(Settings):
    """Which run becomes which folder (stages.export)."""

    run: FilePath = setting(MISSING, "run.output_dir of a stage, or a folder of adapters")
    output_dir: FilePath = setting(MISSING, "the folder that is written")
    form: ExportForm = setting(ExportForm.merged, "a model, or one LoRA adapter for peft")
    base: FilePath | None = setting(None, "where the base model is, if not where the run found it")
    precision: Precision | None = setting(None, "of the merged weights; null: as the run computed")
    trust_remote_code: bool = setting(False, "run the code that the base model brings")
    code: bool = setting(True, "carry the code that reads pictures as training did")
    max_shard_size: Size = setting("5GB", "of a file of weights")
    report: FilePath | None = setting(None, "report.json of an evaluation, for the model card")
    name: str | None = setting(None, "on the model card; null: the folder's")
    license: str | None = setting(None, "on the card; the base model's binds all made of it")
    push_to_hub: str | None = setting(None, "repository to upload to")
    private: bool = setting(True, "that repository, if it does not exist")
    dry_run: bool = setting(False, "say what would be uploaded")
