"""Sub-batches, temperature, clusters, and no right answer twice in a batch.

./launch.sh test tests/data/test_batches_that_teach.py
"""

from __future__ import annotations

import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from eval.miniatures.mmeb import train_rows, write_rows
from unime.config import Mixing, PairData, PairSource
from unime.data.datasets import PairDataset
from unime.data.sampler import BatchPlan, GlobalBatchSampler, drawn_rows
from unime.data.sampling.answers import Answers
from unime.data.sampling.clusters import Clusters, units_of
from unime.data.survey import survey
from unime.errors import ConfigError, DataError
from unime.inputs.items import item_key

SIZES = {"a": 240, "b": 96, "c": 48}
TASK = np.repeat([0, 1, 2], list(SIZES.values()))
ROWS = len(TASK)


def keys(per_query: int = 1, per_target: int = 1) -> np.ndarray:
    """Of rows of which so many share a query and so many a target, by chance."""
    random = np.random.default_rng(5)
    return np.stack(
        [random.permutation(ROWS) // per_query, random.permutation(ROWS) // per_target], axis=1
    )


def epoch(sampler: GlobalBatchSampler, number: int = 0) -> np.ndarray:
    steps = sampler.steps_per_epoch
    return np.array([sampler.batch(number * steps + step) for step in range(steps)])


def met(batches: np.ndarray, answers: np.ndarray) -> int:
    """Rows whose query, target or known answer another row of the batch has before them, counted
    one by one."""
    found = 0
    for batch in batches:
        seen: set[tuple[int, int]] = set()
        for row in batch:
            own = {(side, int(key)) for side, key in enumerate(answers[row]) if side < 2 or key}
            found += bool(own & seen)
            seen |= own
    return found


def of_clusters(folder: Path, answers: np.ndarray, size: int = 4) -> Clusters:
    clusters = Clusters(folder, size, {}, dict(SIZES))
    first = 0
    for task, rows in SIZES.items():
        labels = np.random.default_rng(1).permutation(rows) // size
        clusters.write_task(task, answers[first : first + rows], labels)
        first += rows
    clusters.write()
    return Clusters.open(folder)


def plans(folder: Path, answers: np.ndarray) -> dict[Mixing, BatchPlan]:
    found = {mixing: BatchPlan(answers=answers, shared_answers=False) for mixing in Mixing}
    found[Mixing.interleaved] = BatchPlan(sub_batch=6, answers=answers, shared_answers=False)
    clusters = of_clusters(folder, answers)
    found[Mixing.mined] = BatchPlan(answers=answers, clusters=clusters, shared_answers=False)
    return found


@pytest.mark.parametrize("mixing", list(Mixing))
def test_every_row_once_and_no_answer_twice(mixing: Mixing, tmp_path: Path) -> None:
    """Two rows a query and three a target, which a random order puts into one batch often."""
    answers = keys(2, 3)
    plan = plans(tmp_path, answers)[mixing]

    def sampler(seed: int = 0) -> GlobalBatchSampler:
        return GlobalBatchSampler(SIZES, 24, mixing, seed, plan=plan)

    batches = epoch(sampler(), 2)
    assert batches.shape == (ROWS // 24, 24)
    assert Counter(batches.ravel().tolist()) == Counter(range(ROWS)), "each row once"
    allowed = BatchPlan(plan.temperature, plan.sub_batch, answers, plan.clusters, True)
    at_random = epoch(GlobalBatchSampler(SIZES, 24, mixing, 0, plan=allowed), 2)
    assert met(at_random, answers) > 20
    found = met(batches, answers)
    assert found < met(at_random, answers) / 3 if mixing is Mixing.mined else found == 0
    assert sampler().sharing() == (met(epoch(sampler()), answers), ROWS)
    # a pure function of (seed, step)
    straight = [sampler().batch(step) for step in range(40)]
    resumed = sampler()
    assert [resumed.batch(step) for step in (39, 0, 17)] == [straight[n] for n in (39, 0, 17)]
    assert (epoch(sampler(), 0) != epoch(sampler(), 1)).any()
    assert (epoch(sampler(), 0) != epoch(sampler(1), 0)).any()


def test_single_task_batches_stay_of_one_task(tmp_path: Path) -> None:
    for mixing in (Mixing.single_task, Mixing.mined):
        plan = plans(tmp_path, keys(2, 3))[mixing]
        for batch in epoch(GlobalBatchSampler(SIZES, 24, mixing, 0, plan=plan)):
            assert len(set(TASK[batch])) == 1


@pytest.mark.parametrize("shared", [True, False])
def test_interleaved_batches_are_of_sub_batches_of_one_task(shared: bool) -> None:
    plan = BatchPlan(sub_batch=6, answers=keys(2, 3), shared_answers=shared)
    batches = epoch(GlobalBatchSampler(SIZES, 24, Mixing.interleaved, 0, plan=plan))
    tasks = TASK[batches].reshape(len(batches), 4, 6)
    assert (tasks == tasks[:, :, :1]).all()
    assert sum(len(set(batch)) > 1 for batch in tasks[:, :, 0].tolist()) > len(batches) / 2
    with pytest.raises(DataError, match="a batch of 24 rows is no whole number of 7s, which data"):
        GlobalBatchSampler(SIZES, 24, Mixing.interleaved, 0, plan=BatchPlan(sub_batch=7))
    with pytest.raises(DataError, match="task 'c' gives no batch of sub-batches of 12: 8 rows"):
        GlobalBatchSampler({"a": 48, "c": 8}, 24, Mixing.interleaved, 0, plan=BatchPlan(1, 12))


def test_a_label_with_more_rows_than_batches_is_spread_as_evenly_as_can_be() -> None:
    """Of two labels a batch of 24 holds 22 rows too many, whatever one does; of twelve in 16
    batches, where each has 20 rows, a quarter of them."""
    for labels, expected in ((2, 240 - 2 * 10), (12, 240 - 12 * 10)):
        answers = np.stack([np.arange(240), np.arange(240) % labels], axis=1)
        plan = BatchPlan(answers=answers, shared_answers=False)
        sampler = GlobalBatchSampler({"a": 240}, 24, Mixing.single_task, 0, plan=plan)
        assert sampler.sharing() == (expected, 240)
        for batch in epoch(sampler):
            counts = Counter(answers[batch, 1].tolist()).values()
            assert len(counts) == labels and max(counts) - min(counts) <= 1


def named(answers: np.ndarray, rows_of_each: int, unknown: float = 0.3) -> np.ndarray:
    """The same with a third column: right answers of so many rows each, and unknown ones."""
    random = np.random.default_rng(7)
    third = 1 + random.permutation(ROWS) // rows_of_each + TASK * ROWS
    return np.column_stack([answers, np.where(random.random(ROWS) < unknown, 0, third)])


@pytest.mark.parametrize("mixing", list(Mixing))
def test_rows_that_name_one_answer_share_no_batch(mixing: Mixing, tmp_path: Path) -> None:
    answers = named(keys(2, 3), 8)
    plan = plans(tmp_path, answers)[mixing]
    sampler = GlobalBatchSampler(SIZES, 24, mixing, 0, plan=plan)
    batches = epoch(sampler)
    assert Counter(batches.ravel().tolist()) == Counter(range(ROWS)), "each row once"
    blind = plans(tmp_path, answers[:, :2])[mixing]
    before = met(epoch(GlobalBatchSampler(SIZES, 24, mixing, 0, plan=blind)), answers)
    found = met(batches, answers)
    assert before > 20
    if mixing in (Mixing.mixed, Mixing.interleaved):
        assert found == 0
    assert found < before / 2 or mixing is Mixing.mined and found < before
    assert sampler.sharing() == (found, ROWS)


def test_rows_of_unknown_answers_share_none() -> None:
    """Nothing but unknown ones: the batches are those of before, and nothing is said to meet."""
    answers = keys(2, 3)
    unknown = np.column_stack([answers, np.zeros(ROWS, dtype=np.int64)])
    batches = [
        epoch(GlobalBatchSampler(SIZES, 24, Mixing.mixed, 0, plan=plan))
        for plan in (BatchPlan(answers=own, shared_answers=False) for own in (answers, unknown))
    ]
    assert (batches[0] == batches[1]).all() and met(batches[1], unknown) == 0


def test_an_answer_of_more_rows_than_batches_is_spread_and_hinders_nothing() -> None:
    """Of two answers every batch has about half its rows; equal queries and targets are kept apart
    all the same."""
    random = np.random.default_rng(3)
    of_items = np.stack([random.permutation(240) // 3, random.permutation(240) // 4], axis=1)
    answers = np.column_stack([of_items, 1 + random.permutation(240) % 2])
    plan = BatchPlan(answers=answers, shared_answers=False)
    sampler = GlobalBatchSampler({"a": 240}, 24, Mixing.single_task, 0, plan=plan)
    batches = epoch(sampler)
    assert met(batches, of_items) == 0
    of_first = (answers[batches, 2] == 1).sum(axis=1)
    blind = BatchPlan(answers=of_items, shared_answers=False)
    others = epoch(GlobalBatchSampler({"a": 240}, 24, Mixing.single_task, 0, plan=blind))
    assert of_first.std() < (answers[others, 2] == 1).sum(axis=1).std()
    assert sampler.sharing() == (220, 240)


def test_rows_that_are_drawn_twice_meet_no_copy() -> None:
    answers = keys()
    plan = BatchPlan(answers=answers, shared_answers=False)
    weights = {"a": 1.0, "b": 2.5, "c": 2.0}
    sampler = GlobalBatchSampler(SIZES, 24, Mixing.mixed, 0, weights, plan=plan)
    batches = epoch(sampler)
    assert len(batches) == (240 + 240 + 96) // 24
    assert met(batches, answers) == 0
    counts = Counter(batches.ravel().tolist())
    assert {counts[row] for row in range(336, ROWS)} == {2}
    assert {counts[row] for row in range(240, 336)} == {2, 3}


@pytest.mark.parametrize(("temperature", "power"), [(1.0, 1.0), (2.0, 0.5), (1e9, 0.0)])
def test_temperature(temperature: float, power: float) -> None:
    plan = BatchPlan(temperature)
    sizes = {"a": 9000, "b": 1000, "c": 90}
    drawn = drawn_rows(sizes, {"b": 0.4}, plan)
    shares = np.array([9000.0, 400.0, 90.0]) ** power
    expected = shares / shares.sum() * 9490
    assert np.allclose(list(drawn.values()), expected, atol=1)
    sampler = GlobalBatchSampler(sizes, 10, Mixing.single_task, 0, {"b": 0.4}, plan=plan)
    tasks = np.searchsorted([9000, 10_000], epoch(sampler)[:, 0], side="right")
    assert np.allclose(np.bincount(tasks) * 10, expected, atol=10)


def test_clusters_stay_together(tmp_path: Path) -> None:
    answers = keys()
    clusters = of_clusters(tmp_path, answers)
    plan = BatchPlan(answers=answers, clusters=clusters, shared_answers=False)
    batches = epoch(GlobalBatchSampler(SIZES, 24, Mixing.mined, 0, plan=plan))
    label = np.random.default_rng(1).permutation(240) // 4
    of_a = batches[TASK[batches[:, 0]] == 0].reshape(-1, 4)
    assert (label[of_a] == label[of_a[:, :1]]).all()
    assert sorted(of_a.ravel().tolist()) == list(range(240))
    with pytest.raises(DataError, match=r"no whole number of 4s, which data\.clusters keeps"):
        GlobalBatchSampler(SIZES, 22, Mixing.mined, 0, plan=plan)


def test_clusters_of_which_rows_are_gone(tmp_path: Path) -> None:
    """Rows that were held out leave gaps, which the smallest clusters fill; rows that nobody has
    clustered are refused."""
    answers = keys()
    clusters = of_clusters(tmp_path, answers)
    left = np.delete(np.arange(240), [3, 50, 51, 200, 201, 230])
    units = clusters.units("a", answers[left])
    assert units.shape == (59, 4)
    counts = Counter(units.ravel().tolist())
    assert set(counts) == set(range(len(left))) and sum(counts.values()) == 236
    label = (np.random.default_rng(1).permutation(240) // 4)[left]
    assert (label[units] == label[units[:, :1]]).all(axis=1).sum() >= 59 - 7
    with pytest.raises(DataError, match=r"lacks 1 of the 240 rows of task 'a' .*number 7"):
        changed = answers[:240].copy()
        changed[7, 1] = -1
        clusters.units("a", changed)
    with pytest.raises(DataError, match="has none of task 'd'"):
        clusters.units("d", answers)
    (tmp_path / "b.parquet").write_bytes(b"PAR1")
    with pytest.raises(DataError, match=r"b\.parquet: cannot read it"):
        clusters.units("b", answers[240:336])
    with pytest.raises(ConfigError, match=r"data\.clusters: got .*, expected a folder with"):
        Clusters.open(tmp_path / "none")


def test_units_hold_every_row() -> None:
    random = np.random.default_rng(0)
    for rows in (8, 9, 31, 100):
        for clusters in (1, 2, 7, 40):
            units = units_of(random.integers(clusters, size=rows), 8)
            assert units.shape == (-(-rows // 8), 8)
            assert set(units.ravel().tolist()) == set(range(rows))
    assert units_of(np.zeros(7, dtype=int), 8).shape == (0, 8)


def test_met_finds_what_counting_finds() -> None:
    batches = np.random.default_rng(2).permutation(ROWS).reshape(-1, 24)
    for answers in (keys(3, 4), named(keys(3, 4), 5)):
        assert Answers(answers, TASK).met(batches).sum() == met(batches, answers)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"mixing": "interleaved"}, "data.sub_batch: got None, expected one for data.mixing=inter"),
        ({"sub_batch": 4}, "data.sub_batch: got 4, expected null, or data.mixing=interleaved"),
        ({"mixing": "mined"}, "data.clusters: got None, expected one for data.mixing=mined"),
        ({"clusters": "x"}, "data.clusters: got 'x', expected null, or data.mixing=mined"),
        ({"temperature": 0.5}, "data.temperature: got 0.5, expected 1 or more"),
        ({"sub_batch": 0, "mixing": "interleaved"}, "data.sub_batch: got 0, expected positive"),
    ],
)
def test_settings_that_do_not_go_together(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError) as error:
        PairData("x", **settings)  # type: ignore[arg-type]
    assert str(error.value).startswith(message)


def test_a_million_rows_cost_little_to_resume() -> None:
    random = np.random.default_rng(0)
    answers = random.integers(300_000, size=(1_000_000, 2))
    plan = BatchPlan(answers=answers, shared_answers=False)
    sampler = GlobalBatchSampler({"a": 600_000, "b": 400_000}, 64, Mixing.single_task, 0, plan=plan)
    batch = np.array([sampler.batch(100 * sampler.steps_per_epoch + 7)])
    assert met(batch, answers) == 0


def test_the_survey_knows_the_answers(tmp_path: Path) -> None:
    """Equal texts and copies of one picture have equal keys, on both sides; rows that are held out
    take theirs with them."""
    root = tmp_path / "mmeb"
    rows = train_rows(root, "Questions", 8)
    rows[5] |= {name: rows[2][name] for name in ("pos_text", "pos_image_path")}
    copy = root / "images/copy.png"
    shutil.copy(root / rows[1]["qry_image_path"], copy)
    rows[6] |= {"qry": rows[1]["qry"], "qry_image_path": "images/copy.png"}
    write_rows(root, "Questions", "original", rows)
    data = PairData(str(root), sources={"Questions": PairSource()})
    dataset = PairDataset.load(data, 0)
    found = survey(dataset, dataset.task_sizes, 4).answers
    assert found is not None and found.shape == (8, 2)
    queries, targets = (
        [item_key(getattr(pair, side)) for pair in dataset] for side in ("query", "target")
    )
    for side, keys in enumerate((queries, targets)):
        equal = np.equal.outer(keys, keys)
        assert (np.equal.outer(found[:, side], found[:, side]) == equal).all()
    assert queries[6] == queries[1] and targets[5] == targets[2]
    dataset.answers = found
    rest, _ = dataset.split([0, 3], True)
    assert rest.answers is not None
    assert (rest.answers == found[[1, 2, 4, 5, 6, 7]]).all()
