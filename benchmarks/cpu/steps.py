"""Pairs a CPU second of a training step, beside sentence-transformers' cached loss.

Both sides: the same weights, the same LoRA on the language model, the vision tower frozen, AdamW,
float32, no dropout, the same pairs. "step" is timed with inputs prepared beforehand, "with
preparation" with files read, pictures processed and texts tokenized in the same thread. Both are in
one process, whose memory is allocated as a run of ours has it (`unime/training/kernels/heap.py`).
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from benchmarks.cpu.frame import Goal, Result, Side, compare, described, interleaved
from benchmarks.cpu.material import Material, duplicated, even, mixed
from benchmarks.cpu.ours import CHUNK, Ours
from benchmarks.cpu.theirs import Peer, Theirs, export
from benchmarks.markdown import table
from unime.errors import ConfigError

PARTS = ("step", "with preparation")
NONE, KEPT, STORE = "graph_memory=0", "graphs kept", "graphs kept, feature store"
BUDGET = ", chunk_tokens="
SETTINGS = {
    NONE: ("optim.graph_memory=0",),
    KEPT: ("optim.graph_memory=8",),
    STORE: ("optim.graph_memory=8", "inputs.feature_store={folder}/features"),
}


@dataclass(frozen=True)
class StepBenchmark:
    """Some of our settings beside theirs, on one material.

    Attributes:
        goal_of: those of our settings that have one.
        others: settings that stand beside, without a goal.
        pairs: of a batch; with `small` a few.
        repeat: turns that count.
        sizes: their mini-batches that are tried, items; one of `CHUNK` is always among them.
        budgets: theirs of tokens, in mean lengths of an item.
        our_budgets: ours, for chunks of up to twice as many items; the best counts, as of theirs.
    """

    name: str
    about: str
    make: Callable[[Path, int], Material]
    goal_of: dict[str, Goal]
    pairs: int
    repeat: int
    others: tuple[str, ...] = ()
    sizes: tuple[int, ...] = ()
    budgets: tuple[int, ...] = (CHUNK,)
    our_budgets: tuple[int, ...] = ()

    @property
    def goals(self) -> tuple[Goal, ...]:
        return tuple(self.goal_of.values())

    def measure(self, small: bool, repeat: int | None = None) -> Result:
        """All of it; prints each side as soon as its first step is the same as theirs."""
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            material = self.make(folder / "data", 8 if small else self.pairs)
            sides, told = self._sides(material, folder, small)
            turns = repeat or (1 if small else self.repeat)
            times = interleaved(sides, turns)
            for side in sides:
                times[side.name]["graphs kept"] = getattr(side, "kept", "none")
        theirs = {name: of for name, of in times.items() if name.startswith("sentence-")}
        best = {part: min(theirs, key=lambda name: theirs[name][part]) for part in PARTS}
        pairs = len(material.rows)
        for of in times.values():
            for part in PARTS:
                of[f"ratio, {part}"] = theirs[best[part]][part] / of[part]
            of["pairs per CPU second"] = pairs / of["step"]
        figures = {
            goal.figure: max(
                (of["ratio, step"] for name, of in times.items() if name.split(BUDGET)[0] == side),
                default=None,
            )
            for side, goal in self.goal_of.items()
        }
        found = {
            "about": self.about, "pairs": pairs, "repeat": turns, "small": small,
            "pictures": material.pictures, **told, "best of theirs": best, "sides": times,
        }  # fmt: skip
        return described(self.name, found, figures, self.goals)

    def _sides(self, material: Material, folder: Path, small: bool) -> tuple[list[Side], Result]:
        """The sides whose first step is that of theirs, and how far each is from it."""
        peer = Peer(material, export(material, folder / "peer"))
        sides: list[Side] = [Theirs(peer, mini_batch_size=size) for size in (CHUNK, *self.sizes)]
        lengths = [
            int(column["attention_mask"].sum()) for batch in sides[0].prepare() for column in batch
        ]
        mean = sum(lengths) / (2 * len(material.rows))
        for items in self.budgets:
            sides.append(
                Theirs(peer, mini_batch_size=CHUNK, mini_batch_num_tokens=round(items * mean))
            )
        expected = sides[0].first_step()
        agreement = {side.name: compare(side.first_step(), expected) for side in sides[1:]}
        missing = {}
        for name, settings in self._ours(mean):
            settings = [word.format(folder=folder) for word in settings]
            try:
                ours = Ours(name, material, folder / f"run{len(sides)}", *settings)
            except ConfigError as error:
                missing[name] = str(error)
                print(f"{name}: {error}", flush=True)
                continue
            agreement[name] = compare(ours.first_step(), expected)
            sides.append(ours)
        for name, of in agreement.items():
            print(
                f"{name}: loss apart {of['loss apart']:.1e}, gradient {of['gradient apart']:.1e}",
                flush=True,
            )
        return sides, {"first step": agreement, "missing": missing, "mean tokens": mean}

    def _ours(self, mean: float) -> Iterator[tuple[str, tuple[str, ...]]]:
        """Name and settings of each of our sides."""
        for name in (*self.others, *self.goal_of):
            yield name, SETTINGS[name]
            for items in self.our_budgets:
                tokens = round(items * mean)
                words = (f"optim.chunk_size={2 * CHUNK}", f"optim.chunk_tokens={tokens}")
                yield f"{name}{BUDGET}{tokens}", (*SETTINGS[name], *words)

    def shown(self, result: Result) -> str:
        """Every side of a result, as a table."""
        columns = ("step", "ratio, step", "with preparation", "ratio, with preparation",
                   "pairs per CPU second")  # fmt: skip
        rows = [
            [name, *(f"{of[column]:.2f}{'×' * column.startswith('ratio')}" for column in columns)]
            for name, of in result["sides"].items()
        ]
        heads = ("side", "CPU seconds", "best of theirs / this", "with preparation", "ratio",
                 "pairs per CPU second")  # fmt: skip
        return table(heads, rows)


STEP = StepBenchmark(
    "step",
    "64 pairs of 64-pixel pictures and captions of about 7 words, chunks of 8",
    even,
    {
        NONE: Goal(
            "pairs per CPU second against sentence-transformers, equal chunks, graph_memory=0", 1.3
        ),
        KEPT: Goal("the same with graphs kept", 1.8),
        STORE: Goal("the same with the feature store, from the second epoch on", 2.3),
    },
    pairs=64,
    repeat=7,
    budgets=(CHUNK - 1, CHUNK),
)
MIXED = StepBenchmark(
    "mixed",
    "64 pairs, captions of 4 to 90 words, pictures of 64 to 330 pixels, chunks of 8",
    mixed,
    {
        NONE: Goal("mixed lengths, graph_memory=0", 2.2),
        KEPT: Goal("mixed lengths, graphs kept", 3.5),
    },
    pairs=64,
    repeat=5,
    others=(STORE,),
    sizes=(16,),
    budgets=(8, 16),
    our_budgets=(10,),
)
DUPLICATES = StepBenchmark(
    "duplicates",
    "four batches of 128 pairs of one task each, with MMEB's duplicate rates, chunks of 8",
    duplicated,
    {KEPT: Goal("MMEB-like duplicate rates, graphs kept", 2.5)},
    pairs=128,
    repeat=3,
    others=(NONE,),
    budgets=(CHUNK,),
)
