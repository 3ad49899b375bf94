"""A step of ours, through the same files, settings and trainer as stage 2's program."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import redirect_stderr
from io import StringIO
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.cpu.frame import FirstStep
from benchmarks.cpu.material import Material
from benchmarks.gpu.exactness import fill_adapters
from tests.support.paths import ROOT
from unime.config import Stage2Config, build_config
from unime.data.datasets import PairDataset
from unime.data.sampler import GlobalBatchSampler
from unime.inputs.items import Pair
from unime.losses import LossOutput, instruction_loss
from unime.models.encoder import Encoder
from unime.training.chunks import Batch, ChunkLimits
from unime.training.collator import PairCollator
from unime.training.run import start_run
from unime.training.trainer import Trainer

RATE = 1e-6
CHUNK = 8
SAME = (  # for both sides
    f"model.name={ROOT / 'assets/base'}", "model.quantization=none", "model.precision=float32",
    "lora.dropout=0", "lora.train=[llm]",
    "loss.temperature=0.05", "loss.num_hard_negatives=null", "loss.false_negative_margin=null",
    "optim.steps=1000000", f"optim.learning_rate={RATE}", "optim.schedule=constant",
    "optim.max_grad_norm=null", "optim.on_collapse=warn", f"optim.chunk_size={CHUNK}",
    "run.trackers=[]",
)  # fmt: skip


def configured(material: Material, output: Path, *settings: str) -> Stage2Config:
    """The settings of a step.

    Raises:
        ConfigError: one of them is not among this version's.
    """
    words = [*SAME, *material.settings, f"run.output_dir={output}", *settings]
    return build_config(Stage2Config, None, words)


def loaded(config: Stage2Config) -> Encoder:
    """Equal for equal seeds, with adapters that do something."""
    torch.manual_seed(0)
    encoder = Encoder.load(config.model, config.inputs, lora=config.lora)
    fill_adapters(encoder)
    return encoder.train()


class Ours:
    """What stage 2's program does with these settings.

    Attributes:
        pairs: the rows of every batch.
    """

    def __init__(self, name: str, material: Material, folder: Path, *settings: str) -> None:
        self.name = name
        config = configured(material, folder, *settings)
        with redirect_stderr(StringIO()):  # what a run says of itself
            run = start_run(config)
        logging.getLogger("unime").setLevel(logging.ERROR)
        encoder = loaded(config)
        dataset = PairDataset.load(config.data, config.run.seed, encoder.processor)
        run.take_data(dataset, dataset.task_sizes, {"queries": 2, "targets": 2})
        sampler = GlobalBatchSampler(dataset.task_sizes, material.size, config.data.mixing, 0)
        self.config, self.encoder = config, encoder
        self.collate = PairCollator(
            encoder.processor, ChunkLimits.of(config.optim), apart=encoder.vision.reuses_features
        )
        self.trainer = Trainer(run, encoder, dataset, sampler, self.collate)
        self.pairs = batches(list(dataset), material.size)

    def prepare(self) -> list[Batch]:
        """What the trainer takes, of all batches."""
        return [self.collate(pairs) for pairs in self.pairs]

    def step(self, prepared: list[Batch]) -> None:
        for batch in prepared:
            self._chunks = len(batch.chunks)
            self.trainer.take_step(batch, self._loss, lambda: 0)

    @property
    def kept(self) -> str:
        """Graphs of the last step that were kept, of its chunks."""
        return f"{self.trainer.graphs.kept} of {self._chunks}"

    def first_step(self) -> FirstStep:
        """Loss and gradients of the first batch; no parameter moves."""
        taken: dict[str, Tensor] = {}

        def take(optimizer: torch.optim.Optimizer, *_: Any) -> None:
            for name, parameter in self.encoder.trainable_named_parameters():
                if parameter.grad is not None:
                    taken[name] = parameter.grad.clone()
                parameter.grad = None

        hook = self.trainer.optimizer.optimizer.register_step_pre_hook(take)
        values = self.trainer.take_step(self.collate(self.pairs[0]), self._loss, lambda: 0)
        hook.remove()
        return FirstStep(values["loss"], taken)

    def _loss(
        self, embeddings: dict[str, Tensor], labels: dict[str, Tensor], step: int | None = None
    ) -> LossOutput:
        return instruction_loss(embeddings, as_theirs(labels), self.config.loss, step)


def as_theirs(labels: dict[str, Tensor]) -> dict[str, Tensor]:
    """Labels by which every other target is a negative, equal ones too: theirs knows no keys, and
    the two losses shall be the same."""
    queries, targets = len(labels["query_key"]), len(labels["target_key"])
    keys = torch.arange(queries + targets)
    return labels | {"query_key": keys[:queries], "target_key": keys[queries:]}


def batches(pairs: Sequence[Pair], size: int) -> list[list[Pair]]:
    return [list(pairs[start : start + size]) for start in range(0, len(pairs), size)]
