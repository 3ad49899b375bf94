"""What a run of either stage will need: memory of one GPU by part, FLOPs of a step, hours.

    python -m stages.plan --config configs/stage2/qwen2-vl-2b.yaml gpus=8 gpu=a100-80g
    python -m stages.plan --config … optim.chunk_size=4 plan.text_tokens=40 plan.utilisation=0.4

Reads the model's configuration and processor, never its weights. Any setting of the stage can be
given as key=value, and what it assumes beside them as plan.key=value. docs/planner.md compares it
with measurements.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from unime.config import Stage1PlanConfig, Stage2PlanConfig, load_config
from unime.config.reading.values import load_yaml
from unime.errors import ConfigError, require_package
from unime.planning.costs import PlannedConfig
from unime.planning.planner import Plan, make_plan
from unime.runtime.program import run_program

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table


def main(argv: list[str] | None = None) -> None:
    require_package("rich", "train", "the plan")
    from rich.console import Console

    config: PlannedConfig = load_config(_class_of(argv), argv)
    show(make_plan(config), Console(highlight=False, soft_wrap=True))


def show(plan: Plan, console: Console) -> None:
    """Print the plan: what it is of, memory, FLOPs and hours, and what they rest on."""
    config, step = plan.config, plan.step
    size = config.optim.batch_size_per_device
    passes = "one pass" if plan.chunks == 1 else f"{plan.chunks} chunks, of {plan.kept} one pass"
    console.print(f"{config.model.name}: {plan.parameters:,} parameters with adapters,")
    console.print(f"  of which {plan.trained:,} are trained ({', '.join(config.lora.train)})")
    console.print(f"{plan.steps} steps of {config.gpus} × {size} = {config.gpus * size} rows;")
    console.print(f"  {step.texts + step.images:g} items on each GPU in {passes}")
    image = f"; with an image: {step.image.tokens}, of which {step.image.image_tokens} are its own"
    seen = f" ({step.image.patches} patches in {step.image.tiles} tiles)"
    shown = image + seen if step.images else ""
    console.print(f"  a text: {step.text.tokens} tokens{shown}\n")
    verdict = "fits" if plan.fits else "DOES NOT FIT"
    total = f"all ({verdict} {config.gpu}, {plan.gpu.memory_gib:g})"
    console.print(_table("memory of one GPU", "GiB", plan.memory, total, _gib))
    console.print(_table("a step on one GPU", "TFLOP", plan.flops, "all", _tera))
    console.print(f"  {plan.seconds_per_step:.3g} s a step, {plan.hours:.2f} hours in all\n")
    console.print("Assumed:")
    for note in plan.notes:
        console.print(f"  {note}")


def _table(
    title: str,
    unit: str,
    parts: dict[str, float],
    total: str,
    words: Callable[[float], str],
) -> Table:
    from rich.box import SIMPLE_HEAD
    from rich.table import Column, Table

    table = Table(Column(title), Column(unit, justify="right"), box=SIMPLE_HEAD)
    for name, size in parts.items():
        table.add_row(name, words(size))
    table.add_section()
    table.add_row(total, words(sum(parts.values())))
    return table


def _gib(size: float) -> str:
    return f"{size / 2**30:.3f}"


def _tera(flops: float) -> str:
    return f"{flops / 1e12:.4g}"


def _class_of(argv: list[str] | None) -> type[PlannedConfig]:
    """Which stage's configuration the file is: stage 1 names a teacher."""
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--config", type=Path)
    path = parser.parse_known_args(argv)[0].config
    try:
        loaded = load_yaml(path) if path else None
    except ConfigError:
        return Stage2PlanConfig  # load_config says what is wrong with the file
    data = loaded.get("data") if isinstance(loaded, dict) else None
    is_stage1 = isinstance(data, dict) and "teacher" in data
    return Stage1PlanConfig if is_stage1 else Stage2PlanConfig


if __name__ == "__main__":
    run_program(main)
