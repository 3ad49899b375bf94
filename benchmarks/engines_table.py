"""The table of docs/engines.md from what the engines' tests measured.

UNIME_ENGINES_RESULTS=docs/results/engines.json ./launch.sh test -m engines
python -m benchmarks.engines_table docs/results/engines.json
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from benchmarks.markdown import NOT_RUN, table
from unime.runtime.files import read_json

ENGINES = {  # of the tests -> heading, name in the tests of programs
    "single-1": ("one process", "cpu-1"),
    "ddp-2": ("DDP, 2 ranks", "ddp-2"),
    "ddp-3": ("DDP, 3 ranks", "ddp-3"),
    "zero1-2": ("ZeRO-1", "zero1-2"),
    "zero2-2": ("ZeRO-2", "zero2-2"),
    "zero2_offload-2": ("ZeRO-2, optimizer in CPU memory", ""),
    "zero3-2": ("ZeRO-3", "zero3-2"),
    "zero3_offload-2": ("ZeRO-3, weights and optimizer in CPU memory", "zero3_offload-2"),
    "fsdp2-2": ("FSDP2", "fsdp2-2"),
}
FULL = ("full", "llava_full")
QLORA = ("qlora", "llava_qlora", "llm_qlora")
ROUNDING = ("bfloat16", "autocast")
DROPOUT = ("dropout", "dropout_checkpointing")


def worst(found: dict[str, Any], cases: tuple[str, ...]) -> str:
    errors = [found[case]["worst"] for case in cases if case in found]
    return f"{max(errors):.1e}" if errors else NOT_RUN


def gradients(results: dict[str, Any]) -> str:
    """Relative error of the worst parameter's gradient, of all cases of a kind."""
    rows = []
    for key, (heading, _) in ENGINES.items():
        found = results.get(key, {})
        other = (*FULL, *QLORA, *ROUNDING, *DROPOUT)
        lora = tuple(case for case in found if case not in other)
        cells = [worst(found, cases) for cases in (FULL, lora, QLORA, DROPOUT)]
        for case in ROUNDING:
            of = found.get(case)
            cells.append(
                f"{of['whole']:.1e} (own rounding {of['own_rounding']:.1e})" if of else NOT_RUN
            )
        rows.append([heading, *cells])
    heads = ("engine", "all weights", "LoRA", "QLoRA (NF4)", "LoRA, dropout replayed",
             "bf16 weights", "bf16 autocast")  # fmt: skip
    return table(heads, rows)


def programs(results: dict[str, Any]) -> str:
    """Distance of the adapters after 20 steps from one process's; whether resuming is exact."""
    rows = []
    for heading, name in ENGINES.values():
        if not name:
            continue
        cells = []
        for stage in ("stage1", "stage2"):
            of = results.get(f"parity-{name}-{stage}")
            cells.append(f"{of['adapters']:.1e}" if of else NOT_RUN)
        for kind in ("stage1-nf4", "stage2-nf4", "stage2-none"):
            of = results.get(f"resume-{name}-{kind}")
            cells.append("bit for bit" if of and of["equal"] else NOT_RUN)
        rows.append([heading, *cells])
    heads = ("engine", "stage 1, 20 steps", "stage 2, 20 steps", "resumed, QLoRA, stage 1",
             "resumed, QLoRA, stage 2", "resumed, LoRA, stage 2")  # fmt: skip
    return table(heads, rows)


def faults(results: dict[str, Any]) -> str:
    rows = []
    for name in ("ddp", "zero2", "fsdp2"):
        seconds = [results.get(f"{kind}-{name}", {}).get("seconds") for kind in ("lost", "stuck")]
        cells = [NOT_RUN if s is None else f"{s:.0f} s" for s in seconds]
        rows.append([name, *cells])
    heads = ("engine", "a rank killed: all end after", "a rank stopped, timeout 10 s: after")
    return table(heads, rows)


def tables(path: Path) -> str:
    results = read_json(path)
    return "\n\n".join(of(results) for of in (gradients, programs, faults))


if __name__ == "__main__":
    if len(sys.argv) != 2 or sys.argv[1].startswith("-"):
        raise SystemExit(__doc__)
    print(tables(Path(sys.argv[1])))
