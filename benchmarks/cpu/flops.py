"""Counted FLOPs of a step over the least that it could do: one forward without padding of each
distinct item and one backward of what trains, the frozen vision tower once for each picture, and
the loss.

torch counts matrix products, convolutions and attention as they are called, padding included; what
is elementwise, the optimizer too, is not counted, on neither side of the fraction.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.utils.flop_counter import (
    FlopCounterMode,
    sdpa_backward_flop_count,
    sdpa_flop_count,
)

from benchmarks.cpu.frame import Goal, Result, described
from benchmarks.cpu.material import duplicated, even, mixed
from benchmarks.cpu.ours import Ours
from benchmarks.cpu.steps import KEPT, NONE, SETTINGS
from benchmarks.markdown import table
from unime.inputs.items import Item
from unime.losses import instruction_loss
from unime.models.features.frozen import compute, split_media

aten = torch.ops.aten
ATTENTION: dict[Any, Any] = {  # of a CPU, which torch's counter lacks
    aten._scaled_dot_product_flash_attention_for_cpu: lambda q, k, v, *_, **__: sdpa_flop_count(
        q, k, v
    ),
    aten._scaled_dot_product_flash_attention_for_cpu_backward: (
        lambda gradient, q, k, v, *_, **__: sdpa_backward_flop_count(gradient, q, k, v)
    ),
}
MATERIALS = {"even": even, "mixed": mixed, "duplicates": duplicated}
GOALS = {
    KEPT: Goal("counted FLOPs of the step over the minimum, graphs kept", 1.05, True),
    NONE: Goal("counted FLOPs of the step over the minimum, graph_memory=0", 1.4, True),
}


@dataclass(frozen=True)
class FlopsBenchmark:
    name: str = "flops"
    about: str = "counted FLOPs of a step over the minimum; judged where lengths are equal"
    goals: tuple[Goal, ...] = tuple(GOALS.values())

    def measure(self, small: bool, repeat: int | None = None) -> Result:
        size, sides = 8 if small else 32, {}
        for kind, make in MATERIALS.items():
            with tempfile.TemporaryDirectory() as name:
                folder = Path(name)
                material = make(folder / "data", size)
                least = 0.0
                for setting in GOALS:
                    ours = Ours(setting, material, folder / setting, *SETTINGS[setting])
                    least = least or minimum(ours)
                    ours.step(ours.prepare()[:1])  # the first measures its graphs
                    prepared = ours.prepare()
                    taken = counted(lambda of=ours, inputs=prepared: of.step(inputs))
                    found = {"FLOPs": taken, "minimum": least, "ratio": taken / least}
                    sides[f"{setting}; {kind}"] = found
                    print(f"{setting}; {kind}: {taken / least:.3f}", flush=True)
        figures: dict[str, float | None] = {
            goal.figure: sides[f"{setting}; even"]["ratio"] for setting, goal in GOALS.items()
        }
        found = {"about": self.about, "pairs": size, "small": small, "sides": sides}
        return described(self.name, found, figures, self.goals)

    def shown(self, result: Result) -> str:
        rows = [
            [name, f"{of['FLOPs'] / 1e9:.1f}", f"{of['minimum'] / 1e9:.1f}", f"{of['ratio']:.3f}"]
            for name, of in result["sides"].items()
        ]
        return table(("settings; pairs", "GFLOPs", "the least", "ratio"), rows)


def counted(work: Callable[[], Any]) -> float:
    with FlopCounterMode(display=False, custom_mapping=ATTENTION) as counter:
        work()
    return float(counter.get_total_flops())


def minimum(ours: Ours) -> float:
    """Of all batches; what they share is still done in each."""
    return sum(least_of(ours, batch) for batch in range(len(ours.pairs)))


def least_of(ours: Ours, batch: int) -> float:
    pairs = ours.pairs[batch]
    items = dict.fromkeys(item for pair in pairs for item in (pair.query, pair.target))
    total = counted(lambda: loss(ours, batch))
    seen: set[tuple[str, ...]] = set()
    for item in items:
        total += counted(lambda item=item: embed(ours, item))
        if item.images and item.images in seen:
            total -= counted(lambda item=item: look(ours, item))
        seen.add(item.images)
    ours.encoder.zero_grad()
    return total


def embed(ours: Ours, item: Item) -> None:
    """Forward and backward of one item."""
    encoder = ours.encoder
    parts = encoder.processor.parts([encoder.processor(item)])
    encoder([part for _, part in parts]).sum().backward()


def look(ours: Ours, item: Item) -> None:
    """What the vision tower makes of its pictures."""
    _, media = split_media(ours.encoder.processor(item))
    assert media is not None
    with torch.no_grad():
        compute(ours.encoder.model, [media])


def loss(ours: Ours, batch: int) -> None:
    """Forward and backward of the loss alone."""
    collated = ours.collate(ours.pairs[batch])
    width = ours.encoder.hidden_size
    sides = {name: torch.nn.functional.normalize(torch.randn(rows, width), dim=1).requires_grad_()
             for name, rows in collated.groups.items()}  # fmt: skip
    instruction_loss(sides, collated.labels, ours.config.loss).loss.backward()
