"""The cached step equals one plain step over the global batch: on one process and on two.

pytest tests/training/test_grad_cache.py
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from accelerate import Accelerator
from torch import Tensor, nn

from tests.support.ranks import Ranks
from unime.config import DistillationLossConfig, HardNegativeLossConfig, OptimConfig
from unime.losses import LearntTemperature, LossOutput, distillation_loss, instruction_loss
from unime.runtime.distributed import gather_rows
from unime.training.chunks import Batch
from unime.training.grad_cache import ChunkTooLarge, StepLeft, _Step, cached_backward
from unime.training.graph_memory import GraphMemory

CONFIG = HardNegativeLossConfig(0.05, 3, 0.1, symmetric=True)
SIZES: dict[str, Any] = {"matryoshka_dimensions": [4, 2], "matryoshka_weights": [0.5, 2.0]}  # of 5
SIZED = replace(CONFIG, **SIZES)
DISTILLATION = DistillationLossConfig(**SIZES)
KEYS = torch.tensor([0, 1, 2, 20, 21, 22, 23, 1, 4, 5, 6, 7])  # targets 1 and 7 are equal
POSITIVES = torch.tensor([True] * 3 + [False] * 4 + [True] * 5)
LABELS = {"query_key": torch.arange(8), "target_key": KEYS, "is_positive": POSITIVES}
JUDGED = HardNegativeLossConfig(
    0.1, 3, None, hardness_strength=2.0, soft_labels=0.5, judge_temperature=0.3, **SIZES
)
OWN = [-1, -1, -1, -3, -3, -1, -2, -1, -1, -1, -1, -1]  # of 3 rows of rank 0: 0, 0, 2 and 1
OF_JUDGE = LABELS | {"own_query": torch.tensor(OWN), "score": torch.linspace(1, 0, 12)}

EVERY = HardNegativeLossConfig(0.05, None, None, symmetric=True)
# rows 0, 3 and 4 share an answer, 2 and 5 another; of rank 0's explicit negatives one is a copy of
# rank 1's second target, whose answer is row 0's, and one is right for row 6 of rank 1
OF_ANSWERS = LABELS | {
    "target_key": torch.tensor([0, 1, 2, 20, 4, 22, 23, 1, 4, 5, 6, 7]),
    "asked": torch.tensor([[0, 105], [2, 107], [3, 105], [4, 105], [5, 107], [6, 22], [7, 109]]),
    "named": torch.tensor(
        [[0, 105], [2, 107], [4, 105], [22, 22], [1, 105], [5, 107], [7, 109], [9, 109]]
    ),
}


class ToyEncoder(nn.Module):
    """Two layers and dropout; one chunk to unit-norm embeddings."""

    def __init__(self, dropout: float = 0.0) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(
            nn.Linear(6, 16), nn.Tanh(), nn.Dropout(dropout), nn.Linear(16, 5)
        ).double()

    def forward(self, chunk: list[dict[str, Tensor]]) -> Tensor:
        return F.normalize(self.layers(torch.cat([part["x"] for part in chunk])), dim=-1)


def rows(count: int, seed: int) -> Tensor:
    return torch.randn(count, 6, generator=torch.Generator().manual_seed(seed)).double()


def make_batch(query: Tensor, target: Tensor, labels: dict[str, Tensor], chunk: int) -> Batch:
    chunks = [
        [{"x": part, "attention_mask": torch.ones(len(part), 4)}]
        for part in torch.cat([query, target]).split(chunk)
    ]
    return Batch(chunks, {"query": len(query), "target": len(target)}, labels, [])


def whole_batch(chunk: int, queries: int = 8, targets: int = 12) -> Batch:
    """All items differ, and the first targets are the right ones."""
    labels = {
        "query_key": torch.arange(queries),
        "target_key": torch.arange(targets),
        "is_positive": torch.arange(targets) < queries,
    }
    return make_batch(rows(queries, 1), rows(targets, 2), labels, chunk)


def temperature() -> LearntTemperature:
    optim = OptimConfig(steps=1, batch_size_per_device=1, chunk_size=1, learning_rate=1e-3)
    return LearntTemperature(0.1, 0.01, optim)


def pair_loss(
    embeddings: dict[str, Tensor],
    labels: dict[str, Tensor],
    config: HardNegativeLossConfig = CONFIG,
    learnt: LearntTemperature | None = None,
) -> LossOutput:
    return instruction_loss(embeddings, labels, config, None, learnt and learnt.value)


def gradients(model: nn.Module) -> list[Tensor]:
    return [p.grad.clone() for p in model.parameters() if p.grad is not None]


def assert_close(found: list[Tensor], expected: list[Tensor]) -> None:
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-8)


def plain_gradients(
    labels: dict[str, Tensor], config: HardNegativeLossConfig = CONFIG
) -> list[Tensor]:
    """Of 8 queries and 12 targets in one graph."""
    model = ToyEncoder()
    embeddings = {"query": model([{"x": rows(8, 1)}]), "target": model([{"x": rows(12, 2)}])}
    embeddings = {name: value.float() for name, value in embeddings.items()}
    instruction_loss(embeddings, labels, config).loss.backward()
    return gradients(model)


@pytest.mark.parametrize("config", [CONFIG, SIZED], ids=["one size", "sizes"])
@pytest.mark.parametrize(("chunk", "forwards"), [(1, 40), (3, 14), (8, 6), (19, 4), (20, 1)])
def test_cached_equals_plain(chunk: int, forwards: int, config: HardNegativeLossConfig) -> None:
    """The whole batch in one chunk (20 rows) takes one pass, anything less two."""
    batch = whole_batch(chunk)
    model, accelerator = ToyEncoder(), Accelerator(cpu=True)
    calls: list[object] = []
    model.register_forward_hook(lambda *_: calls.append(None))
    output = cached_backward(accelerator, model, batch, partial(pair_loss, config=config))
    assert not output.loss.requires_grad
    assert len(calls) == forwards
    assert_close(gradients(model), plain_gradients(batch.labels, config))


def test_dropout_draws_the_same_masks_twice() -> None:
    """Against a run that keeps all graphs; the random stream goes on as if forwarded once."""
    batch = whole_batch(2, 6, 6)
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
    assert_close(gradients(model), gradients(kept))


GRAPH = 2032 / 2**30  # GiB of a chunk of 4 rows of ToyEncoder with dropout


@pytest.mark.parametrize(
    ("limit", "kept"), [(0.0, 0), (0.5 * GRAPH, 0), (1.5 * GRAPH, 1), (4.0 * GRAPH, 4), (1.0, 5)]
)
def test_kept_graphs_change_no_number(limit: float, kept: int) -> None:
    """Of 5 chunks as many keep their graph as fit, and are embedded once; gradients and random
    stream are the same to the last bit."""
    batch = whole_batch(4)
    accelerator = Accelerator(cpu=True)
    found = []
    for graphs in (GraphMemory(limit), None):
        model = ToyEncoder(dropout=0.5)
        calls: list[object] = []
        model.register_forward_hook(lambda *_, calls=calls: calls.append(None))
        torch.manual_seed(7)
        for _ in range(2):  # measured in the first step, expected in the second
            calls.clear()
            loss = partial(pair_loss, config=SIZED)
            cached_backward(accelerator, model, batch, loss, graphs=graphs)
            if graphs is not None:
                assert (graphs.kept, len(calls)) == (kept, 10 - kept)
                graphs.end()
        found.append([torch.rand(1), *gradients(model)])
    assert all(map(torch.equal, *found))


def test_graphs_make_way_when_memory_is_full() -> None:
    """Half as much is kept each time, then none; after that there is nothing to give."""
    model, batch, graphs = ToyEncoder(), whole_batch(4), GraphMemory(1.0)
    kept = []
    for _ in range(5):
        cached_backward(Accelerator(cpu=True), model, batch, pair_loss, graphs=graphs)
        kept.append(graphs.kept)
        graphs.end()
        if not graphs.shrink():
            break
    assert kept == [5, 2, 1, 0]


def test_what_is_measured_of_a_forward() -> None:
    """What autograd keeps, and the result; not what a forward only passes through."""
    graphs = GraphMemory(1.0)
    layers = nn.Sequential(nn.Linear(100, 200), nn.Tanh(), nn.Linear(200, 100))
    part = {"x": torch.randn(50, 100), "attention_mask": torch.ones(50, 1)}
    sizes = []
    for enabled in (True, False):
        with torch.set_grad_enabled(enabled), graphs.measured([part]):
            result = layers(part["x"])
        sizes.append(graphs._sizes[-1])
        del result
    assert sizes == [4 * 50 * (200 + 100), 4 * 50 * 100]  # Tanh keeps its output alone


def test_a_kind_of_chunk_that_comes_later_is_measured_too() -> None:
    """Texts in the first step, then pictures, of which one graph fits."""
    graphs, masks = GraphMemory(2 * 50 * 1000 * 4 / 2**30), torch.ones(50, 1)
    weight = torch.ones(1, requires_grad=True)

    def kept(chunk: list[dict[str, Tensor]], width: int) -> list[Tensor]:
        graphs.begin()
        held = []
        for _ in range(3):
            if graphs.has_room(chunk):
                with graphs.measured(chunk):
                    held.append(torch.ones(50, width) * weight)  # both are kept
                graphs.exceeded()
        assert graphs.limit is not None and graphs.used <= graphs.limit
        graphs.end()
        return held

    texts, pictures = {"attention_mask": masks}, {"attention_mask": masks, "pixel_values": masks}
    kept([texts], 4)
    assert graphs.kept == 3
    for _ in range(2):
        kept([pictures], 800)
        assert graphs.kept == 1


@pytest.mark.parametrize(
    ("chunk", "at"),  # of 4: 5 chunks without and 5 with a graph
    [(4, 0), (4, 1), (4, 4), (4, 5), (4, 6), (4, 8), (4, 10), (20, 1)],
)
def test_a_signal_leaves_the_step_between_two_chunks(chunk: int, at: int) -> None:
    batch = whole_batch(chunk)
    model, accelerator = ToyEncoder(dropout=0.5), Accelerator(cpu=True)
    calls: list[object] = []
    model.register_forward_hook(lambda *_: calls.append(None))
    torch.manual_seed(7)
    before = torch.get_rng_state()
    with pytest.raises(StepLeft) as left:
        cached_backward(accelerator, model, batch, pair_loss, lambda: 15 * (len(calls) >= at))
    assert (left.value.signum, len(calls)) == (15, at)
    assert torch.equal(torch.get_rng_state(), before)


def test_in_lockstep_no_rank_skips_a_chunk_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """A signal that comes just after the ranks have looked waits until they look again."""
    monkeypatch.setattr("unime.training.grad_cache.in_lockstep", lambda _: True)
    signals = iter([0, 15])
    step = _Step(Accelerator(cpu=True), ToyEncoder(), lambda: next(signals))
    assert step._leaves() is False
    with pytest.raises(StepLeft):
        step._leaves()


@pytest.mark.parametrize("others", [3, 2])
def test_in_lockstep_ranks_agree_on_parts(monkeypatch: pytest.MonkeyPatch, others: int) -> None:
    """A chunk of two parts here and of more there (Backbone.group) is no pass in common, but as
    many forwards on both, with a blank image where the other rank has one."""
    text, image = {"attention_mask": torch.ones(1, 2)}, {"attention_mask": torch.ones(1, 9)}
    image["pixel_values"] = torch.ones(1)
    numbers = iter([[[1, 2], [1, others]], [[0, 1, 0][:others], [1] * others]])
    monkeypatch.setattr("unime.training.grad_cache.in_lockstep", lambda _: True)
    monkeypatch.setattr(
        "unime.training.grad_cache.gather_numbers", lambda *_: torch.tensor(next(numbers)).long()
    )
    step = _Step(Accelerator(cpu=True), ToyEncoder(), lambda: 0)
    batch = Batch([[text, image]], {"query": 2}, {}, ["a", "b"])
    inputs, in_one_pass = step.agree(batch)
    if others == 2:
        assert in_one_pass and inputs == [([text, image], [True, False])]
    else:
        assert not in_one_pass
        assert inputs == [([text], [True]), ([image], [False]), ([text], [True])]


def own_rows(rank: int) -> tuple[slice, slice]:
    """Rank 0 has 3 queries and 7 targets, rank 1 has 5 and 5: uneven rows and chunks."""
    return (slice(0, 3), slice(0, 7)) if rank == 0 else (slice(3, 8), slice(7, 12))


def own_batch(rank: int, chunk: int, of_all: dict[str, Tensor] = LABELS) -> Batch:
    queries, targets = own_rows(rank)
    names = {"asked": of_all["query_key"][queries], "named": of_all["target_key"][targets]}
    labels = {
        name: of[torch.isin(of[:, 0], names[name])]
        if name in names
        else of[queries if name.startswith("query_") else targets]
        for name, of in of_all.items()
    }
    return make_batch(rows(8, 1)[queries], rows(12, 2)[targets], labels, chunk)


def gradients_of_ranks(folder: str) -> None:
    accelerator = Accelerator(cpu=True)
    rank = accelerator.process_index
    query = rows(8, 1)
    mine_query, _ = own_rows(rank)

    table = gather_rows(query[mine_query].clone().requires_grad_())
    assert torch.equal(table, query) and table.requires_grad

    model = accelerator.prepare(ToyEncoder())
    outputs, pair_gradients = [], []
    # Chunks of each rank's 10 rows. Both agree on one pass or two.
    for sizes in ((2, 2), (10, 4), (4, 10), (10, 10)):
        outputs.append(cached_backward(accelerator, model, own_batch(rank, sizes[rank]), pair_loss))
        pair_gradients.append(gradients(model))
        model.zero_grad()
    cached_backward(accelerator, model, own_batch(rank, 4), partial(pair_loss, config=SIZED))
    of_sizes = gradients(model)
    model.zero_grad()
    loss = partial(pair_loss, config=EVERY)
    cached_backward(accelerator, model, own_batch(rank, 4, OF_ANSWERS), loss)
    of_answers = gradients(model)
    model.zero_grad()
    learnt = temperature()
    loss = partial(pair_loss, config=JUDGED, learnt=learnt)
    parameters = [learnt.log_scale]
    batch = own_batch(rank, 4, OF_JUDGE)
    cached_backward(accelerator, model, batch, loss, parameters=parameters)
    judged = [*gradients(model), learnt.log_scale.grad]
    model.zero_grad()

    texts, teacher = query[mine_query], F.normalize(rows(8, 3), dim=-1)[mine_query]
    chunks = [[{"x": part}] for part in texts.split(2)]
    text = Batch(chunks, {"text": len(texts)}, {"teacher": teacher}, [])

    def distill(embeddings: dict[str, Tensor], labels: dict[str, Tensor]) -> LossOutput:
        return distillation_loss(embeddings["text"], labels["teacher"].float(), DISTILLATION)

    distilled = cached_backward(accelerator, model, text, distill)
    result = {
        "pair": pair_gradients,
        "sizes": of_sizes,
        "judged": judged,
        "answers": of_answers,
        "pair_loss": torch.stack([output.loss for output in outputs]),
        "text": gradients(model),
        "text_loss": distilled.loss,
    }
    torch.save(result, Path(folder) / f"{rank}.pt")


def test_two_ranks_equal_one(two_ranks: Ranks, tmp_path: Path) -> None:
    """Gradients of queries and targets of every rank arrive exactly once, in both stages' losses.

    With a plain all_gather in place of gather_rows this fails (no gradient at all).
    """
    two_ranks.run(gradients_of_ranks, str(tmp_path))
    ranks = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in (0, 1)]

    expected = plain_gradients(LABELS)
    model = ToyEncoder()
    teacher = F.normalize(rows(8, 3), dim=-1).float()
    plain = distillation_loss(model([{"x": rows(8, 1)}]).float(), teacher, DISTILLATION)
    plain.loss.backward()
    for result in ranks:
        assert float(result["text_loss"]) == pytest.approx(float(plain.loss.detach()), abs=1e-6)
        for found in result["pair"]:
            assert_close(found, expected)
        assert_close(result["sizes"], plain_gradients(LABELS, SIZED))
        assert_close(result["text"], gradients(model))
        assert_close(result["judged"], judged_gradients())
        assert_close(result["answers"], plain_gradients(OF_ANSWERS, EVERY))
    assert torch.equal(ranks[0]["pair_loss"], ranks[1]["pair_loss"])


def test_answers_of_both_ranks_count() -> None:
    """What `test_two_ranks_equal_one` compares hangs on answers that ranks share."""
    for key, name in ((0, 105), (2, 107), (6, 22)):  # asked for on one rank alone
        asked = OF_ANSWERS["asked"]
        is_other = (asked != torch.tensor([key, name])).any(dim=1)
        alone = OF_ANSWERS | {"asked": asked[is_other]}
        change = plain_gradients(alone, EVERY)[0] - plain_gradients(OF_ANSWERS, EVERY)[0]
        assert change.norm() > 1e-5


def judged_gradients() -> list[Tensor]:
    """With soft labels and a temperature that is learnt, of one process in one graph; its rows are
    those of both ranks, so the labels say the same."""
    model, learnt = ToyEncoder(), temperature()
    sides = {"query": model([{"x": rows(8, 1)}]), "target": model([{"x": rows(12, 2)}])}
    embeddings = {name: value.float() for name, value in sides.items()}
    pair_loss(embeddings, OF_JUDGE, JUDGED, learnt).loss.backward()
    assert learnt.log_scale.grad is not None
    return [*gradients(model), learnt.log_scale.grad]


def signal_to_one_rank(step: str) -> None:
    """The signal reaches rank 1 alone, while the loss of a step is computed."""
    accelerator = Accelerator(cpu=True)
    rank = accelerator.process_index
    model = accelerator.prepare(ToyEncoder())
    reached: list[int] = []

    def loss_and_signal(embeddings: dict[str, Tensor], labels: dict[str, Tensor]) -> LossOutput:
        reached.extend([15] * rank)
        return pair_loss(embeddings, labels)

    for _ in range(int(step)):
        cached_backward(accelerator, model, own_batch(rank, 2), pair_loss)
    batch = own_batch(rank, 2)
    signum = 0
    try:  # pytest.raises would keep the model, and with it the process group, to the very end
        cached_backward(accelerator, model, batch, loss_and_signal, lambda: sum(reached))
    except StepLeft as left:
        signum = left.signum
    assert signum == 15


class Small(ToyEncoder):
    """Its device's memory is full in some forwards."""

    full_in: tuple[int, ...] = ()
    calls = 0

    def forward(self, chunk: list[dict[str, Tensor]]) -> Tensor:
        self.calls += 1
        if self.calls in self.full_in:
            raise torch.OutOfMemoryError("no memory")
        return super().forward(chunk)


