"""The tables of docs/performance.md, from what benchmarks/gpu wrote.

python -m benchmarks.gpu.tables docs/performance.md docs/results/gpu.json …
"""

from __future__ import annotations

import statistics
import sys
from pathlib import Path

from benchmarks.gpu.steps import Result
from benchmarks.markdown import fill, table
from unime.runtime.files import read_json

PEAK_SHARE = "share of an H100's peak"
KINDS = {  # kernels by what their names hold; the first that fits
    "products in bfloat16": ("nvjet",),
    "products of adapters in float32": ("gemm_f32f32",),
    "attention": ("sdpa", "fmha"),
    "dropout": ("dropout", "masked_scale"),
    "casts and copies": ("copy", "Memcpy"),
    "other elementwise": ("",),
}


def tables(runs: list[Result]) -> str:
    """Of all runs' sections, a later run's in place of an earlier one's failed one."""
    sections: dict[str, Result] = {}
    for run in runs:
        for name, found in run["sections"].items():
            if "error" not in found or found.get("cases"):
                sections[name] = found
    parts = [exactness(sections), speed(sections["speed"]), kernels(sections["kernels"])]
    parts += [peer(sections["peer"]), encoding(sections["encoding"])]
    return "\n\n".join(parts)


def exactness(sections: dict[str, Result]) -> str:
    found = sections["exactness"]
    names = [name for name, of in found["bfloat16"].items() if isinstance(of, dict)]
    rows = []
    for name in names:
        cells = [found[kind].get(name) for kind in ("float32", "bfloat16")]
        shown = [f"{c['all']:.1e}, {c['worst']:.1e}" if c else "" for c in cells]
        rows.append([name, *shown])
    float64 = sections["float64"]
    rows.append(["in float64, against the plain step",
                 f"{float64['all']:.1e}, {float64['worst']:.1e}", ""])  # fmt: skip
    return table(("gradient of the cached step", "float32: all, worst parameter", "bfloat16"), rows)


def speed(found: Result) -> str:
    heads = ("chunk", "checkpointing", "weights", "what else", "seconds a step", "pairs/s",
             "share of the peak", "peak GiB", "planned GiB", "ratio")  # fmt: skip
    rows = []
    for row in found["cases"]:
        case = row["case"]
        others = [name for name in ("tf32", "autocast", "compile") if case.get(name)]
        kept = row.get("kept graphs", 0)
        others += [f"{kept} graphs kept"] * bool(kept)
        others += ["LoRA on the language model"] * (case.get("train") == ["llm"])
        others += ["no dropout"] * (not case["dropout"]) + ["eager"] * (
            case["attention"] == "eager"
        )
        rows.append([
            str(case["chunk"]), str(case["checkpointing"]).lower(),
            {"none": "bfloat16"}.get(case["quantization"], case["quantization"]), ", ".join(others),
            f"{statistics.median(row['seconds']):.2f}", f"{row['pairs/s']:.1f}",
            f'{row[PEAK_SHARE]:.3f}',
            f"{row['peak GiB']:.2f}", f"{row['planned GiB']:.2f}",
            f"{row['planned GiB'] / row['peak GiB']:.2f}",
        ])  # fmt: skip
    return table(heads, rows)


def kernels(found: Result) -> str:
    columns = {name: of for name, of in found.items() if isinstance(of, dict)}
    shares = {name: by_kind(of) for name, of in columns.items()}
    rows = [[kind, *(f"{of[kind]:.0%}" for of in shares.values())] for kind in KINDS]
    rows.append(["not listed", *(f"{1 - sum(of.values()):.0%}" for of in shares.values())])
    rows.append(["kernels", *(f"{of['launched']:,}" for of in columns.values())])
    rows.append(
        ["seconds of kernels", *(f"{of['seconds of kernels']:.2f}" for of in columns.values())]
    )
    taken = [statistics.median(of["seconds without the profiler"]) for of in columns.values()]
    rows.append(["seconds of the step", *(f"{seconds:.2f}" for seconds in taken)])
    return table(("share of the kernels' time", *columns), rows)


def by_kind(found: Result) -> dict[str, float]:
    shares = dict.fromkeys(KINDS, 0.0)
    for row in found["most"]:
        kind = next(k for k, words in KINDS.items() if any(word in row["kernel"] for word in words))
        shares[kind] += row["seconds"] / found["seconds of kernels"]
    return shares


def peer(found: Result) -> str:
    rows = []
    for who in ("ours", "theirs"):
        for row in found[who]:
            case = row["case"]
            loss = row.get("loss") or ("plain" if row["chunks"] == 1 else "cached")
            rows.append([
                "unime" if who == "ours" else "sentence-transformers", loss, str(case["chunk"]),
                str(case["checkpointing"]).lower(), str(case["autocast"]).lower(),
                ", ".join(f"{seconds:.2f}" for seconds in row["seconds"]),
                f"{row['pairs/s']:.1f}", f"{row['peak GiB']:.2f}",
            ])  # fmt: skip
    heads = ("whose", "loss", "chunk", "checkpointing", "autocast", "seconds a step", "pairs/s",
             "peak GiB")  # fmt: skip
    return table(heads, rows)


def encoding(found: Result) -> str:
    rows = [
        [name, str(of["workers"]), f"{of['items/s']:.0f}", f"{of['items/s of the GPU']:.0f}"]
        for name, of in found.items()
        if isinstance(of, dict)
    ]
    return table(("weights, items", "workers", "items/s", "of the GPU alone"), rows)


if __name__ == "__main__":
    document, *results = map(Path, sys.argv[1:])
    content = tables([read_json(path) for path in results])
    document.write_text(fill(document.read_text(), content))
