"""What every benchmark against a peer does: both sides take the same first step, then turns;
medians of CPU seconds are compared, and one file has all of it.

CPU seconds of one thread are what counts, since others may use the machine; wall seconds stand
beside them.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor

from benchmarks.markdown import NOT_RUN, table
from unime.errors import RunError
from unime.runtime.environment import device_name, installed_versions
from unime.runtime.files import write_json

PACKAGES = (
    "python", "torch", "transformers", "peft", "accelerate", "sentence-transformers", "tokenizers",
    "pillow",
)  # fmt: skip
AGREEMENT = 1e-5  # relative, of the first step's loss and of its gradient
Result = dict[str, Any]


@dataclass(frozen=True)
class FirstStep:
    """What a side computes of the first batch, before it is timed."""

    loss: float
    gradients: dict[str, Tensor]


class Side(Protocol):
    """One of those that are compared."""

    name: str

    def prepare(self) -> Any:
        """Rows on the disk to what `step` takes."""

    def step(self, prepared: Any, /) -> None:
        """Forward, loss, backward and optimizer."""

    def first_step(self) -> FirstStep:
        """Of a step that changes nothing."""


class Benchmark(Protocol):
    """What `./launch.sh bench` runs."""

    @property
    def name(self) -> str: ...

    @property
    def about(self) -> str: ...

    @property
    def goals(self) -> Sequence[Goal]: ...

    def measure(self, small: bool, repeat: int | None = None) -> Result:
        """What is written of it; `small`: in seconds, to see that it runs."""

    def shown(self, result: Result) -> str:
        """Its table."""


@dataclass(frozen=True)
class Goal:
    """A figure and how large it has to be at least, or with `at_most` at most."""

    figure: str
    limit: float
    at_most: bool = False
    unit: str = "×"

    def met(self, measured: float | None) -> bool:
        if measured is None:
            return False
        return measured <= self.limit if self.at_most else measured >= self.limit

    def shown(self, measured: float | None) -> str:
        return "not measured" if measured is None else f"{measured:.2f}{self.unit}"

    @property
    def wanted(self) -> str:
        return f"{'≤' if self.at_most else '≥'} {self.limit:g}{self.unit}"


def compare(first: FirstStep, second: FirstStep) -> Result:
    """How far two sides' first steps are apart, relative to the second.

    Raises:
        RunError: further than rounding explains: they do not do the same work.
    """
    if first.gradients.keys() != second.gradients.keys():
        odd = sorted(first.gradients.keys() ^ second.gradients.keys())
        raise RunError(f"the sides train different parameters: {', '.join(odd[:3])}")
    squares = {
        name: ((first.gradients[name].double() - expected.double()).square().sum().item(),
               expected.double().square().sum().item())
        for name, expected in second.gradients.items()
    }  # fmt: skip
    apart, whole = (sum(pair[n] for pair in squares.values()) for n in (0, 1))
    found = {
        "loss": first.loss,
        "of theirs": second.loss,
        "loss apart": abs(first.loss - second.loss) / abs(second.loss),
        "gradient apart": (apart / whole) ** 0.5 if whole else math.inf,
    }
    if not all(found[key] <= AGREEMENT for key in ("loss apart", "gradient apart")):
        raise RunError(
            f"the sides' first steps differ: loss {first.loss:.7f} and {second.loss:.7f}, gradient "
            f"by {found['gradient apart']:.1e}; expected at most {AGREEMENT:.0e}, no time is given"
        )
    return found


def interleaved(sides: Sequence[Side], repeat: int) -> dict[str, Result]:
    """CPU and wall seconds of every side's preparation and step, in turns; the first turn of each
    is not counted."""
    raw: dict[str, dict[str, list[float]]] = {
        side.name: {f"{part}, {clock}": [] for part in ("prepare", "step") for clock in CLOCKS}
        for side in sides
    }
    for turn in range(repeat + 1):
        for side in in_turn(sides, turn):
            prepared, before = timed(side.prepare)
            _, taken = timed(lambda side=side, prepared=prepared: side.step(prepared))
            for part, seconds in (("prepare", before), ("step", taken)):
                for clock, value in seconds.items():
                    raw[side.name][f"{part}, {clock}"].append(value)
    kept = {name: {key: of[1:] for key, of in seconds.items()} for name, seconds in raw.items()}
    return {name: {"seconds": of, **medians(of)} for name, of in kept.items()}


def in_turn(sides: Sequence[Side], turn: int) -> list[Side]:
    """Their order: another one is first in every other turn, and the turn after goes backwards, so
    that nobody always follows the same one."""
    first = turn // 2 % len(sides)
    order = [*sides[first:], *sides[:first]]
    return order[::-1] if turn % 2 else order


CLOCKS: dict[str, Callable[[], float]] = {"CPU": time.process_time, "wall": time.perf_counter}


def timed(work: Callable[[], Any]) -> tuple[Any, dict[str, float]]:
    began = {name: clock() for name, clock in CLOCKS.items()}
    done = work()
    return done, {name: clock() - began[name] for name, clock in CLOCKS.items()}


def medians(seconds: dict[str, list[float]]) -> Result:
    """Of the step alone, and with the preparation of its inputs."""
    both = [sum(pair) for pair in zip(seconds["prepare, CPU"], seconds["step, CPU"], strict=True)]
    return {
        "step": statistics.median(seconds["step, CPU"]),
        "with preparation": statistics.median(both),
        "step, wall": statistics.median(seconds["step, wall"]),
    }


def described(
    name: str, found: Result, figures: dict[str, float | None], goals: Sequence[Goal]
) -> Result:
    """What is written of a benchmark."""
    known = {package.lower(): version for package, version in installed_versions().items()}
    return {
        "name": name,
        "command": f"./launch.sh bench {name}",
        "device": device_name(),
        "versions": {package: known.get(package) for package in PACKAGES},
        **found,
        "figures": {
            goal.figure: {
                "measured": figures.get(goal.figure), "shown": goal.shown(figures.get(goal.figure)),
                "goal": goal.wanted, "met": goal.met(figures.get(goal.figure)),
            }
            for goal in goals
        },
    }  # fmt: skip


def save(result: Result, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / f"{result['name']}.json", result)


def measured(result: Result | None, goal: Goal) -> float | None:
    figures = {} if result is None else result["figures"]
    found: float | None = figures.get(goal.figure, {}).get("measured")
    return found


def falls_short(benchmark: Benchmark, result: Result) -> bool:
    """Some goal was missed; a small result says nothing of that."""
    missed = not all(goal.met(measured(result, goal)) for goal in benchmark.goals)
    return missed and not result["small"]


def verdict(result: Result | None, goal: Goal) -> str:
    if result is None:
        return NOT_RUN
    if result["small"]:
        return "too small to say"
    return "met" if goal.met(measured(result, goal)) else "**falls short**"


def goals_table(benchmarks: Iterable[Benchmark], results: Mapping[str, Result]) -> str:
    """Every goal of theirs, whether it was met or not or has no result.

    Args:
        results: by the benchmark's name.
    """
    rows = []
    for benchmark in benchmarks:
        result = results.get(benchmark.name)
        rows += [
            [goal.figure, goal.shown(measured(result, goal)), goal.wanted, verdict(result, goal)]
            for goal in benchmark.goals
        ]
    return table(("figure", "measured", "goal", ""), rows)
