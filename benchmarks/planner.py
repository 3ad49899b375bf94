"""The planner's numbers beside measured ones on this machine's CPU, and beside the paper's hours.

    python -m benchmarks.planner memory
    python -m benchmarks.planner time
    python -m benchmarks.planner paper

Prints Markdown tables; docs/planner.md holds those of one run. Measured are: the frozen weights'
storages; what autograd keeps, by `saved_tensors_hooks`; the peak of what a step's passes allocate
on top of that, by the profiler's record of every allocation and release; and CPU seconds of one
thread, which other programs on the machine disturb little.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from PIL import Image
from torch import Tensor
from torch.profiler import ProfilerActivity, profile
from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor

from benchmarks.gpu.models import (
    BASE,
    CLIP,
    planned_encoder,
    step_config,
    write_llava_next_7b,
)
from benchmarks.markdown import lines
from tests.support.tiny.models import build_tiny
from unime.config import Stage1PlanConfig, Stage2PlanConfig, build_config
from unime.inputs.items import Item, Pair
from unime.losses import LossOutput
from unime.models.encoder import Encoder
from unime.planning.architecture import read_architecture
from unime.planning.costs import PlannedConfig, activation_bytes, workspace_bytes
from unime.planning.planner import Plan, make_plan
from unime.training.chunks import Batch, ChunkLimits
from unime.training.collator import PairCollator
from unime.training.grad_cache import cached_backward

CONFIGS = Path(__file__).parent.parent / "configs"
MEMORY_CASES = (  # family or folder, quantization, precision, gradient checkpointing
    ("qwen2_vl", "nf4", "bfloat16", False),
    ("qwen2_vl", "nf4", "bfloat16", True),
    ("llava_next", "nf4", "bfloat16", False),
    ("llava_next", "nf4", "bfloat16", True),
    ("qwen3_vl", "none", "float32", False),
    ("qwen3_vl", "none", "float32", True),
    (BASE, "nf4", "bfloat16", False),
    (BASE, "nf4", "bfloat16", True),
    (BASE, "none", "float32", False),
    (BASE, "none", "float32", True),
)
TIME_CASES = (  # folder, quantization, chunk size, gradient checkpointing
    (BASE, "none", 16, False),
    (BASE, "none", 4, False),
    (BASE, "none", 4, True),
    (BASE, "nf4", 4, False),
    ("wide", "none", 16, False),
    ("wide", "none", 4, False),
    ("wide", "none", 4, True),
    ("wide", "nf4", 4, False),
)
PAPER_HOURS = {
    ("phi3.5-v", 1): 1,
    ("llava-1.6-7b", 1): 2,
    ("phi3.5-v", 2): 26,
    ("llava-1.6-7b", 2): 37,
}
PHI3 = {  # microsoft/Phi-3.5-mini-instruct, the language model of Phi-3.5-vision-instruct
    "model_type": "phi3", "hidden_size": 3072, "intermediate_size": 8192, "num_hidden_layers": 32,
    "num_attention_heads": 32, "num_key_value_heads": 32, "vocab_size": 32064, "pad_token_id": 0,
}  # fmt: skip
MEMORY_HEAD = (
    "model", "weights", "precision", "checkpointing", "frozen weights, KiB", "measured",
    "kept by autograd, KiB", "measured", "peak, KiB", "measured", "ratio",
)  # fmt: skip
TIME_HEAD = (
    "model", "weights", "chunk", "checkpointing", "GFLOP", "GFLOP/s of a product",
    "predicted s", "measured s", "ratio",
)  # fmt: skip
PAPER_HEAD = (
    "run", "tokens of an item with an image", "of a text", "PFLOP of a step on one GPU", "steps",
    "hours at 0.1 of the peak", "the paper's", "share of the peak that these would be",
)  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("table", choices=["memory", "time", "paper"])
    chosen = parser.parse_args().table
    torch.set_num_threads(1)
    tables = {
        "memory": (MEMORY_HEAD, memory), "time": (TIME_HEAD, seconds), "paper": (PAPER_HEAD, paper)
    }  # fmt: skip
    heads, rows = tables[chosen]
    with tempfile.TemporaryDirectory() as folder:
        for text in lines(heads, rows(Path(folder))):
            print(text, flush=True)


def memory(folder: Path) -> Iterator[Sequence[str]]:
    """Weights, kept tensors and peak of one chunk of 4 image items, predicted and measured."""
    for name, quantization, precision, checkpointing in MEMORY_CASES:
        path = name if isinstance(name, Path) else build_tiny(name, folder / name)
        config = stage2(path, quantization, precision, checkpointing, batch=4, chunk=4)
        architecture = read_architecture(config.model, config.lora)
        step = replace(make_plan(config).step, texts=0, images=4)
        weights = architecture.quantised_bytes + architecture.other_bytes
        kept = activation_bytes(config, architecture, step)
        encoder, inputs = encoder_and_inputs(config, folder, 4)
        trained = sum(p.nbytes for _, p in encoder.trainable_named_parameters())
        expected = kept + trained + workspace_bytes(config, architecture, step)
        measured_kept = kept_bytes(encoder, inputs)

        def step_once(encoder: Encoder = encoder, inputs: Any = inputs) -> None:
            encoder(inputs).sum().backward()

        peak = peak_bytes(step_once)
        yield (
            str(name), quantization, precision, str(checkpointing).lower(),
            *(f"{size / 1024:.1f}" for size in (weights, frozen_bytes(encoder))),
            "" if checkpointing else f"{kept / 1024:.0f}",
            "" if checkpointing else f"{measured_kept / 1024:.0f}",
            f"{expected / 1024:.0f}", f"{peak / 1024:.0f}", f"{expected / peak:.2f}",
        )  # fmt: skip


def seconds(folder: Path) -> Iterator[Sequence[str]]:
    """One cached step of 8 pairs (an image and a text), predicted from this machine's speed in a
    matrix product of the model's widths, and measured (the fastest of three)."""
    wide = widened_base(folder / "wide")
    for name, quantization, chunk, checkpointing in TIME_CASES:
        path = name if isinstance(name, Path) else wide
        config = stage2(path, quantization, "float32", checkpointing, batch=8, chunk=chunk)
        plan = make_plan(config)
        encoder, _ = encoder_and_inputs(config, folder, 0)
        batch = batch_of(encoder, config, folder)
        before = product_speed(config)
        flops = sum(plan.flops.values())
        taken = fastest(lambda e=encoder, b=batch: cached_step(e, b), 3)  # type: ignore[misc]
        speed = max(before, product_speed(config))  # whatever else ran on this machine meanwhile
        yield (
            str(name), quantization, str(chunk), str(checkpointing).lower(), f"{flops / 1e9:.1f}",
            f"{speed / 1e9:.1f}", f"{flops / speed:.2f}", f"{taken:.2f}",
            f"{flops / speed / taken:.2f}",
        )  # fmt: skip


