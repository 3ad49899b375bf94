"""Pretrain the demo's base model from scratch on CPU.

    python -m data_prep.demo_base.pretrain --config configs/demo/base.yaml
    python -m data_prep.demo_base.pretrain --config configs/demo/base.yaml export=assets/base

The first goes on from its checkpoint if there is one. Vision tower first (classifying concepts),
then image -> name, then the mixture: in any other order the language model learns to answer without
looking. Matrix products run in bfloat16.
"""

from __future__ import annotations

import json
import random
import time
from dataclasses import dataclass, field
from pathlib import Path

import torch
import torch.nn.functional as F
from omegaconf import MISSING
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import AutoProcessor, Qwen2VLForConditionalGeneration

from data_prep.demo_base.batches import TokenBatch, answer_loss, stream
from data_prep.demo_base.conversations import Tasks
from data_prep.demo_base.metrics import measure
from data_prep.demo_base.model import (
    CHECKPOINT,
    build_config,
    build_processor,
    build_tokenizer,
    export,
    read_checkpoint,
)
from unime.config import dump_config, load_config
from unime.config.settings import BelowOne, FilePath, NotEmpty, Positive, Settings, setting
from unime.runtime.environment import git_commit, write_facts
from unime.runtime.files import replacing
from unime.runtime.interruption import heed_sigterm
from unime.runtime.program import run_program


@dataclass
class Phase:
    """A stretch of the run, up to a step of it, and what it trains on."""

    until: int | None = setting(None, "a step; null: the last one")
    mixture: dict[str, float] = setting({}, "kind of conversation -> share")


@dataclass
class PretrainConfig(Settings):
    output_dir: FilePath = setting(MISSING, "the run's folder")
    steps: Positive[int] = setting(MISSING, "of the whole run")
    phases: NotEmpty[dict[str, Phase]] = setting({}, 'in order; "vision" has its own loss')
    muon_learning_rate: Positive[float] = setting(2e-3, "of the hidden matrices")
    learning_rate: Positive[float] = setting(1.5e-3, "AdamW's, of everything else")
    weight_decay: float = setting(0.05, "of both optimizers")
    decay_start: BelowOne = setting(0.65, "share of the run after which rates fall to zero")
    warmup_steps: int = setting(40, "of each phase, and after a resumption")
    seed: int = setting(0, "of weights and data")
    threads: Positive[int] = setting(2, "of torch")
    save_minutes: float = setting(3.0, "between checkpoints")
    measure_minutes: float = setting(6.0, "between measurements")
    export: FilePath | None = setting(None, "write the checkpoint as a model there, and stop")


@dataclass
class Progress:
    """All that a resumed run needs besides tensors."""

    minutes: float = 0.0
    step: int = 0
    losses: dict[str, float] = field(default_factory=dict)


