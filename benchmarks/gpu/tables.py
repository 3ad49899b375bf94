"""The tables of docs/performance.md, from what benchmarks/gpu wrote.

python -m benchmarks.gpu.tables docs/performance.md docs/results/gpu.json …
"""

from __future__ import annotations

import statistics
import sys
from pathlib import Path

from benchmarks.gpu.steps import Result
from benchmarks.markdown import NOT_RUN, fill, table
from unime.runtime.files import read_json

OLD_PEAK_SHARE = "share of an H100's peak"  # as the published runs call it
OF_SPEED = {"speed": "", "speed of others": "", "speed 7b": "LLaVA-1.6-7B"}
KINDS = {  # kernels by what their names hold; the first that fits
    "products in bfloat16": ("nvjet",),
    "products of adapters in float32": ("gemm_f32f32",),
    "attention": ("sdpa", "fmha"),
    "dropout": ("dropout", "masked_scale"),
    "casts and copies": ("copy", "Memcpy"),
    "other elementwise": ("",),
}


def tables(runs: list[Result]) -> str:
    """Of every section the last run's that is complete; where none is, the last that has cases."""
    sections: dict[str, Result] = {}
    for run in runs:
        for name, found in run["sections"].items():
            incomplete = "error" in found
            if incomplete and ("error" not in sections.get(name, found) or not found.get("cases")):
                continue
            sections[name] = found
    parts = [exactness(sections), speed(sections), kernels(sections["kernels"])]
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


def speed(sections: dict[str, Result]) -> str:
    """The cases of all sections that time steps."""
    heads = ("pairs", "chunk", "checkpointing", "weights", "what else", "seconds a step",
             "pairs/s", "share of the peak", "peak GiB", "planned GiB", "ratio")  # fmt: skip
    cases = [
        (model, row)
        for name, model in OF_SPEED.items()
        for row in sections.get(name, {}).get("cases", [])
    ]
    rows = []
    for model, row in cases:
        case = row["case"]
        others = [model] * bool(model)
        others += [name for name in ("tf32", "autocast", "compile") if case.get(name)]
        kept = row.get("kept graphs", 0)
        others += [f"{kept} graphs kept"] * bool(kept)
        others += ["LoRA on the language model"] * (case.get("train") == ["llm"])
        others += ["no dropout"] * (not case["dropout"]) + ["eager"] * (
            case["attention"] == "eager"
        )
        others += ["out of memory"] * ("out of memory" in row)
        seconds, peak, planned = (row.get(n) for n in ("seconds", "peak GiB", "planned GiB"))
        rows.append([
            str(case["batch"]), str(case["chunk"]), str(case["checkpointing"]).lower(),
            {"none": "bfloat16"}.get(case["quantization"], case["quantization"]), ", ".join(others),
            number(statistics.median(seconds) if seconds else None, 2),
            number(row.get("pairs/s"), 1),
            number(row.get("share of the peak", row.get(OLD_PEAK_SHARE)), 3),
            number(peak, 2), number(planned, 2),
            number(planned / peak if planned and peak else None, 2),
        ])  # fmt: skip
    return table(heads, rows)


def number(value: float | None, digits: int) -> str:
    return NOT_RUN if value is None else f"{value:.{digits}f}"


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
    with_optimizer = [of.get("with the optimizer's step", False) for of in columns.values()]
    rows.append(["AdamW's step among the kernels", *("yes" if w else "no" for w in with_optimizer)])
    heads = (f"{name}: {in_words(of['case'])}" for name, of in columns.items())
    return table(("share of the kernels' time", *heads), rows)


def in_words(case: Result) -> str:
    checkpointing = "checkpointing" if case["checkpointing"] else "no checkpointing"
    return f"{case['batch']} pairs, chunks of {case['chunk']}, {checkpointing}"


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