def paper(folder: Path) -> Iterator[Sequence[str]]:
    """Hours of the paper's four runs with the shipped configurations, beside the paper's."""
    for name, plan, hours in paper_plans(folder):
        flops = sum(plan.flops.values())
        implied = plan.steps * flops / (hours * 3600 * plan.gpu.tflops * 1e12)
        image = f"{plan.step.image.tokens} tokens" if plan.step.images else "none"
        yield (
            name, image, f"{plan.step.text.tokens} tokens", f"{flops / 1e15:.3f}",
            str(plan.steps), f"{plan.hours:.2f}", str(hours), f"{implied:.3f}",
        )  # fmt: skip


def paper_plans(folder: Path) -> Iterator[tuple[str, Plan, int]]:
    """The paper's runs: what, its plan, the paper's hours."""
    phi = write_phi(folder / "phi")
    llava = write_llava_next_7b(folder / "llava")
    tiled = ("plan.image_tokens=757", "plan.image_patches=2880")  # 4 crops and the whole
    one_crop = ("plan.image_tokens=313", "plan.image_patches=1152")  # 1 crop and the whole
    whole = ("plan.image_tokens=576", "plan.image_patches=576")
    for name, stage, note, model, words in (
        ("phi3.5-v", 1, "", phi, ()),
        ("llava-1.6-7b", 1, "", llava, ()),
        ("phi3.5-v", 2, ", 4 crops", phi, tiled),
        ("phi3.5-v", 2, ", 1 crop", phi, one_crop),
        ("llava-1.6-7b", 2, ", tiles as its processor", llava, ()),
        ("llava-1.6-7b", 2, ", the whole alone", llava, whole),
    ):
        cls: type[PlannedConfig] = Stage1PlanConfig if stage == 1 else Stage2PlanConfig
        overrides = [f"model.name={model}", "model.trust_remote_code=false", *words]
        config = build_config(cls, CONFIGS / f"stage{stage}" / f"{name}.yaml", overrides)
        yield f"{name}, stage {stage}{note}", make_plan(config), PAPER_HOURS[name, stage]


def write_phi(folder: Path) -> Path:
    """Phi-3.5-V's two halves in LLaVA's frame: its own class is not in transformers 5. Its
    projector takes 4 patches at a time where LLaVA's takes one; the rest is the same."""
    config = AutoConfig.for_model(
        "llava", text_config=PHI3, vision_config=CLIP, tie_word_embeddings=False
    )
    config.save_pretrained(folder)
    return folder


def widened_base(folder: Path) -> Path:
    """A random model of assets/base's family, three times as wide."""
    torch.manual_seed(0)
    config = AutoConfig.from_pretrained(BASE)
    text, vision = config.text_config, config.vision_config
    text.hidden_size, text.intermediate_size = 768, 2112
    text.num_attention_heads, text.num_key_value_heads = 12, 6
    vision.hidden_size, vision.embed_dim, vision.num_heads = 768, 576, 18
    AutoModelForImageTextToText.from_config(config).save_pretrained(folder)
    AutoProcessor.from_pretrained(BASE).save_pretrained(folder)
    return folder


