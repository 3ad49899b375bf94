"""A stand-in for the encoder, small enough to train in a second, and one start of a run with it."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional

from unime.config import (
    DistillationLossConfig,
    Mixing,
    ModelConfig,
    OptimConfig,
    ResumeConfig,
    RunConfig,
    Stage1Config,
    TextData,
)
from unime.data.datasets import TextRow
from unime.data.sampler import GlobalBatchSampler
from unime.losses import LossOutput, distillation_loss
from unime.training.checkpoints import checkpoint
from unime.training.chunks import Batch, ChunkLimits
from unime.training.loop import train
from unime.training.metrics import read_lines
from unime.training.run import start_run

WIDTH = 12
TIMING = ("texts_per_second", "tokens_per_second", "seconds", "memory_gib", "kept_graphs")


class StandIn(nn.Module):
    """What the loop needs of an Encoder: chunks to unit rows, trained parameters by name."""

    def __init__(self, dropout: float) -> None:
        super().__init__()
        torch.manual_seed(7)
        self.frozen = nn.Linear(WIDTH, 16).requires_grad_(False)
        self.register_buffer("constant", torch.ones(1))  # which DDP sends around, as of real models
        self.adapter = nn.Sequential(nn.Dropout(dropout), nn.Linear(16, 8), nn.LayerNorm(8))

    def forward(self, chunk: list[dict[str, Tensor]]) -> Tensor:
        features = torch.cat([part["features"] for part in chunk])
        return functional.normalize(self.adapter(self.frozen(features)), dim=1)

    def trainable_named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        return ((name, p) for name, p in self.named_parameters() if p.requires_grad)

    def describe(self) -> str:
        return "a stand-in"

    def save_adapters(self, folder: Path, writes: bool) -> None:
        if not writes:
            return
        folder.mkdir(parents=True, exist_ok=True)
        tensors = {name: p.detach() for name, p in self.trainable_named_parameters()}
        save_file(tensors, folder / "adapter.safetensors")

    def load_trained(self, folder: Path) -> None:
        saved = load_file(folder / "adapter.safetensors")
        with torch.no_grad():
            for name, parameter in self.trainable_named_parameters():
                parameter.copy_(saved[name])


def rows(count: int = 40) -> list[TextRow]:
    vectors = torch.randn(count, WIDTH, generator=torch.Generator().manual_seed(3))
    vectors = functional.normalize(vectors, dim=1)
    return [TextRow(f"text {i}", vector, f"f:{i}") for i, vector in enumerate(vectors)]


def collate(batch: Sequence[TextRow]) -> Batch:
    teacher = torch.stack([row.teacher for row in batch])
    masks = torch.ones(len(batch), 2)
    parts = zip(teacher.split(3), masks.split(3), strict=True)
    chunks = [[{"features": chunk, "attention_mask": mask}] for chunk, mask in parts]
    groups, row_ids = {"text": len(batch)}, [row.row_id for row in batch]
    return Batch(chunks, groups, {"teacher": teacher}, row_ids, num_truncated=1)


def make_config(folder: Path, batch_size: int = 8, **settings: Any) -> Stage1Config:
    run = {"output_dir": str(folder), "log_every": 2, "save_every": 2, "save_total_limit": 9}
    optim = {"steps": 6, "chunk_size": 3, "learning_rate": 1e-2, "warmup_steps": 2}
    groups: dict[Any, dict[str, Any]] = {
        RunConfig: run | {"trackers": []},
        ResumeConfig: {},
        OptimConfig: optim | {"batch_size_per_device": batch_size},
    }
    for name, value in settings.items():
        groups[next(cls for cls in groups if name in cls.__dataclass_fields__)][name] = value
    made_run, resume, made_optim = (cls(**group) for cls, group in groups.items())
    model, data = ModelConfig(name="stand-in"), TextData(texts=["texts.csv"], teacher="teacher")
    return Stage1Config(run=made_run, resume=resume, optim=made_optim, model=model, data=data)


def fit(
    config: Stage1Config,
    dropout: float = 0.3,
    signal_at: int = 0,
    signum: int = signal.SIGINT,
    signal_rank: int = 0,
    while_collating: bool = False,
    nan_at: int = 0,
    dataset: list[TextRow] | None = None,
    encoder: StandIn | None = None,
    collator: Callable[..., Batch] | None = None,
) -> StandIn:
    """One start of a run; `signal_at`: a real signal to this process during that step's loss, or
    while its rows are collated."""
    run = start_run(config)
    encoder, data = encoder or StandIn(dropout), dataset or rows()
    if run.take_data(data, {"text": len(data)}, {"texts": 3}):
        return encoder
    sampler = GlobalBatchSampler({"text": len(data)}, run.global_batch_size, Mixing.mixed, 0)
    calls = batches = 0
    before = checkpoint.read_state(run.checkpoint)["step"] if run.checkpoint else 0

    def interrupt(step: int) -> None:
        if step == signal_at and run.accelerator.process_index == signal_rank:
            os.kill(os.getpid(), signum)

    def prepare(batch: Sequence[TextRow]) -> Batch:
        nonlocal batches
        batches += 1
        if while_collating:
            interrupt(before + batches)
        return collate(batch)

    def loss(
        embeddings: dict[str, Tensor], labels: dict[str, Tensor], step: int | None = None
    ) -> LossOutput:
        nonlocal calls
        calls += 1
        if not while_collating:
            interrupt(before + calls)
        output = distillation_loss(
            embeddings["text"], labels["teacher"], DistillationLossConfig(0.1, 0.1)
        )
        if before + calls == nan_at:
            output.loss = output.loss * float("nan")
        return output

    collate.limits = prepare.limits = ChunkLimits(3, 3)  # type: ignore[attr-defined]
    chosen = collator or (prepare if while_collating else collate)  # workers take no closure
    train(run, encoder, data, sampler, chosen, loss)  # type: ignore[arg-type]
    return encoder


def outcome(folder: Path, step: int = 6) -> dict[str, Any]:
    """Everything that must be the same: parameters, optimizer, metrics but for the clock."""
    last = folder / "checkpoints" / f"step_{step:08d}"
    tensors = load_file(last / "adapter.safetensors") | load_file(last / "optimizer.safetensors")
    lines = read_lines(folder / "metrics.jsonl")
    for line in lines:
        for name in TIMING:
            line.pop(name)
    random = {path.name: path.read_bytes() for path in sorted(last.glob("random_*.safetensors"))}
    return {"tensors": tensors, "lines": lines, "random": random}


def assert_same(first: dict[str, Any], second: dict[str, Any]) -> None:
    assert first["lines"] == second["lines"]
    torch.testing.assert_close(first["tensors"], second["tensors"], rtol=0, atol=0)
    assert first["random"] == second["random"]


class Collapsed(StandIn):
    """Gives different texts nearly one embedding."""

    def forward(self, chunk: list[dict[str, Tensor]]) -> Tensor:
        constant = functional.normalize(torch.ones(1, 8), dim=1)
        return functional.normalize(1e-3 * super().forward(chunk) + constant, dim=1)
