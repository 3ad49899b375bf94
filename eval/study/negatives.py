"""Loss and gradient of easy, random and hard negatives: the paper's figure, on one model.

    ./launch.sh stage2 CONFIG run.output_dir=RUN run.save_every=8 run.save_total_limit=20
    python -m eval.study.negatives RUN runs/study/recipes/figures/negatives.json

The paper trains a model with each kind. Here the same batches are looked at by one model, at the
start of stage 2 and at every checkpoint that the run has kept: what its k hardest, k random and k
easiest negatives cost, and how large the gradient of that loss is that its adapter gets. So the
kinds differ by the negatives alone. `python -m eval.study.figures` draws it.
"""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from unime.config import HardNegativeLossConfig, Stage2Config, build_config
from unime.data.datasets import PairDataset
from unime.data.sampler import GlobalBatchSampler
from unime.inputs.items import Item, Pair, item_key
from unime.losses import negatives_of
from unime.losses.hard_negatives import hard_negative_loss
from unime.models.encoder import Encoder
from unime.runtime.environment import device_name, git_commit
from unime.runtime.files import write_json, writing
from unime.runtime.folder_lock import locked
from unime.runtime.program import run_program
from unime.runtime.progress import progress_bar

KINDS = ("easy", "random", "hard")
BATCHES, PAIRS, SEED = 6, 64, 0


def main(words: list[str]) -> None:
    if len(words) != 2 or not words[1].endswith(".json"):
        raise SystemExit(__doc__)
    run, output = (Path(os.path.expanduser(word)) for word in words)
    found = measure(run)
    with locked("OUTPUT", output.parent), writing("OUTPUT", output):
        write_json(output, found)
    print(f"written: {output}")


def measure(run: Path, batches: int = BATCHES, pairs: int = PAIRS) -> dict[str, Any]:
    """What each kind costs at each kept step of a run of stage 2."""
    config = build_config(Stage2Config, run / "config.yaml")
    encoder = Encoder.load(config.model, config.inputs, lora=config.lora)
    rows = list(_batches(config, batches, pairs))
    k = config.loss.num_hard_negatives or 8
    found: dict[str, list[dict[str, float]]] = {kind: [] for kind in KINDS}
    places = [(0, None), *_checkpoints(run)]
    for step, folder in progress_bar(places, total=len(places), desc="steps", unit="step"):
        if folder is not None:
            encoder.load_trained(folder)
        sums = torch.zeros(len(KINDS), 2, dtype=torch.double)
        for batch in rows:
            sums += torch.tensor(_costs(encoder, batch, config.loss, k), dtype=torch.double)
        for kind, (loss, norm) in zip(KINDS, (sums / len(rows)).tolist(), strict=True):
            found[kind].append({"step": step, "loss": loss, "grad_norm": norm})
    facts = {"commit": git_commit(), "hardware": device_name(), "run": run.name}
    return facts | {"k": k, "batches": batches, "pairs": pairs, "kinds": found}


def _checkpoints(run: Path) -> Iterator[tuple[int, Path]]:
    for path in sorted((run / "checkpoints").glob("step_*")):
        if path.name.removeprefix("step_").isdecimal():
            yield int(path.name.removeprefix("step_")), path


def _batches(config: Stage2Config, count: int, size: int) -> Iterator[list[Pair]]:
    rows = PairDataset.load(config.data, config.run.seed)
    sampler = GlobalBatchSampler(rows.task_sizes, size, config.data.mixing, seed=SEED)
    for step in range(count):
        yield [rows[place] for place in sampler.batch(step)]


def _costs(
    encoder: Encoder, batch: Sequence[Pair], loss: HardNegativeLossConfig, k: int
) -> list[tuple[float, float]]:
    """Loss and norm of the gradient of each kind."""
    queries = _embedded(encoder, [pair.query for pair in batch])
    targets = _embedded(encoder, [pair.target for pair in batch])
    keys = [torch.tensor([item_key(getattr(pair, side)) for pair in batch])
            for side in ("query", "target")]  # fmt: skip
    eligible = negatives_of(keys[0], keys[1], keys[1])
    similarity = (queries @ targets.T).detach()
    trained = [parameter for _, parameter in encoder.trainable_named_parameters()]
    plain = replace(
        loss, num_hard_negatives=None, false_negative_margin=None, soft_labels=0.0,
        learn_temperature=False, hardness_strength=0.0,
    )  # fmt: skip
    found = []
    for kind in KINDS:
        chosen = choose(kind, similarity, eligible, k)
        own = torch.arange(len(queries))
        value = hard_negative_loss(queries, targets, own, chosen, plain).loss
        gradients = torch.autograd.grad(value, trained, retain_graph=True, allow_unused=True)
        squares = sum(float(g.square().sum()) for g in gradients if g is not None)
        found.append((value.item(), math.sqrt(squares)))
    return found


def choose(kind: str, similarity: Tensor, eligible: Tensor, k: int) -> Tensor:
    """Which k negatives of a kind each query gets (Q, C), or all where there are no more.

    Args:
        similarity: (Q, C).
        eligible: which candidates may be negatives at all (Q, C).
    """
    random = torch.Generator().manual_seed(SEED)
    score = {
        "easy": -similarity,
        "random": torch.rand(similarity.shape, generator=random),
        "hard": similarity,
    }[kind]
    best = score.masked_fill(~eligible, float("-inf")).topk(min(k, score.shape[1])).indices
    return torch.zeros_like(eligible).scatter(1, best, True) & eligible


def _embedded(encoder: Encoder, items: list[Item]) -> Tensor:
    """With a graph, in evaluation mode."""
    samples = [encoder.eval().processor(item) for item in items]
    return encoder.embed(*encoder.parts(samples))


if __name__ == "__main__":
    run_program(lambda: main(sys.argv[1:]))
