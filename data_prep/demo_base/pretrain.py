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
import shutil
import signal
import time
from dataclasses import dataclass, field
from pathlib import Path

import torch
import torch.nn.functional as F
from omegaconf import MISSING
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import AutoProcessor, PreTrainedTokenizerFast

from data_prep.demo_base.batches import ConversationTokens, TokenBatch, answer_loss, stream
from data_prep.demo_base.conversations import Tasks
from data_prep.demo_base.fast_forward import vision_features
from data_prep.demo_base.metrics import measure
from data_prep.demo_base.model import build_model, build_processor, build_tokenizer, export
from unime.config import dump_config, load_config
from unime.config.values import FilePath
from unime.errors import require
from unime.runtime.environment import git_commit, write_facts
from unime.runtime.program import run_program


@dataclass
class Phase:
    """A stretch of the run, up to a step of it, and what it trains on."""

    until: int | None = None  # None: the last step
    mixture: dict[str, float] = field(default_factory=dict)  # kind of conversation -> share


@dataclass
class PretrainConfig:
    output_dir: FilePath = MISSING
    steps: int = MISSING
    phases: dict[str, Phase] = field(default_factory=dict)  # in order; "vision" has its own loss
    muon_learning_rate: float = 2e-3  # of the hidden matrices
    learning_rate: float = 1.5e-3  # AdamW's, of everything else
    weight_decay: float = 0.05
    decay_start: float = 0.65  # share of the run after which the rates fall linearly to zero
    warmup_steps: int = 40  # of each phase, and after a resumption
    seed: int = 0
    threads: int = 2
    save_minutes: float = 3.0
    measure_minutes: float = 6.0
    export: FilePath | None = None  # write the checkpoint there, as a model folder, and stop

    def __post_init__(self) -> None:
        for name in ("steps", "muon_learning_rate", "learning_rate", "threads"):
            require(getattr(self, name) > 0, name, getattr(self, name), "positive")
        require(0 <= self.decay_start < 1, "decay_start", self.decay_start, "in [0, 1)")
        require(bool(self.phases), "phases", "{}", "at least one")


@dataclass
class Progress:
    """All that a resumed run needs besides tensors."""

    minutes: float = 0.0
    step: int = 0
    images: int = 0
    losses: dict[str, float] = field(default_factory=dict)