def stage2(
    name: Path, quantization: str, precision: str, checkpointing: bool, batch: int, chunk: int
) -> Stage2PlanConfig:
    """Every part trained, without dropout: on CPU its masks are fp32, on a GPU bytes."""
    return step_config(
        name,
        f"model.quantization={quantization}",
        f"model.precision={precision}",
        "lora.dropout=0",
        f"inputs.resolution={'96x96' if name == BASE else '28x28'}",
        f"optim.batch_size_per_device={batch}",
        f"optim.chunk_size={chunk}",
        f"optim.gradient_checkpointing={checkpointing}",
        "plan.text_tokens=32",
    )


def encoder_and_inputs(
    config: Stage2PlanConfig, folder: Path, items: int
) -> tuple[Encoder, dict[str, Tensor]]:
    """The real encoder, and `items` of the plan's image items."""
    encoder = planned_encoder(config).train()
    picture = folder / "blank.png"
    Image.new("RGB", (64, 64), "white").save(picture)
    words = " the" * 4 * config.plan.text_tokens
    samples = [encoder.processor(Item(words, (str(picture),))) for _ in range(items)]
    return encoder, encoder.processor.collate(samples) if samples else {}


def batch_of(encoder: Encoder, config: Stage2PlanConfig, folder: Path) -> Batch:
    """Queries with an image and targets without one, in chunks."""
    words = " the" * 4 * config.plan.text_tokens
    pair = Pair(Item(words, (str(folder / "blank.png"),)), Item(words))
    collate = PairCollator(encoder.processor, ChunkLimits.of(config.optim))
    return collate([pair] * config.optim.batch_size_per_device)


def cached_step(encoder: Encoder, batch: Batch) -> None:
    def loss(embeddings: dict[str, Tensor], labels: dict[str, Tensor]) -> LossOutput:
        scores = embeddings["query"] @ embeddings["target"].T
        return LossOutput(torch.nn.functional.cross_entropy(scores, torch.arange(len(scores))), {})

    cached_backward(Accelerator(cpu=True), encoder, batch, loss)


def kept_bytes(encoder: Encoder, inputs: dict[str, Tensor]) -> int:
    """Storages that autograd keeps of one forward pass, each once, without the weights."""
    known = {storage for storage, _ in storages(weights_of(encoder))}
    kept: dict[int, Tensor] = {}

    def pack(tensor: Tensor) -> Tensor:
        if tensor.untyped_storage().data_ptr() not in known:
            kept[tensor.untyped_storage().data_ptr()] = tensor  # held, so that no place is reused
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        encoder(inputs)
    return sum(size for _, size in storages(kept.values()))


def peak_bytes(run: Callable[[], None]) -> int:
    """The most that is allocated at once while `run` runs, beyond what was there before."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        run()
    events: list[Any] = [
        event
        for event in recorded.profiler.kineto_results.events()  # type: ignore[union-attr]
        if event.name() == "[memory]"
    ]
    live = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        live += event.nbytes()
        peak = max(peak, live)
    return peak


def frozen_bytes(encoder: Encoder) -> int:
    """Storages of the registered weights that are not trained, and of what decodes them."""
    trained = {id(parameter) for _, parameter in encoder.trainable_named_parameters()}
    tensors = [tensor for tensor in weights_of(encoder) if id(tensor) not in trained]
    return sum(size for _, size in storages(tensors))


def weights_of(encoder: Encoder) -> Iterator[Tensor]:
    yield from encoder.buffers()
    for parameter in encoder.parameters():
        yield parameter
        state = getattr(parameter, "quant_state", None)
        if state is not None:
            yield from (state.absmax, state.code, state.offset)
            yield from (state.state2.absmax, state.state2.code)


def storages(tensors: Iterable[Tensor]) -> set[tuple[int, int]]:
    """Address and bytes of each storage, once."""
    return {
        (tensor.untyped_storage().data_ptr(), tensor.untyped_storage().nbytes())
        for tensor in tensors
    }


def product_speed(config: Stage2PlanConfig) -> float:
    """FLOP/s of a product of the feed-forward network's sizes and one chunk's rows, one thread."""
    step = make_plan(config).step
    rows = round(step.image.tokens * min(config.optim.chunk_size, step.images))
    text = AutoConfig.from_pretrained(config.model.name).text_config
    left = torch.randn(rows, text.hidden_size)
    right = torch.randn(text.hidden_size, text.intermediate_size)
    return 2 * left.numel() * right.shape[1] / fastest(lambda: left @ right, 30)


def fastest(run: Callable[[], object], times: int) -> float:
    """CPU seconds of the fastest of `times` runs, after one to warm up; one thread."""
    run()
    taken = []
    for _ in range(times):
        began = time.process_time()
        run()
        taken.append(time.process_time() - began)
    return min(taken)


if __name__ == "__main__":
    main()
