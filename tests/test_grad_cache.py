"""The cached step equals one plain step over the global batch: on one process and on two.

pytest tests/test_grad_cache.py
"""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
import torch.nn.functional as F  # noqa: N812
from accelerate import Accelerator
from torch import Tensor, nn

from unime.collator import Batch
from unime.config import DistillationLossConfig, HardNegativeLossConfig
from unime.distributed import gather_rows
from unime.grad_cache import StepLeft, cached_backward
from unime.losses import LossOutput, distillation_loss, instruction_loss

CONFIG = HardNegativeLossConfig(0.05, 3, 0.1, symmetric=True)


class ToyEncoder(nn.Module):
    """Two layers and dropout; one chunk's inputs to unit-norm embeddings."""

    def __init__(self, dropout: float = 0.0) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(
            nn.Linear(6, 16), nn.Tanh(), nn.Dropout(dropout), nn.Linear(16, 5)
        ).double()

    def forward(self, inputs: dict[str, Tensor]) -> Tensor:
        return F.normalize(self.layers(inputs["x"]), dim=-1)


def rows(count: int, seed: int) -> Tensor:
    return torch.randn(count, 6, generator=torch.Generator().manual_seed(seed)).double()


def make_batch(query: Tensor, target: Tensor, keys: Tensor, positives: Tensor, chunk: int) -> Batch:
    labels = {
        "query_key": torch.arange(len(query)) if not len(keys) else keys[: len(query)],
        "target_key": keys,
        "is_positive": positives,
    }
    chunks = [{"x": part} for part in torch.cat([query, target]).split(chunk)]
    return Batch(chunks, {"query": len(query), "target": len(target)}, labels, [])


def pair_loss(embeddings: dict[str, Tensor], labels: dict[str, Tensor]) -> LossOutput:
    return instruction_loss(embeddings, labels, CONFIG)


def gradients(model: nn.Module) -> list[Tensor]:
    return [p.grad.clone() for p in model.parameters() if p.grad is not None]


def plain_gradients(query: Tensor, target: Tensor, labels: dict[str, Tensor]) -> list[Tensor]:
    model = ToyEncoder()
    embeddings = {"query": model({"x": query}), "target": model({"x": target})}
    embeddings = {name: value.float() for name, value in embeddings.items()}
    instruction_loss(embeddings, labels, CONFIG).loss.backward()
    return gradients(model)


@pytest.mark.parametrize(("chunk", "forwards"), [(1, 40), (3, 14), (8, 6), (19, 4), (20, 1)])
def test_cached_equals_plain(chunk: int, forwards: int) -> None:
    """The whole batch in one chunk (20 rows) takes one pass, anything less two."""
    query, target = rows(8, 1), rows(12, 2)
    positives = torch.arange(12) < 8
    batch = make_batch(query, target, torch.arange(12), positives, chunk)
    model, accelerator = ToyEncoder(), Accelerator(cpu=True)
    calls: list[object] = []
    model.register_forward_hook(lambda *_: calls.append(None))
    output = cached_backward(accelerator, model, batch, pair_loss)
    assert not output.loss.requires_grad
    assert len(calls) == forwards
    expected = plain_gradients(query, target, batch.labels)
    for ours, theirs in zip(gradients(model), expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-8)