class Pretraining:
    """Model, optimizers and the running state of one pretraining run."""

    def __init__(self, config: PretrainConfig) -> None:
        self.config, self.out = config, Path(config.output_dir)
        torch.manual_seed(config.seed)
        self.tasks = Tasks()
        write_facts(self.out, dump_config(config), git_commit())
        resume = (self.out / "checkpoint").exists() or (self.out / "checkpoint.new").exists()
        self.tokenizer = self._tokenizer(resume)
        self.tokens = ConversationTokens(self.tokenizer)
        self.model = build_model(self.tokenizer)
        # The CPU flash kernel's backward is slow on short sequences; saved weights don't care.
        self.model.model.language_model.config._attn_implementation = "eager"
        self.head = nn.Linear(256, len(self.tasks.concepts))  # thrown away after the first phase
        self.labels = {concept.id: i for i, concept in enumerate(self.tasks.concepts)}
        self.optimizers = self._optimizers()
        self.progress = Progress()
        if resume:
            self.load()

    def _tokenizer(self, resume: bool) -> PreTrainedTokenizerFast:
        folder = self.out / "processor"
        if not resume:
            build_processor(build_tokenizer(self.tasks.corpus())).save_pretrained(folder)
        return AutoProcessor.from_pretrained(folder).tokenizer

    def _named(self) -> dict[str, nn.Parameter]:
        named = dict(self.model.named_parameters())
        return named | {f"head.{key}": value for key, value in self.head.named_parameters()}

    def _optimizers(self) -> list[torch.optim.Optimizer]:
        """Muon for hidden matrices, AdamW for embeddings, patches, norms and biases."""
        matrices: list[nn.Parameter] = []
        rest: list[nn.Parameter] = []
        for name, parameter in self._named().items():
            hidden = parameter.ndim == 2 and "embed" not in name and "head" not in name
            (matrices if hidden else rest).append(parameter)
        muon = torch.optim.Muon(
            matrices,
            lr=self.config.muon_learning_rate,
            weight_decay=self.config.weight_decay,
            adjust_lr_fn="match_rms_adamw",
        )
        adamw = torch.optim.AdamW(
            rest, lr=self.config.learning_rate, weight_decay=0.0, betas=(0.9, 0.98)
        )
        for optimizer in (muon, adamw):
            for group in optimizer.param_groups:
                group["base_lr"] = group["lr"]
        return [muon, adamw]

    def loss(self, batch: TokenBatch, phase: str) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            if phase != "vision":
                return answer_loss(self.model, batch)
            assert batch.patches is not None and batch.size is not None
            features = vision_features(self.model.model.visual, batch.patches, batch.size)
            wanted = [
                self.labels[conversation.objects[0][0].id] for conversation in batch.conversations
            ]
            logits = self.head(features.float().mean(1))
            return F.cross_entropy(logits.float(), torch.tensor(wanted))

    def step(self, batch: TokenBatch, phase: str, phase_step: int) -> float:
        loss = self.loss(batch, phase)
        loss.backward()
        parameters = [p for p in self._named().values() if p.grad is not None]
        nn.utils.clip_grad_norm_(parameters, 1.0)
        share = self.progress.step / self.config.steps
        factor = min(1.0, (phase_step + 1) / self.config.warmup_steps)
        factor *= min(1.0, max(0.0, (1.0 - share) / (1.0 - self.config.decay_start)))
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = group["base_lr"] * factor
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        return loss.item()

    def train(self) -> None:
        for name, phase in self.config.phases.items():
            if self.progress.step < self._end(phase):
                self._train_phase(name, phase)
                self.save()
        self.record(size=600)

    def _end(self, phase: Phase) -> int:
        return min(phase.until or self.config.steps, self.config.steps)

    def _train_phase(self, name: str, phase: Phase) -> None:
        rng = random.Random(f"{self.config.seed}-{name}-{self.progress.step}")
        batches = stream(self.tasks, self.tokens, phase.mixture, rng)
        self.model.train()
        saved = measured = logged = self.progress.minutes
        phase_step, threads = 0, ThreadChooser(self.config.threads)
        while self.progress.step < self._end(phase):
            started = time.monotonic()
            batch = next(batches)
            count, began = threads.choose(), time.monotonic()
            loss = self.step(batch, name, phase_step)
            threads.note(count, batch.input_ids.numel() / (time.monotonic() - began))
            self._note(name if name == "vision" else batch.kind, loss)
            phase_step += 1
            now = self.progress
            now.step += 1
            now.images += len(batch.conversations)
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

    def _note(self, kind: str, loss: float) -> None:
        old = self.progress.losses.get(kind, loss)
        self.progress.losses[kind] = 0.97 * old + 0.03 * loss

    def _log(self, phase: str) -> None:
        now = self.progress
        losses = " ".join(f"{kind} {value:.3f}" for kind, value in now.losses.items())
        rate = now.images / (now.minutes * 60)
        left = now.minutes / now.step * (self.config.steps - now.step)
        print(
            f"{phase} step {now.step} of {self.config.steps}, {now.minutes:.1f} min, "
            f"{left:.1f} left, "
            f"{rate:.0f} samples/s, {torch.get_num_threads()} threads | {losses}",
            flush=True,
        )

    def record(self, size: int = 200) -> None:
        """Measure, and append to metrics.jsonl."""
        found = measure(self.model, self.tokens, self.tasks, size)
        row = {"minutes": round(self.progress.minutes, 2), "step": self.progress.step, **found}
        with (self.out / "metrics.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
        print({key: value for key, value in row.items() if "/" not in key}, flush=True)

    def save(self) -> None:
        """Write the whole checkpoint aside, then swap it in."""
        aside, place = self.out / "checkpoint.new", self.out / "checkpoint"
        shutil.rmtree(aside, ignore_errors=True)
        aside.mkdir()
        save_file({k: v.detach().contiguous() for k, v in self._named().items()}, aside / "weights")
        state = {
            f"{i}.{j}.{key}": value.clone()
            for i, optimizer in enumerate(self.optimizers)
            for j, slots in optimizer.state_dict()["state"].items()
            for key, value in slots.items()
        }
        save_file(state, aside / "optimizer")
        (aside / "progress.json").write_text(json.dumps(vars(self.progress)))
        shutil.rmtree(place, ignore_errors=True)
        aside.rename(place)

    def load(self) -> None:
        place = self.out / "checkpoint"
        if not place.exists() and (self.out / "checkpoint.new").exists():
            place = self.out / "checkpoint.new"  # the last save was cut off between its two moves
        weights = load_file(place / "weights")
        with torch.no_grad():
            for name, parameter in self._named().items():
                parameter.copy_(weights[name])
        tensors = load_file(place / "optimizer")
        for i, optimizer in enumerate(self.optimizers):
            state = optimizer.state_dict()
            for key, value in tensors.items():
                number, index, slot = key.split(".", 2)
                if int(number) == i:
                    state["state"].setdefault(int(index), {})[slot] = value
            optimizer.load_state_dict(state)
        self.progress = Progress(**json.loads((place / "progress.json").read_text()))


class ThreadChooser:
    """Keep the thread count that is faster right now.

    Beside another busy process, two threads can be ten times slower than one: every parallel
    loop waits for the thread that was put aside.
    """

    def __init__(self, most: int, probe_every: int = 16) -> None:
        self.counts = sorted({1, most})
        self.rates = dict.fromkeys(self.counts, 0.0)  # tokens per second, moving average
        self.probe_every = probe_every
        self.steps = 0

    def choose(self) -> int:
        """Threads for the coming step; now and then the slower setting gets another try."""
        self.steps += 1
        fastest = max(self.counts, key=self.rates.__getitem__)
        probing = self.steps % self.probe_every < 2
        count = next((c for c in self.counts if c != fastest), fastest) if probing else fastest
        torch.set_num_threads(count)
        return count

    def note(self, count: int, rate: float) -> None:
        """Believe bad news at once, good news by halves."""
        self.rates[count] = min(rate, 0.5 * self.rates[count] + 0.5 * rate)


def main(argv: list[str] | None = None) -> None:
    config = load_config(PretrainConfig, argv)
    if config.export:
        export(Path(config.output_dir), Path(config.export))
        return
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # save before a polite kill, too
    pretraining = Pretraining(config)
    try:
        pretraining.train()
    except KeyboardInterrupt:
        pretraining.save()
        print("interrupted; the same command goes on from here")


if __name__ == "__main__":
    run_program(main)
