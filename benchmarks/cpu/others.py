"""Encoding, the loss and own data behind the same door, with their goals."""

from __future__ import annotations

import statistics
from dataclasses import dataclass

from benchmarks import encoding, loss
from benchmarks.cpu import preparing
from benchmarks.cpu.frame import Goal, Result, described

ENCODING = Goal(
    "encoding pictures and texts for evaluation against SentenceTransformer.encode", 1.3
)
LOSS = Goal(
    "memory of the loss of a global batch of 16,384 beside its embeddings", 2, True, unit=" GiB"
)
PREPARING = tuple(
    Goal(f"memory of {act} with 200,000 rows", 1, True, unit=" GiB")
    for act in ("prepare own", "iterate")
)
MIB = 1024  # of a GiB; "MB" of a result are MiB


@dataclass(frozen=True)
class EncodingBenchmark:
    name: str = "encoding"
    about: str = "items a CPU second of an evaluation, from files to vectors"
    goals: tuple[Goal, ...] = (ENCODING,)

    def measure(self, small: bool, repeat: int | None = None) -> Result:
        found = encoding.measure(small, repeat or (1 if small else 5))
        figures: dict[str, float | None] = {ENCODING.figure: found["rows"]["both"]["ratio"]}
        rows = {"about": self.about, "small": small, "rows": found["rows"]}
        return described(self.name, rows, figures, self.goals)

    def shown(self, result: Result) -> str:
        return encoding.shown(result)


@dataclass(frozen=True)
class LossBenchmark:
    """Nothing of a peer's: what matters is whether it fits."""

    name: str = "loss"
    about: str = "forward and backward of the losses in blocks, 3,584 dimensions"
    goals: tuple[Goal, ...] = (LOSS,)

    def measure(self, small: bool, repeat: int | None = None) -> Result:
        pairs, width = (64, 32) if small else (16_384, 3584)
        found = [
            {"loss": kind, "pairs": pairs, "width": width, "form": "blocks",
             "turns": [loss.measured(kind, "blocks", pairs, width) for _ in range(repeat or 1)]}
            for kind in loss.LOSSES
        ]  # fmt: skip
        most = max(statistics.median(turn["MB"] for turn in row["turns"]) for row in found)
        figures: dict[str, float | None] = {LOSS.figure: most / MIB}
        rows = {"about": self.about, "small": small, "rows": found}
        return described(self.name, rows, figures, self.goals)

    def shown(self, result: Result) -> str:
        return loss.shown(result["rows"])


@dataclass(frozen=True)
class PreparingBenchmark:
    name: str = "preparing"
    about: str = "own data made ready and read again, beside datasets' map"
    goals: tuple[Goal, ...] = PREPARING

    def measure(self, small: bool, repeat: int | None = None) -> Result:
        found = preparing.measured(500 if small else preparing.ROWS)
        figures: dict[str, float | None] = {
            goal.figure: found[act]["MB"] / MIB
            for goal, act in zip(PREPARING, ("prepare own", "iterate"), strict=True)
        }
        rows = {"about": self.about, "small": small, "rows": found}
        return described(self.name, rows, figures, self.goals)

    def shown(self, result: Result) -> str:
        return preparing.shown(result["rows"])