def test_dropout_draws_the_same_masks_twice() -> None:
    """Against a run that keeps all graphs; the random stream goes on as if forwarded once."""
    query, target = rows(6, 1), rows(6, 2)
    batch = make_batch(query, target, torch.arange(6), torch.ones(6, dtype=torch.bool), 2)
    model, accelerator = ToyEncoder(dropout=0.5), Accelerator(cpu=True)
    torch.manual_seed(7)
    cached_backward(accelerator, model, batch, pair_loss)
    after = torch.rand(1)

    kept = ToyEncoder(dropout=0.5)
    torch.manual_seed(7)
    embedded = torch.cat([kept(chunk).float() for chunk in batch.chunks])
    embeddings = {"query": embedded[:6], "target": embedded[6:]}
    pair_loss(embeddings, batch.labels).loss.backward()
    assert torch.equal(after, torch.rand(1))
    for ours, theirs in zip(gradients(model), gradients(kept), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("chunks_done", [1, 2, 4, 6, 9])  # of 5 without and 5 with a graph
def test_a_signal_leaves_the_step_between_two_chunks(chunks_done: int) -> None:
    batch = make_batch(rows(8, 1), rows(12, 2), torch.arange(12), torch.arange(12) < 8, 4)
    model, accelerator = ToyEncoder(dropout=0.5), Accelerator(cpu=True)
    calls: list[object] = []
    model.register_forward_hook(lambda *_: calls.append(None))
    torch.manual_seed(7)
    before = torch.get_rng_state()
    with pytest.raises(StepLeft) as left:
        cached_backward(
            accelerator, model, batch, pair_loss, lambda: 15 * (len(calls) >= chunks_done)
        )
    assert (left.value.signum, len(calls)) == (15, chunks_done)
    assert torch.equal(torch.get_rng_state(), before)


def two_ranks(rank: int, port: int, folder: str) -> None:
    """Rank 0 has 3 queries and 7 targets, rank 1 has 5 and 5: uneven rows and chunks."""
    os.environ |= {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": "2",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "OMP_NUM_THREADS": "1",
        "ACCELERATE_USE_CPU": "true",
    }
    accelerator = Accelerator(cpu=True)
    assert accelerator.num_processes == 2
    query, target = rows(8, 1), rows(12, 2)
    keys = torch.tensor([0, 1, 2, 20, 21, 22, 23, 1, 4, 5, 6, 7])  # targets 1 and 7 are equal
    positives = torch.tensor([True] * 3 + [False] * 4 + [True] * 5)
    mine_query, mine_target = (
        (slice(0, 3), slice(0, 7)) if rank == 0 else (slice(3, 8), slice(7, 12))
    )
    batch = make_batch(
        query[mine_query], target[mine_target], keys[mine_target], positives[mine_target], 2
    )
    batch.labels["query_key"] = torch.arange(8)[mine_query]

    table = gather_rows(query[mine_query].clone().requires_grad_())
    assert torch.equal(table, query) and table.requires_grad

    model = accelerator.prepare(ToyEncoder())
    output = cached_backward(accelerator, model, batch, pair_loss)
    pair_gradients = gradients(model)
    model.zero_grad()
    in_one_chunk: list[list[Tensor]] = []
    for sizes in ((10, 10), (10, 4)):  # of a chunk on each rank; both agree on one pass or two
        batch = make_batch(
            query[mine_query],
            target[mine_target],
            keys[mine_target],
            positives[mine_target],
            sizes[rank],
        )
        batch.labels["query_key"] = torch.arange(8)[mine_query]
        cached_backward(accelerator, model, batch, pair_loss)
        in_one_chunk.append(gradients(model))
        model.zero_grad()

    teacher = F.normalize(rows(8, 3), dim=-1)
    text = Batch(
        [{"x": part} for part in query[mine_query].split(2)],
        {"text": len(query[mine_query])},
        {"teacher": teacher[mine_query]},
        [],
    )

    def distill(embeddings: dict[str, Tensor], labels: dict[str, Tensor]) -> LossOutput:
        return distillation_loss(
            embeddings["text"], labels["teacher"].float(), DistillationLossConfig()
        )

    distilled = cached_backward(accelerator, model, text, distill)
    result = {
        "pair": pair_gradients,
        "pair_in_one_chunk": in_one_chunk[0],
        "pair_in_one_chunk_on_rank_0": in_one_chunk[1],
        "pair_loss": output.loss,
        "text": gradients(model),
        "text_loss": distilled.loss,
    }
    torch.save(result, Path(folder) / f"{rank}.pt")
    dist.destroy_process_group()


def test_two_ranks_equal_one(tmp_path: Path) -> None:
    """Gradients of queries and targets of every rank arrive exactly once, in both stages' losses.

    With a plain all_gather in place of gather_rows this fails (no gradient at all).
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    mp.spawn(two_ranks, args=(port, str(tmp_path)), nprocs=2)
    ranks = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in (0, 1)]

    query, target = rows(8, 1), rows(12, 2)
    keys = torch.tensor([0, 1, 2, 20, 21, 22, 23, 1, 4, 5, 6, 7])
    positives = torch.tensor([True] * 3 + [False] * 4 + [True] * 5)
    labels = {"query_key": torch.arange(8), "target_key": keys, "is_positive": positives}
    expected = plain_gradients(query, target, labels)
    model = ToyEncoder()
    teacher = F.normalize(rows(8, 3), dim=-1).float()
    plain = distillation_loss(model({"x": query}).float(), teacher, DistillationLossConfig())
    plain.loss.backward()
    for result in ranks:
        assert float(result["text_loss"]) == pytest.approx(float(plain.loss.detach()), abs=1e-6)
        for name in ("pair", "pair_in_one_chunk", "pair_in_one_chunk_on_rank_0"):
            for ours, theirs in zip(result[name], expected, strict=True):
                torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-8)
        for ours, theirs in zip(result["text"], gradients(model), strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-8)
    assert torch.equal(ranks[0]["pair_loss"], ranks[1]["pair_loss"])
