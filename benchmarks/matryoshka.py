"""What is left of the demo's scores in fewer dimensions, tuned with Matryoshka and without.

    python -m benchmarks.matryoshka docs/results/matryoshka.json runs/demo runs/demo-seed1 …

Each folder is a demo of a seed of its own (./launch.sh demo seed=1), of which stage 1 and the
stage 2 after it are used. Stage 2 is run once more from the same adapters, with
loss.matryoshka_dimensions, and both are evaluated at every size, each from one encoding. Writes
hit@1 over the demo's tasks as JSON and Markdown: mean and standard deviation over the seeds, and
the differences within each. One process on the CPU; started again it goes on.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.runs import commits_of
from eval.report.build import build_report
from eval.report.seeds import over
from eval.report.table import markdown, write_table
from stages.demo import run_command
from unime.config import ReportConfig, build_config
from unime.config.reading.values import load_yaml
from unime.runtime.program import run_program

SIZES = [16, 32, 64, 128]  # of 256
WITHOUT, WITH = "stage1_stage2", "matryoshka"


def main(words: Sequence[str]) -> None:
    if len(words) < 2 or not words[0].endswith(".json"):
        raise SystemExit(__doc__)
    output, folders = Path(words[0]), [Path(word) for word in words[1:]]
    collected = collect([curves(folder) for folder in folders])
    runs = [folder / name for folder in folders for name in (WITHOUT, WITH)]
    collected |= {"commit": commits_of(runs), "seeds": [seed_of(folder) for folder in folders]}
    text = table_of(collected)
    write_table(output, collected, text)
    print(text)


def seed_of(folder: Path) -> int:
    """Of the demo's stage 2."""
    seed: int = load_yaml(folder / WITHOUT / "config.yaml")["run"]["seed"]
    return seed


def curves(folder: Path) -> dict[str, Any]:
    """Train and evaluate; the report on both."""
    sizes = f"[{','.join(map(str, SIZES))}]"
    run("stages.stage2_instruct", "stage2", f"model.adapter={folder}/stage1/final",
        f"run.output_dir={folder}/{WITH}", f"run.seed={seed_of(folder)}",
        "optim.batch_size_per_device=64", f"loss.matryoshka_dimensions={sizes}")  # fmt: skip
    for name in (WITHOUT, WITH):
        run("eval.evaluate", "eval", f"model.adapter={folder}/{name}/final",
            f"output_dir={folder}/eval/{name}", f"dimensions={sizes}")  # fmt: skip
    models = ", ".join(f"{name}: {folder}/eval/{name}" for name in (WITHOUT, WITH))
    given = [f"models={{{models}}}", f"baseline={WITHOUT}", "html=null"]
    return build_report(build_config(ReportConfig, Path("configs/demo/report.yaml"), given))


def run(module: str, config: str, *settings: str) -> None:
    """One of the demo's programs.

    Raises:
        SystemExit: it failed, with its status.
    """
    path = f"configs/demo/{config}.yaml"
    status = run_command([sys.executable, "-m", module, "--config", path, *settings])
    if status:
        raise SystemExit(status)


def collect(reports: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Of each size hit@1 with and without, and the differences within a seed."""

    def scores(name: str, size: str) -> list[float]:
        overall = [(report["models"][name]["dimensions"], report["overall"]) for report in reports]
        return [curve[key][size]["score"] for curve, key in overall]

    first = reports[0]
    sizes = first["models"][WITH]["dimensions"][first["overall"]]
    return {
        "chance": first["chance"],
        "trained_at": SIZES,
        "dimensions": {
            size: {
                WITHOUT: over(without := scores(WITHOUT, size)),
                WITH: over(found := scores(WITH, size)),
                "difference": over([a - b for a, b in zip(found, without, strict=True)]),
            }
            for size in sizes
        },
    }


def table_of(collected: dict[str, Any]) -> str:
    """As Markdown, in %."""
    rows = [
        [size, _spread(of[WITHOUT]), _spread(of[WITH]), _each(of["difference"])]
        for size, of in collected["dimensions"].items()
    ]
    header = ["dimensions", "trained without, cut", "trained with Matryoshka", "difference by seed"]
    seeds = ", ".join(map(str, collected["seeds"]))
    return (
        f"hit@1 in %, mean over the demo's tasks, seeds {seeds} (mean ± standard deviation where"
        f" there are several), commit {collected['commit'][:10]}; chance"
        f" {100 * collected['chance']:.1f}.\n\n{markdown(header, [rows])}"
    )


def _spread(of: dict[str, Any]) -> str:
    deviation = "" if of["sd"] is None else f" ± {100 * of['sd']:.1f}"
    return f"{100 * of['mean']:.1f}{deviation}"


def _each(of: dict[str, Any]) -> str:
    return ", ".join(f"{100 * value:+.1f}" for value in of["values"])


if __name__ == "__main__":
    run_program(lambda: main(sys.argv[1:]))
