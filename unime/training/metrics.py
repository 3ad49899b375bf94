"""metrics.jsonl, TensorBoard and the text on the progress bar: how training goes."""

from __future__ import annotations

import json
import math
import resource
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from tqdm import tqdm

from unime.errors import DataError
from unime.runtime.distributed import gather_numbers
from unime.runtime.files import append, regular, write_aside
from unime.training.chunks import Batch

SHOWN = {  # what a step reports -> its name on the progress bar
    "loss": "loss",
    "positive_similarity": "positive",
    "hardest_negative_similarity": "hardest",
    "distinct_negatives": "negatives",
    "filtered_share": "filtered",
    "hard_negatives": "hard steps",
    "mean_similarity": "similarity",
    "effective_rank": "rank",
    "teacher_correlation": "teacher",
}
VALIDATION = "validation"  # before the names of its scores
UNTIMED_STEPS = 2  # first steps of a process: memory pools, kernels and caches are being filled


def of_batch(accelerator: Accelerator, batch: Batch) -> dict[str, float]:
    """What a step read, over all ranks: texts that were cut, tokens, the share of padding, and the
    most memory that any rank has used, in GiB (of its GPU, or of the process)."""
    tokens, places = batch.num_tokens
    if accelerator.device.type == "cuda":
        memory = torch.cuda.max_memory_allocated(accelerator.device)
    else:
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024  # Linux: KiB
    ranks = gather_numbers(accelerator, batch.num_truncated, tokens, places, memory)  # (ranks, 4)
    truncated, tokens, places, _ = ranks.sum(dim=0).tolist()
    return {
        "truncated_texts": truncated,
        "tokens": tokens,
        "padding_share": 1 - tokens / max(1, places),
        "memory_gib": int(ranks[:, 3].max()) / 2**30,
    }


def read_lines(path: Path) -> list[dict[str, Any]]:
    """What metrics.jsonl holds so far; what a kill or a power cut left at its end is left out.

    Raises:
        DataError: a line before that is none; or the file cannot be read.
    """
    try:
        content = regular(path).read_bytes() if path.exists() else b""
    except OSError as error:
        raise DataError(f"{path}: cannot read it: {error}") from None
    found: list[dict[str, Any]] = []
    damaged = 0
    for number, line in enumerate(content.splitlines(keepends=True), 1):
        try:
            entry = json.loads(line) if line.endswith(b"}\n") else None
        except (ValueError, RecursionError):
            entry = None
        if not isinstance(entry, dict) or type(entry.get("step")) is not int:
            damaged = damaged or number
        elif damaged:
            raise DataError(f"{path}, line {damaged}: damaged; delete this line to go on")
        else:
            found.append(entry)
    return found


def _is_of_validation(line: Mapping[str, Any]) -> bool:
    return any(name.startswith(f"{VALIDATION}/") for name in line)


