"""Whether a step is right on a GPU: its gradient, and 4-bit weights."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from accelerate.utils import send_to_device
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity

from benchmarks.gpu.models import Material
from benchmarks.gpu.steps import (
    Case,
    Result,
    Setting,
    allocated,
    floats,
    free,
    info_nce,
    peak,
    reset_peak,
)
from unime.models.encoder import Encoder
from unime.training.chunks import Batch, ChunkLimits
from unime.training.graph_memory import GraphMemory


def exactness(setting: Setting) -> Result:
    """Gradients of the cached step against one graph of the whole batch, with dropout and without,
    and against the plain step; beside it what rounding alone does: the pairs in another order."""
    size, chunk = (4, 3) if setting.small else (8, 3)
    found: Result = {"pairs": size, "items a chunk": chunk, "TF32": False}
    exact: dict[str, Tensor] = {}
    for precision in ("float32", "bfloat16"):
        case = Case(size, chunk, precision=precision, dropout=0.1)
        encoder = setting.load(case)
        fill_adapters(encoder)
        chunked = setting.batch(encoder, case)
        whole = setting.batch(encoder, replace(case, chunk=2 * size))
        pairs = setting.material.pairs
        turned = Material(
            setting.material.model, pairs[:size][::-1], setting.material.samples
        ).batch(encoder.processor, ChunkLimits(2 * size, 2 * size), size)
        cached = gradients(encoder, lambda e=encoder, b=chunked: setting.step(e, b))
        together = gradients(encoder, lambda e=encoder, b=chunked: one_graph(setting, e, b))
        kept = gradients(encoder, lambda e=encoder, b=chunked: setting.step(e, b, graphs(setting)))
        set_dropout(encoder, 0.0)
        alone = gradients(encoder, lambda e=encoder, b=chunked: setting.step(e, b))
        plain = gradients(encoder, lambda e=encoder, b=whole: setting.step(e, b))
        other_order = gradients(encoder, lambda e=encoder, b=turned: setting.step(e, b))
        exact = exact or plain
        found[precision] = {
            "with dropout, against one graph": apart(cached, together),
            "all graphs kept, against none": apart(kept, cached),
            "without dropout, against the plain step": apart(alone, plain),
            "the plain step, pairs in another order": apart(other_order, plain),
        }
        if precision == "bfloat16":
            found[precision] |= {
                "cached, against float32": apart(alone, exact),
                "plain, against float32": apart(plain, exact),
            }
        output = setting.step(encoder, whole)
        encoder.zero_grad()
        found[precision] |= {"loss": output.loss.item()} | floats(output)
        del encoder
        free()
    worst = [of["worst"] for of in list(found["float32"].values())[:3]]
    found["float32 within 1e-5"] = max(worst) < 1e-5
    return found


def float64(setting: Setting) -> Result:
    """The cached step against the plain one where rounding is 1e-16: what else there is is a fault.
    Embeddings and loss stay float32, which is the same rounding of nearly the same numbers."""
    case = Case(4, 3, precision="float32", dropout=0.0)
    encoder = setting.load(case).double()
    encoder.precision = torch.float64
    fill_adapters(encoder)
    chunked = setting.batch(encoder, case)
    whole = setting.batch(encoder, replace(case, chunk=2 * case.batch))
    alone = gradients(encoder, lambda: setting.step(encoder, chunked))
    kept = gradients(encoder, lambda: setting.step(encoder, chunked, graphs(setting)))
    plain = gradients(encoder, lambda: setting.step(encoder, whole))
    found = {"pairs": case.batch, "items a chunk": case.chunk, **apart(alone, plain)}
    return found | {"graphs kept, against none": apart(kept, alone)["all"]}


def one_graph(setting: Setting, encoder: Encoder, batch: Batch) -> None:
    """The plain step of a batch in chunks, which draws its random numbers chunk by chunk."""
    chunks = [send_to_device(chunk, setting.device) for chunk in batch.chunks]
    rows = torch.cat([encoder(chunk) for chunk in chunks])
    labels = send_to_device(batch.labels, setting.device)
    info_nce(batch.by_group(rows), labels).loss.backward()


def graphs(setting: Setting) -> GraphMemory:
    """With room for all."""
    return GraphMemory(1000.0, setting.device)


def gradients(encoder: Encoder, step: Callable[[], Any]) -> dict[str, Tensor]:
    """Of all trained parameters, from one random state."""
    torch.manual_seed(1)
    step()
    named = {name: p.grad for name, p in encoder.trainable_named_parameters()}
    taken = {name: g.double().cpu() for name, g in named.items() if g is not None}
    encoder.zero_grad()
    return taken


def apart(found: dict[str, Tensor], expected: dict[str, Tensor]) -> Result:
    """|found - expected| / |expected|, of all together and of the worst parameter."""
    errors = {
        name: ((found[name] - value).norm() / value.norm()).item()
        for name, value in expected.items()
        if value.any()
    }
    name = max(errors, key=lambda name: errors[name])
    ours, theirs = flat(found), flat(expected)
    return {
        "all": ((ours - theirs).norm() / theirs.norm()).item(),
        "worst": errors[name],
        "worst parameter": name,
        "parameters": len(errors),
        "zero": len(expected) - len(errors),
    }


def fill_adapters(encoder: Encoder) -> None:
    """A fresh adapter's B is zero, and so is the gradient of its A."""
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for name, parameter in encoder.trainable_named_parameters():
            if "lora_B" in name:
                parameter.copy_(0.02 * torch.randn(parameter.shape, generator=generator))


def set_dropout(encoder: Encoder, share: float) -> None:
    for module in encoder.modules():
        if isinstance(module, nn.Dropout):
            module.p = share


def nf4(setting: Setting) -> Result:
    """Embeddings, a step's loss, gradient and memory of 4-bit weights, against the same weights
    held in bfloat16 (as they were, and as the 4 bits stand for)."""
    size = 4 if setting.small else 32
    vectors: dict[str, Tensor] = {}
    taken: dict[str, dict[str, Tensor]] = {}
    found: Result = {"pairs": size}
    for name, kind, dequantised in (
        ("bfloat16", "none", False), ("nf4", "nf4", False), ("nf4, decoded", "nf4", True),
    ):  # fmt: skip
        case = Case(size, 8, quantization=kind, dropout=0.0)
        encoder = setting.load(case, dequantised=dequantised)
        fill_adapters(encoder)
        free()
        loaded = allocated(setting)
        batch = setting.batch(encoder, case)
        with torch.inference_mode():
            rows = [encoder(send_to_device(chunk, setting.device)) for chunk in batch.chunks]
        vectors[name] = torch.cat(rows).cpu()
        reset_peak(setting)
        began = time.perf_counter()
        losses: list[float] = []
        taken[name] = gradients(
            encoder, lambda e=encoder, b=batch, to=losses: to.append(setting.step(e, b).loss.item())
        )
        found[name] = {"loaded GiB": loaded, "peak GiB": peak(setting), "loss": losses[0]}
        found[name]["seconds of the first step"] = time.perf_counter() - began
        del encoder
        free()
    for one, other in (("nf4", "bfloat16"), ("nf4", "nf4, decoded")):
        cosines = cosine_similarity(vectors[one], vectors[other])
        found[f"cosine, {one} and {other}"] = {
            "mean": cosines.mean().item(),
            "least": cosines.min().item(),
            "gradients": cosine_similarity(flat(taken[one]), flat(taken[other]), dim=0).item(),
        }
    return found


def flat(tensors: dict[str, Tensor]) -> Tensor:
    return torch.cat([tensor.flatten() for tensor in tensors.values()])
