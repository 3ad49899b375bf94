"""The cached step of one engine against plain steps, on one or more ranks (`on_engine`).

Each rank writes FOLDER/<case>_<rank>.json with the errors that tests/engines/test_engines.py
judges. FOLDER holds models/<family> (tests/support/tiny/models.py).
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from torch import Tensor, nn

from eval.miniatures.mmeb import write_picture
from tests.support.embedding import exact_model
from unime.config import (
    HardNegativeLossConfig,
    InputConfig,
    LoraSettings,
    OptimConfig,
    PairData,
    PairSource,
    Precision,
    Quantization,
    RunConfig,
    Stage2Config,
)
from unime.inputs.items import Item, Pair
from unime.losses import LossOutput, instruction_loss
from unime.models.encoder import Encoder
from unime.runtime.distributed import gather_rows, whole
from unime.training.chunks import Batch, ChunkLimits
from unime.training.collator import PairCollator
from unime.training.engines import SHARDS_WEIGHTS, engine_of, make_accelerator
from unime.training.grad_cache import _Step, cached_backward
from unime.training.graph_memory import GraphMemory
from unime.training.kernels.lora_sum import add_in_one

LOSS = HardNegativeLossConfig(temperature=0.05, num_hard_negatives=3, symmetric=True)
OFFLOADED = {"device": "cpu"}
ZERO_3 = {"stage": 3, "stage3_param_persistence_threshold": 0}  # else so small weights stay whole
ZERO: dict[str, dict[str, Any]] = {
    "zero1": {"stage": 1},
    "zero2": {"stage": 2},
    "zero2_offload": {"stage": 2, "offload_optimizer": OFFLOADED},
    "zero3": ZERO_3,
    "zero3_offload": ZERO_3 | {"offload_optimizer": OFFLOADED, "offload_param": OFFLOADED},
}
SIZES = {  # which our configuration decides
    "train_batch_size": "auto",
    "train_micro_batch_size_per_gpu": "auto",
    "gradient_accumulation_steps": "auto",
}
SPLITS = {1: (0, 8), 2: (0, 3, 8), 3: (0, 3, 5, 8)}  # rows of each rank: uneven


@dataclass(frozen=True)
class Case:
    family: str
    trained: str  # full, lora or qlora
    parts: tuple[str, ...] = ("llm", "projector", "vision")
    dropout: float = 0.0
    checkpointing: bool = False
    precision: str = "float32"
    limits: ChunkLimits = field(default=ChunkLimits(3, 2))
    mixed_precision: str = "no"
    text_queries: bool = False  # the first chunk of every rank is without images
    graph_memory: float = 0.0  # GiB


SOME = 3 / 2**10  # GiB: some of a rank's graphs, not all
QWEN, LLAVA, NEXT = "qwen2_vl", "llava_onevision", "llava_next"
MLLAMA = "mllama"  # whose rows of no, one or two images share no forward
CASES = {
    "full": Case(QWEN, "full"),
    "lora": Case(QWEN, "lora"),
    "qlora": Case(QWEN, "qlora"),
    "llava_full": Case(LLAVA, "full"),
    "llava_lora": Case(LLAVA, "lora"),
    "llava_qlora": Case(LLAVA, "qlora"),
    "next_lora": Case(NEXT, "lora"),
    "llm": Case(QWEN, "lora", ("llm",)),
    "llm_qlora": Case(QWEN, "qlora", ("llm",)),
    "tokens": Case(QWEN, "lora", limits=ChunkLimits(9, 9, 60)),
    "one_pass": Case(QWEN, "lora", limits=ChunkLimits(99, 99)),
    "dropout": Case(QWEN, "lora", dropout=0.3),
    "checkpointing": Case(QWEN, "lora", checkpointing=True),
    "text_first": Case(QWEN, "lora", text_queries=True),
    "dropout_checkpointing": Case(LLAVA, "lora", dropout=0.3, checkpointing=True),
    "bfloat16": Case(QWEN, "lora", precision="bfloat16"),
    "in_parts": Case(MLLAMA, "lora"),
    "in_parts_llm": Case(MLLAMA, "lora", ("llm",)),  # which attends to images itself
    "in_parts_one_pass": Case(MLLAMA, "qlora", limits=ChunkLimits(99, 99)),
    "autocast": Case(QWEN, "lora", mixed_precision="bf16"),
    "kept": Case(QWEN, "lora", dropout=0.3, graph_memory=1.0),
    "kept_some": Case(QWEN, "qlora", graph_memory=SOME),
    "kept_checkpointing": Case(LLAVA, "lora", checkpointing=True, graph_memory=1.0),
}


def pairs(folder: Path) -> list[Pair]:
    """Eight pairs, those of the last rank of two without images but for one negative."""
    pictures = [
        str(write_picture(folder / f"{n}_{os.getpid()}.png", n, 28 + 14 * (n % 3)))
        for n in range(8)
    ]
    words = ["a cat", "two red birds over the sea", "a dog in the garden and a chair", "the sea"]
    shown = [Item("What is this?", (picture,)) for picture in pictures]
    said = [Item(f"{words[n % 4]} {n}") for n in range(12)]
    return [
        Pair(shown[0], said[0], (said[8], said[9])),
        Pair(said[1], Item(images=(pictures[1],)), (shown[5],)),
        Pair(shown[2], Item("both", (pictures[3], pictures[4]))),
        Pair(said[3], said[4]),
        Pair(said[4], said[3], (said[10], said[11], said[0])),
        Pair(said[5], said[6], (shown[6],)),
        Pair(said[6], said[7]),
        Pair(said[7], said[1]),
    ]


def build(case: Case, folder: Path, engine: str) -> Encoder:
    quantization = Quantization.nf4 if case.trained == "qlora" else Quantization.none
    path, precision = folder / "models" / case.family, Precision(case.precision)
    model = exact_model(path, quantization=quantization, precision=precision)
    lora = LoraSettings(rank=4, alpha=8, dropout=case.dropout, train=list(case.parts))
    encoder = Encoder.load(
        model,
        InputConfig(),
        lora=None if case.trained == "full" else lora,
        gradient_checkpointing=case.checkpointing,
        sharded=engine in SHARDS_WEIGHTS,
    )
    if case.trained == "full":
        encoder.requires_grad_(True)
    else:
        torch.manual_seed(1)
        for _, parameter in encoder.trainable_named_parameters():
            nn.init.normal_(parameter, std=0.05)  # B is zero at first, and with it A's gradient
    return encoder.train()


def loss_fn(embeddings: dict[str, Tensor], labels: dict[str, Tensor]) -> LossOutput:
    return instruction_loss(embeddings, labels, LOSS)


def local_gradients(encoder: Encoder) -> dict[str, Tensor]:
    return {
        name: torch.zeros_like(p) if p.grad is None else p.grad.clone()
        for name, p in encoder.trainable_named_parameters()
    }


def plain(case: Case, folder: Path, rows: list[Pair], engine: str) -> dict[str, Tensor]:
    """One un-chunked step over the global batch, in one process: no cache, no engine."""
    encoder = build(case, folder, engine)
    collate = PairCollator(encoder.processor, ChunkLimits(999, 999))
    batch = collate(rows)
    (parts,) = batch.chunks
    with torch.autocast("cpu", torch.bfloat16, case.mixed_precision == "bf16"):
        embedded = torch.cat([encoder(part) for part in parts])
    embeddings = batch.by_group(embedded)
    loss_fn(embeddings, batch.labels).loss.backward()
    return local_gradients(encoder)


def keeping_graphs(
    case: Case, folder: Path, batch: Batch, accelerator: Accelerator
) -> dict[str, Tensor]:
    """The same chunks and random numbers with every graph kept, and one backward."""
    encoder = build(case, folder, engine_of(accelerator))
    chunks, _ = _Step(accelerator, encoder, lambda: 0).agree(batch)
    torch.manual_seed(100 + rank())
    with accelerator.autocast():
        parts = torch.cat([encoder(*inputs).float() for inputs in chunks])
    embeddings = {name: gather_rows(rows) for name, rows in batch.by_group(parts).items()}
    labels = {name: gather_rows(value) for name, value in batch.labels.items()}
    loss_fn(embeddings, labels).loss.backward()
    gradients = local_gradients(encoder)
    if dist.is_initialized():
        for gradient in gradients.values():
            dist.all_reduce(gradient)
    return gradients


def cached(
    case: Case, encoder: Encoder, batch: Batch, accelerator: Accelerator
) -> tuple[dict[str, Tensor], list[int]]:
    """The gradient that the prepared model holds after the cached step, just before AdamW's; and
    how many graphs were kept in it and in the step before."""
    graphs = GraphMemory(case.graph_memory)
    add_in_one(encoder)
    parameters = [p for _, p in encoder.trainable_named_parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=0.0, fused=True)
    model, optimizer = accelerator.prepare(encoder, optimizer)
    # a step before, which moves nothing, but could leave something behind
    cached_backward(accelerator, model, batch, loss_fn, graphs=graphs)
    kept = [graphs.kept]
    graphs.end()
    optimizer.step()
    optimizer.zero_grad()
    named = dict(encoder.trainable_named_parameters())
    found: dict[str, Tensor] = {}
    wrapped = getattr(accelerator, "deepspeed_engine_wrapped", None)
    if wrapped is not None:
        from deepspeed.utils import safe_get_full_grad

        def instead_of_stepping() -> None:
            found.update({name: safe_get_full_grad(p).clone() for name, p in named.items()})

        wrapped.engine.step = instead_of_stepping
    torch.manual_seed(100 + rank())
    cached_backward(accelerator, model, batch, loss_fn, graphs=graphs)
    kept.append(graphs.kept)
    if wrapped is None:
        for name, parameter in named.items():
            gradient = parameter.grad
            found[name] = (
                torch.zeros(parameter.shape) if gradient is None else whole(gradient).clone()
            )
    return {name.removeprefix("module."): gradient for name, gradient in found.items()}, kept


def errors(found: dict[str, Tensor], expected: dict[str, Tensor]) -> dict[str, object]:
    """Of the whole gradient, and of the worst tensor (where a tensor's own gradient is next to
    nothing, such as a key bias's, relative to a ten-thousandth of the whole)."""
    assert found.keys() == expected.keys(), found.keys() ^ expected.keys()
    total = torch.cat([e.double().flatten() for e in expected.values()]).norm()
    apart = {n: (found[n].double() - expected[n].double()).norm() for n in expected}
    relative = {
        n: float(apart[n] / torch.maximum(expected[n].double().norm(), 1e-4 * total))
        for n in expected
    }
    worst = max(relative, key=lambda name: relative[name])
    return {
        "whole": float(torch.stack(list(apart.values())).norm() / total),
        "worst": relative[worst],
        "worst_name": worst,
        "norm": float(total),
        "tensors": len(expected),
    }


def settings(folder: Path, parts: Sequence[str] = ("llm",)) -> Stage2Config:
    """Of a run that never sees its model and data."""
    return Stage2Config(
        run=RunConfig(output_dir=str(folder / "run"), trackers=[]),
        model=exact_model("tiny"),
        lora=LoraSettings(train=list(parts)),
        data=PairData(root="none", sources={"none": PairSource()}),
        optim=OptimConfig(1, None, 4, 2, learning_rate=1e-3, max_grad_norm=None),
    )


def rank() -> int:
    return int(os.environ.get("RANK", "0"))


def run(name: str, engine: str, folder: Path) -> None:
    case = CASES[name]
    AcceleratorState._reset_state(reset_partial_state=True)
    accelerator = make_accelerator(settings(folder, case.parts))
    assert engine_of(accelerator) == engine
    rows = pairs(folder / "pictures")
    if case.text_queries:
        rows = [replace(row, query=Item(f"words {n}")) for n, row in enumerate(rows)]
    encoder = build(case, folder, engine)
    world = accelerator.num_processes
    first, last = SPLITS[world][rank()], SPLITS[world][rank() + 1]
    apart = encoder.vision.reuses_features and engine not in SHARDS_WEIGHTS
    batch = PairCollator(encoder.processor, case.limits, apart=apart)(rows[first:last])
    rounds = case.precision != "float32" or case.mixed_precision != "no"
    if case.dropout or rounds:
        expected = keeping_graphs(case, folder, batch, accelerator)
    else:
        expected = plain(case, folder, rows, engine)
    found, kept = cached(case, encoder, batch, accelerator)
    result = errors(found, expected) | {"chunks": len(batch.chunks), "ranks": world, "kept": kept}
    if rounds:  # how far plain steps in two precisions are apart
        exact = replace(case, precision="float32", mixed_precision="no")
        found, expected = (plain(one, folder, rows, engine) for one in (case, exact))
        result["own_rounding"] = errors(found, expected)["whole"]
    (folder / f"{name}_{rank()}.json").write_text(json.dumps(result))
    accelerator.free_memory()


def environment(engine: str, folder: Path) -> dict[str, str]:
    """What accelerate's launcher sets for `engine`, on CPU."""
    found: dict[str, str] = {}
    if engine in ZERO:
        path = folder / f"{engine}.json"
        path.write_text(json.dumps({"zero_optimization": ZERO[engine], **SIZES}))
        found["ACCELERATE_USE_DEEPSPEED"] = "true"
        found["ACCELERATE_DEEPSPEED_CONFIG_FILE"] = str(path)
    if engine == "fsdp2":
        found |= {
            "ACCELERATE_USE_FSDP": "true",
            "FSDP_VERSION": "2",
            "FSDP_AUTO_WRAP_POLICY": "TRANSFORMER_BASED_WRAP",
            "FSDP_RESHARD_AFTER_FORWARD": "true",
            "FSDP_CPU_RAM_EFFICIENT_LOADING": "false",
        }
    return found


def on_engine(name: str, folder: str, *cases: str) -> None:
    """What each rank runs: `cases` with the engine that the environment names."""
    with pytest.MonkeyPatch.context() as patch:
        for key, value in environment(name, Path(folder)).items():
            patch.setenv(key, value)
        for case in cases:
            patch.setenv("ACCELERATE_MIXED_PRECISION", CASES[case].mixed_precision)
            run(case, name.removesuffix("_offload"), Path(folder))
