"""Seconds and memory of a step beside the planner's, where it goes, and encoding."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from benchmarks.gpu.steps import (
    GIB,
    Case,
    Result,
    Setting,
    adamw,
    allocated,
    arithmetic,
    free,
    peak,
    planned_gpu,
    reset_peak,
    synchronise,
)
from unime.inputs.items import Item
from unime.models.encoder import Encoder
from unime.planning.planner import make_plan
from unime.retrieval.encoding import encode
from unime.retrieval.unime_embedder import UnimeEmbedder
from unime.training.grad_cache import ChunkTooLarge
from unime.training.graph_memory import GraphMemory

Step = Callable[[], Any]
PAIRS = 32
LLM = ("llm",)
CASES = (
    Case(PAIRS, 16, graph_memory="auto"),
    Case(PAIRS, 16),
    Case(PAIRS, 8, graph_memory="auto"),  # as shipped, but for 4-bit weights
    Case(PAIRS, 8),
    Case(PAIRS, 16, checkpointing=True, graph_memory="auto"),
    Case(PAIRS, 16, checkpointing=True),
    Case(PAIRS, 64, checkpointing=True),
    Case(PAIRS, 16, train=LLM, graph_memory="auto"),
    Case(PAIRS, 16, train=LLM),
    Case(PAIRS, 16, train=LLM, checkpointing=True, graph_memory="auto"),
    Case(PAIRS, 64, train=LLM, checkpointing=True),
)
OTHERS = (
    Case(PAIRS, 16, tf32=True),
    Case(PAIRS, 16, autocast=True),
    Case(PAIRS, 16, dropout=0.0),
    Case(PAIRS, 16, train=LLM, graph_memory="auto", compile=True),
    Case(PAIRS, 64, train=LLM, checkpointing=True, compile=True),
    Case(PAIRS, 64, checkpointing=True, quantization="nf4"),
    Case(PAIRS, 16, quantization="nf4"),
    Case(PAIRS, 8, attention="eager"),
)
OF_7B = (
    Case(16, 32, checkpointing=True, quantization="nf4"),
    Case(16, 4, checkpointing=True, quantization="nf4"),  # as shipped
    Case(16, 16, checkpointing=True, quantization="nf4"),
)
PROFILED = (Case(PAIRS, 16), Case(PAIRS, 64, checkpointing=True))
SMALL = (
    Case(4, 2, graph_memory=1),
    Case(4, 2, train=LLM),
    Case(4, 8, checkpointing=True, quantization="nf4"),
)


def speed(
    setting: Setting, cases: tuple[Case, ...], found: Result, save: Callable[[], None]
) -> None:
    """Add what each case takes; equal models are loaded once."""
    rows: list[Result] = found.setdefault("cases", [])
    encoder, loaded = None, None
    for case in SMALL if setting.small else cases:
        model = replace(case, batch=0, chunk=0, tf32=False, autocast=False, graph_memory=0)
        try:
            if model != loaded:
                encoder = None
                free()
                encoder, loaded = setting.load(case), model
            assert encoder is not None
            rows.append(time_case(setting, encoder, case))
        except (torch.OutOfMemoryError, ChunkTooLarge) as error:
            rows.append({"case": asdict(case), "out of memory": str(error)[:300]})
            if encoder is not None:
                encoder.zero_grad()
        save()
        free()


def time_case(setting: Setting, encoder: Encoder, case: Case) -> Result:
    """What a case takes, beside what the planner says of it."""
    measured = measure(setting, encoder, case)
    gpu, peak_flops = planned_gpu()
    plan = make_plan(case.config(setting.material, setting.small, gpu))
    flops = sum(plan.flops.values())
    return measured | {
        "TFLOP": flops / 1e12,
        "planned for": gpu,
        "share of the peak": (
            flops / statistics.median(measured["seconds"]) / peak_flops if peak_flops else None
        ),
        "planned seconds": plan.seconds_per_step if peak_flops else None,
        "planned GiB": sum(plan.memory.values()) / GIB - plan.config.plan.overhead_gib,
        "planned parts, GiB": {n: size / GIB for n, size in plan.memory.items() if size},
    }


def measure(setting: Setting, encoder: Encoder, case: Case) -> Result:
    batch = setting.batch(encoder, case)
    optimizer = adamw(encoder)
    reset_peak(setting)
    loaded = allocated(setting)
    graphs = GraphMemory(case.graph_memory, setting.device)

    def step() -> None:
        setting.step(encoder, batch, graphs)
        graphs.end()

    with arithmetic(setting, case):
        seconds = time_steps(setting, optimizer, step)
    return {
        "case": asdict(case),
        "chunks": len(batch.chunks),
        "kept graphs": graphs.kept,
        "GiB of them": graphs.used / GIB,
        "seconds": seconds,
        "pairs/s": case.batch / statistics.median(seconds),
        "loaded GiB": loaded,
        "peak GiB": peak(setting),
        "reserved GiB": torch.cuda.max_memory_reserved() / GIB if loaded is not None else None,
    }


def time_steps(
    setting: Setting, optimizer: torch.optim.Optimizer, step: Step, steps: int = 2
) -> list[float]:
    """Seconds of each step but the first."""
    seconds = []
    for _ in range(1 + (1 if setting.small else steps)):
        synchronise(setting)
        began = time.perf_counter()
        step()
        optimizer.step()
        optimizer.zero_grad()
        synchronise(setting)
        seconds.append(time.perf_counter() - began)
    return seconds[1:]


def kernels(setting: Setting) -> Result:
    """Where the time of a step goes, in two chunks and in one pass."""
    cases = (SMALL[0], SMALL[-1]) if setting.small else PROFILED
    found: Result = {}
    for name, case in zip(("two passes", "one pass"), cases, strict=True):
        found[name] = profiled(setting, case)
        free()
    return found


def profiled(setting: Setting, case: Case) -> Result:
    """The kernels that take most of a step, and how many there are."""
    encoder = setting.load(case)
    batch, optimizer = setting.batch(encoder, case), adamw(encoder)
    seconds = time_steps(setting, optimizer, lambda: setting.step(encoder, batch))
    on_gpu = setting.device.type == "cuda"
    with profile(activities=[ProfilerActivity.CUDA if on_gpu else ProfilerActivity.CPU]) as taken:
        setting.step(encoder, batch)
        optimizer.step()
        optimizer.zero_grad()
        synchronise(setting)
    rows = [
        (
            e.key[:120],
            (e.self_device_time_total if on_gpu else e.self_cpu_time_total) / 1e6,
            e.count,
        )
        for e in taken.key_averages()
        if not on_gpu or str(e.device_type).endswith("CUDA")
    ]
    rows.sort(key=lambda row: -row[1])
    return {
        "case": asdict(case),
        "with the optimizer's step": True,
        "seconds without the profiler": seconds,
        "seconds of kernels": sum(seconds for _, seconds, _ in rows),
        "launched": sum(calls for _, _, calls in rows),
        "most": [{"kernel": n, "seconds": s, "calls": c} for n, s, c in rows[:25]],
    }


def product(setting: Setting) -> Result:
    """The rate of a large matrix product, in TFLOP/s."""
    side, found = (256, {}) if setting.small else (8192, {})
    for name, dtype in (("bfloat16", torch.bfloat16), ("float32", torch.float32)):
        left, right = (torch.randn(side, side, device=setting.device, dtype=dtype) for _ in "ab")
        left @ right
        synchronise(setting)
        began = time.perf_counter()
        for _ in range(5):
            left @ right
        synchronise(setting)
        found[name] = 5 * 2 * side**3 / (time.perf_counter() - began) / 1e12
    return found


def encoding(setting: Setting) -> Result:
    """Items a second, read and prepared by worker processes, and of the GPU alone."""
    found: Result = {}
    pairs = setting.material.pairs
    size, workers = (4, 0) if setting.small else (64, 12)
    for quantization in ("none", "nf4"):
        case = Case(size, size, quantization=quantization)
        embedder = UnimeEmbedder(setting.load(case, trains=False))
        for kind in ("pictures with a question", "captions"):
            items = [p.query if kind.startswith("pic") else p.target for p in pairs]
            began = time.perf_counter()
            rounds = encode(setting.accelerator, embedder, items, size, workers, kind)
            count = sum(len(encoded.places) for encoded in rounds)
            all_of_it = count / (time.perf_counter() - began)
            found[f"{quantization}, {kind}"] = {
                "items": count,
                "workers": workers,
                "items/s": all_of_it,
                "items/s of the GPU": encode_rate(setting, embedder, items[:size]),
            }
        del embedder
        free()
    return found


def encode_rate(setting: Setting, embedder: UnimeEmbedder, items: list[Item]) -> float:
    prepared = embedder.prepare(items).inputs
    with torch.inference_mode():
        embedder.embed(prepared)
        began = time.perf_counter()
        for _ in range(3):
            embedder.embed(prepared)
    return 3 * len(items) / (time.perf_counter() - began)