def no_memory_on_one_rank(folder: str) -> None:
    """Rank 1 alone has no memory, in each forward of a step in turn; then both take it again."""
    accelerator = Accelerator(cpu=True)
    rank = accelerator.process_index
    small = Small()
    model = accelerator.prepare(small)
    found = []
    for full in (*range(1, 11), 0):  # 5 chunks twice; 0: in the only forward of one pass
        small.calls, small.full_in = 0, ((full or 1),) if rank == 1 else ()
        try:
            cached_backward(accelerator, model, own_batch(rank, 2 if full else 10), pair_loss)
        except ChunkTooLarge as error:
            assert error.everywhere
        else:
            raise AssertionError("went on without memory")
        model.zero_grad()
        small.full_in = ()
        cached_backward(accelerator, model, own_batch(rank, 2), pair_loss)
        found.append(gradients(model))
        model.zero_grad()
    torch.save(found, Path(folder) / f"{rank}.pt")


def test_a_rank_without_memory(two_ranks: Ranks, tmp_path: Path) -> None:
    two_ranks.run(no_memory_on_one_rank, str(tmp_path))
    expected = plain_gradients(LABELS)
    for rank in (0, 1):
        for found in torch.load(tmp_path / f"{rank}.pt", weights_only=True):
            assert_close(found, expected)


@pytest.mark.parametrize("step", [0, 1, 2])
def test_a_signal_to_one_rank_leaves_the_step_on_both(two_ranks: Ranks, step: int) -> None:
    """Never a hang, in the first step or a later one."""
    two_ranks.run(signal_to_one_rank, str(step))
