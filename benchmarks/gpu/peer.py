"""A step of sentence-transformers beside one of ours."""

from __future__ import annotations

import statistics
from dataclasses import asdict, replace

import torch
from accelerate.utils import send_to_device
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules.normalize import Normalize
from sentence_transformers.base.modules.transformer import Transformer
from sentence_transformers.sentence_transformer.losses import (
    CachedMultipleNegativesRankingLoss,
    MultipleNegativesRankingLoss,
)
from sentence_transformers.sentence_transformer.modules.pooling import Pooling
from torch import Tensor

from benchmarks.gpu.speed import measure, time_steps
from benchmarks.gpu.steps import (
    Case,
    Result,
    Setting,
    adamw,
    arithmetic,
    free,
    peak,
    reset_peak,
)
from unime.models.encoder import Encoder


def peer(setting: Setting) -> Result:
    """A step of their losses on the very model, adapters and inputs of ours, each at its best."""
    size = 4 if setting.small else 32
    found: Result = {"ours": [], "theirs": []}
    for case in (Case(size, min(size, 16)), Case(size, size, checkpointing=True)):
        encoder = setting.load(case)
        theirs = sentence_transformer(setting, encoder)
        losses = {"cached": cached_loss(theirs, case.chunk)}
        chunks = [case.chunk]
        if case.checkpointing:  # there is memory for the whole batch in one pass
            chunks.append(2 * size)
            losses["plain"] = MultipleNegativesRankingLoss(theirs, 1 / 0.05)
        for autocast in (False, True) if case.checkpointing else (False,):
            for chunk in chunks:
                ours = replace(case, chunk=chunk, autocast=autocast)
                found["ours"].append(measure(setting, encoder, ours))
                free()
            for name, loss in losses.items():
                timed = time_peer(setting, encoder, replace(case, autocast=autocast), loss)
                found["theirs"].append({"loss": name, **timed})
                free()
        del encoder, theirs, losses, loss
        free()
    fastest = {who: max(row["pairs/s"] for row in found[who]) for who in ("ours", "theirs")}
    return found | {"ours / theirs": fastest["ours"] / fastest["theirs"]}


def cached_loss(model: SentenceTransformer, size: int) -> CachedMultipleNegativesRankingLoss:
    return CachedMultipleNegativesRankingLoss(model, 1 / 0.05, mini_batch_size=size)


def sentence_transformer(setting: Setting, encoder: Encoder) -> SentenceTransformer:
    """A model of theirs whose transformer is ours, adapters inside."""
    kwargs = {"dtype": torch.bfloat16}
    module = Transformer(str(setting.material.model), model_kwargs=kwargs)
    module.model = encoder.model
    size = encoder.hidden_size
    modules = [module, Pooling(size, pooling_mode="lasttoken"), Normalize()]
    return SentenceTransformer(modules=modules, device=str(setting.device)).train()


def time_peer(setting: Setting, encoder: Encoder, case: Case, loss: torch.nn.Module) -> Result:
    whole = setting.batch(encoder, replace(case, chunk=2 * case.batch))
    features = send_to_device(whole.chunks[0], setting.device)
    optimizer = adamw(encoder)
    reset_peak(setting)

    def step() -> Tensor:
        value = loss([dict(part) for part in features], None)
        value.backward()
        return value

    with arithmetic(setting, case):
        seconds = time_steps(setting, optimizer, step)
        value = step().item()
    theirs = peak(setting)
    encoder.zero_grad()
    ours = setting.step(encoder, setting.batch(encoder, case)).loss.item()  # other dropout
    encoder.zero_grad()
    return {
        "case": asdict(case), "seconds": seconds, "peak GiB": theirs,
        "pairs/s": case.batch / statistics.median(seconds),
        "loss of the step": value, "ours": ours,
    }  # fmt: skip