@dataclass
class Metrics:
    """Means of what the steps report, one line for every `log_every` steps.

    The sums of a line that has begun belong to the checkpoint (:attr:`state`): a run that goes on
    writes the lines that it would have written anyway.
    """

    path: Path
    accelerator: Accelerator
    log_every: int
    global_batch_size: int
    total_steps: int
    unit: str = "pairs"  # what a batch holds
    seconds: float = 0.0  # of all steps, those before resuming too
    skipped: int = 0  # steps, those before resuming too
    rows_per_second: float | None = None
    tokens_per_second: float | None = None
    _sums: dict[str, float] = field(default_factory=dict)
    _counts: dict[str, int] = field(default_factory=dict)
    _steps_here: int = 0  # of this process

    def add(self, step: int, values: Mapping[str, float], seconds: float) -> str | None:
        """Take in a step; when a line is due, write it and return it in words."""
        self.seconds += seconds
        self._steps_here += 1
        self.skipped += int(values.get("skipped_steps", 0))
        self._sum(values)
        if self._steps_here > UNTIMED_STEPS:
            self._sum({"seconds_per_step": seconds, "tokens_timed": values.get("tokens", 0)})
            mean = self._mean("seconds_per_step")
            self.rows_per_second = self.global_batch_size / mean
            self.tokens_per_second = self._mean("tokens_timed") / mean
        if step % self.log_every and step != self.total_steps:
            return None
        means = {name: self._mean(name) for name in self._sums}
        skipped = self._sums.get("skipped_steps", 0.0)  # a count, not a mean
        self._sums, self._counts = {}, {}
        seconds_per_step = means.pop("seconds_per_step", seconds)
        means.pop("tokens_timed", None)
        means["learning_rate"] = values["learning_rate"]
        means["skipped_steps"] = skipped
        timing = {
            f"{self.unit}_per_second": self.rows_per_second,
            "tokens_per_second": self.tokens_per_second,
            "seconds": self.seconds,
        }
        names = [*values, *(name for name in means if name not in values)]
        self._write(step, {name: means.get(name) for name in names} | timing)
        left = tqdm.format_interval(round((self.total_steps - step) * seconds_per_step))
        return f"step {step}/{self.total_steps}: {self.in_words(means)}, {left} left"

    def add_validation(self, step: int, scores: Mapping[str, float]) -> str:
        """Write the scores of a step, a line of their own, and return the main ones in words."""
        finite = {f"{VALIDATION}/{name}": v for name, v in scores.items() if math.isfinite(v)}
        if self.accelerator.is_main_process:
            self._append({"step": step, **finite})
        self.accelerator.log(finite, step=step)
        words = f"hit@1 {scores['hit@1']:.3f} (chance {scores['chance']:.3f})"
        words += f", loss {scores['loss']:.3f}" if "loss" in scores else ""
        return f"validation after step {step}/{self.total_steps}: {words}"

    def last_line(self) -> dict[str, Any]:
        """Of training; nothing where somebody has removed it."""
        lines = [line for line in read_lines(self.path) if "learning_rate" in line]
        return lines[-1] if lines else {}

    def in_words(self, values: Mapping[str, float]) -> str:
        """The part of a step that is worth watching."""
        words = [f"{label} {values[name]:.3f}" for name, label in SHOWN.items() if name in values]
        if self.rows_per_second is not None:
            words.append(f"{self.rows_per_second:.1f} {self.unit}/s")
        return ", ".join(words)

    @property
    def state(self) -> dict[str, Any]:
        return {
            "seconds": self.seconds,
            "skipped": self.skipped,
            "sums": self._sums,
            "counts": self._counts,
        }

    def go_on(self, step: int, state: Mapping[str, Any] | None, validates: bool = False) -> None:
        """Start after `step`: drop the lines of later steps, which were lost and come again.

        Args:
            validates: whether the scores of `step` come again, too.
        """
        if state is not None:
            self.seconds, self.skipped = state["seconds"], state["skipped"]
            self._sums, self._counts = dict(state["sums"]), dict(state["counts"])
        if self.accelerator.is_main_process:
            last = step - validates
            kept = [
                line
                for line in read_lines(self.path)
                if line["step"] <= (last if _is_of_validation(line) else step)
            ]
            write_aside(self.path, "".join(json.dumps(line) + "\n" for line in kept))

    def _write(self, step: int, values: Mapping[str, float | None]) -> None:
        if self.accelerator.is_main_process:
            self._append({"step": step, **values})
        known = {f"train/{name}": value for name, value in values.items() if value is not None}
        self.accelerator.log(known, step=step)

    def _append(self, line: Mapping[str, Any]) -> None:
        append(self.path, json.dumps(line, allow_nan=False) + "\n")

    def _sum(self, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            if math.isfinite(value):  # the correlation of constants is not
                self._sums[name] = self._sums.get(name, 0.0) + value
                self._counts[name] = self._counts.get(name, 0) + 1

    def _mean(self, name: str) -> float:
        return self._sums[name] / self._counts[name]
