"""The memory that training takes beside what the loaded model takes, and what a larger batch adds.

A process of its own for every figure: it loads, gives back what nothing refers to, and takes two
steps, inputs prepared among them. Growth is the peak of its resident memory less what was resident
before.

    python -m benchmarks.cpu.memory SIDE ROOT SIZE EXPORTED      (what such a process is)
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import torch

from benchmarks import memory, settled
from benchmarks.cpu.frame import Goal, Result, Side, described
from benchmarks.cpu.material import Material, even, mixed
from benchmarks.cpu.ours import CHUNK, Ours
from benchmarks.cpu.steps import NONE, SETTINGS
from benchmarks.cpu.theirs import Peer, Theirs, export
from benchmarks.markdown import table
from unime.errors import RunError

OURS, THEIRS = f"ours, {NONE}", f"sentence-transformers, mini_batch_size={CHUNK}"
STEPS = 2
GROWTH = Goal("growth of peak memory in training at graph_memory=0 against theirs", 0.75, True)
BATCH = Goal("peak memory at global batch 1,024 against 128, same chunks", 1.15, True)
MATERIALS = {"even": even, "mixed": mixed}


@dataclass(frozen=True)
class MemoryBenchmark:
    name: str = "memory"
    about: str = "peak resident memory of training, chunks of 8"
    goals: tuple[Goal, ...] = (GROWTH, BATCH)

    def measure(self, small: bool, repeat: int | None = None) -> Result:
        turns = repeat or (1 if small else 3)
        size, batches = (8, (16, 8)) if small else (64, (1024, 128))
        sides: dict[str, Result] = {}
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            exported = export(even(folder / "first", size), folder / "peer")
            for kind, make in MATERIALS.items():
                made = make(folder / kind, size)
                for side in (OURS, THEIRS):
                    runs = [child(side, made, exported) for _ in range(turns)]
                    sides[f"{side}; {kind}, {size} pairs"] = summary(runs)
            for count in batches:
                made = even(folder / f"batch{count}", count)
                runs = [child(OURS, made, exported) for _ in range(turns)]
                sides[f"{OURS}; even, batch of {count}"] = summary(runs)
        ours, theirs = (sides[f"{side}; even, {size} pairs"]["growth"] for side in (OURS, THEIRS))
        large, less = (sides[f"{OURS}; even, batch of {count}"]["peak"] for count in batches)
        figures: dict[str, float | None] = {
            GROWTH.figure: ours / theirs,
            BATCH.figure: large / less,
        }
        found = {"about": self.about, "repeat": turns, "small": small, "steps": STEPS,
                 "pictures": made.pictures, "sides": sides}  # fmt: skip
        return described(self.name, found, figures, self.goals)

    def shown(self, result: Result) -> str:
        rows = [
            [name, *(f"{of[key]:.0f}" for key in ("before", "peak", "growth"))]
            for name, of in result["sides"].items()
        ]
        return table(("side", "MiB before training", "MiB at most", "growth"), rows)


def summary(runs: list[dict[str, float]]) -> Result:
    return {"MB": runs, **{key: statistics.median(run[key] for run in runs) for key in runs[0]}}


def child(side: str, material: Material, exported: Path) -> dict[str, float]:
    """What a process of its own measures.

    Raises:
        RunError: it failed.
    """
    words = [side, str(material.root), str(material.size), str(exported)]
    command = [sys.executable, "-m", "benchmarks.cpu.memory", *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RunError(f"{side}: {done.stderr.strip()[-500:]}")
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    print(f"{side}, {material.size} pairs: {found}", flush=True)
    return found


def main(words: list[str]) -> None:
    name, root, size, exported = words
    torch.set_num_threads(1)
    material = Material(Path(root), int(size), "")
    with tempfile.TemporaryDirectory() as folder:
        side: Side
        if name == OURS:
            side = Ours(name, material, Path(folder), *SETTINGS[NONE])
        else:
            side = Theirs(Peer(material, Path(exported)), mini_batch_size=CHUNK)
        before = settled()
        for _ in range(STEPS):
            side.step(side.prepare())
        peak = memory()
    print(json.dumps({"before": before, "peak": peak, "growth": peak - before}))


if __name__ == "__main__":
    main(sys.argv[1:])