class Pretraining:
    """Model, optimizers and the running state of one pretraining run."""

    def __init__(self, config: PretrainConfig) -> None:
        self.config, self.out = config, Path(config.output_dir)
        torch.manual_seed(config.seed)
        torch.set_num_threads(config.threads)
        self.tasks = Tasks()
        write_facts(self.out, dump_config(config), git_commit())
        checkpoint = self.out / CHECKPOINT
        folder = self.out / "processor"
        if not checkpoint.exists():
            build_processor(build_tokenizer(self.tasks.corpus())).save_pretrained(folder)
        self.processor = AutoProcessor.from_pretrained(folder)
        self.model = Qwen2VLForConditionalGeneration(build_config(self.processor.tokenizer))
        # The CPU flash kernel's backward is slow on short sequences; saved weights don't care.
        self.model.set_attn_implementation("eager")
        self.head = nn.Linear(256, len(self.tasks.concepts))  # thrown away after the first phase
        self.labels = {concept.id: i for i, concept in enumerate(self.tasks.concepts)}
        self.optimizers = self._optimizers()
        self.progress = Progress()
        if checkpoint.exists():
            self.load(checkpoint)

    def _named(self) -> dict[str, nn.Parameter]:
        named = dict(self.model.named_parameters())
        return named | {f"head.{key}": value for key, value in self.head.named_parameters()}

    def _optimizers(self) -> dict[torch.optim.Optimizer, float]:
        """Muon for hidden matrices, AdamW for the rest, each with its rate."""
        matrices: list[nn.Parameter] = []
        rest: list[nn.Parameter] = []
        for name, parameter in self._named().items():
            hidden = parameter.ndim == 2 and "embed" not in name and "head" not in name
            (matrices if hidden else rest).append(parameter)
        decay = self.config.weight_decay
        muon = torch.optim.Muon(matrices, weight_decay=decay, adjust_lr_fn="match_rms_adamw")
        adamw = torch.optim.AdamW(rest, weight_decay=0.0, betas=(0.9, 0.98))
        return {muon: self.config.muon_learning_rate, adamw: self.config.learning_rate}

    def loss(self, batch: TokenBatch, phase: str) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            if phase != "vision":
                return answer_loss(self.model, batch)
            found = self.model.get_image_features(
                batch.inputs["pixel_values"], batch.inputs["image_grid_thw"]
            )
            features = torch.stack(found.pooler_output)  # (B, tokens, D)
            wanted = [self.labels[shown.objects[0][0].id] for shown in batch.conversations]
            logits = self.head(features.float().mean(1))
            return F.cross_entropy(logits.float(), torch.tensor(wanted))

    def step(self, batch: TokenBatch, phase: str, phase_step: int) -> float:
        loss = self.loss(batch, phase)
        loss.backward()
        nn.utils.clip_grad_norm_(self._named().values(), 1.0)
        share = self.progress.step / self.config.steps
        factor = min(1.0, (phase_step + 1) / self.config.warmup_steps)
        factor *= min(1.0, max(0.0, (1.0 - share) / (1.0 - self.config.decay_start)))
        for optimizer, rate in self.optimizers.items():
            for group in optimizer.param_groups:
                group["lr"] = rate * factor
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        return loss.item()

    def train(self) -> None:
        for name, phase in self.config.phases.items():
            end = min(phase.until or self.config.steps, self.config.steps)
            if self.progress.step < end:
                self._train_phase(name, phase, end)
                self.save()
        self.record(size=600)

    def _train_phase(self, name: str, phase: Phase, end: int) -> None:
        now, begun = self.progress, self.progress.step
        rng = random.Random(f"{self.config.seed}-{name}-{begun}")
        batches = stream(self.tasks, self.processor, phase.mixture, rng)
        self.model.train()
        saved = measured = logged = now.minutes
        while now.step < end:
            started = time.monotonic()
            batch = next(batches)
            loss = self.step(batch, name, now.step - begun)
            kind = name if name == "vision" else batch.kind
            now.losses[kind] = 0.97 * now.losses.get(kind, loss) + 0.03 * loss
            now.step += 1
            now.minutes += (time.monotonic() - started) / 60
            if now.minutes - logged > 0.5:
                self._log(name)
                logged = now.minutes
            if now.minutes - measured > self.config.measure_minutes and name != "vision":
                self.record()
                measured = now.minutes
            if now.minutes - saved > self.config.save_minutes:
                self.save()
                saved = now.minutes

    def _log(self, phase: str) -> None:
        now = self.progress
        losses = " ".join(f"{kind} {value:.3f}" for kind, value in now.losses.items())
        left = now.minutes / now.step * (self.config.steps - now.step)
        place = f"step {now.step} of {self.config.steps}, {now.minutes:.1f} min, {left:.1f} left"
        print(f"{phase} {place} | {losses}", flush=True)

    def record(self, size: int = 200) -> None:
        """Measure, and append to metrics.jsonl."""
        found = measure(self.model, self.processor, self.tasks, size)
        row = {"minutes": round(self.progress.minutes, 2), "step": self.progress.step, **found}
        with (self.out / "metrics.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
        print({key: value for key, value in row.items() if "/" not in key}, flush=True)

    def save(self) -> None:
        """Write the whole checkpoint, in place of the last one."""
        parts = {"model": self.model.state_dict(), "head": self.head.state_dict()}
        for number, optimizer in enumerate(self.optimizers):
            for parameter, moments in optimizer.state_dict()["state"].items():
                parts[f"optimizer {number} {parameter}"] = moments
        tensors = {
            f"{part}/{name}": tensor.detach().clone().contiguous()
            for part, named in parts.items()
            for name, tensor in named.items()
        }
        with replacing(self.out / CHECKPOINT) as aside:
            save_file(tensors, aside, {"progress": json.dumps(vars(self.progress))})

    def load(self, path: Path) -> None:
        parts, progress = read_checkpoint(path)
        self.model.load_state_dict(parts["model"])
        self.head.load_state_dict(parts["head"])
        for number, optimizer in enumerate(self.optimizers):
            moments = {
                int(part.split()[2]): named
                for part, named in parts.items()
                if part.startswith(f"optimizer {number} ")
            }
            optimizer.load_state_dict(optimizer.state_dict() | {"state": moments})
        self.progress = Progress(**progress)


def main(argv: list[str] | None = None) -> None:
    config = load_config(PretrainConfig, argv)
    if config.export:
        export(Path(config.output_dir), Path(config.export))
        return
    heed_sigterm()  # save before a polite kill, too
    pretraining = Pretraining(config)
    try:
        pretraining.train()
    except (KeyboardInterrupt, SystemExit) as stopped:
        pretraining.save()
        print("interrupted; the same command goes on from here")
        raise SystemExit(130 if isinstance(stopped, KeyboardInterrupt) else stopped.code) from None


if __name__ == "__main__":
    run_program(main)
