"""Batches from worker processes, whose failures end a program at once and in one line.

pytest tests/runtime/test_workers.py

The programs run this file: a stage's loop on a stand-in for the encoder, with a row that fails.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from accelerate import Accelerator

from tests.support.paths import ROOT
from tests.support.stand_in import collate, fit, make_config, rows
from unime.data.datasets import TextRow
from unime.errors import DataError
from unime.inputs.items import Item
from unime.retrieval.embedder import Prepared
from unime.retrieval.encoding import encode
from unime.runtime.program import run_program
from unime.runtime.workers import load_batches
from unime.training.chunks import Batch, ChunkLimits

BAD = "f:17"


class Refusing:
    """A collator whose library fails at one row."""

    limits = ChunkLimits(3, 3)

    def __call__(self, batch: Sequence[TextRow]) -> Batch:
        for row in batch:
            if row.row_id == BAD:
                raise DataError(f"row {BAD}: TypeError: a library's own words")
        return collate(batch)


class BadRows(list[TextRow]):
    """Rows of which one cannot be read any more."""

    def __getitem__(self, index: int) -> TextRow:  # type: ignore[override]
        if index == 17:
            raise OSError("the disk is gone")
        return super().__getitem__(index)


def program(folder: str, batch_size: int) -> None:
    fit(make_config(Path(folder), batch_size, num_workers=2, steps=20), collator=Refusing())


FAILED = "error: row f:17: TypeError: a library's own words"


def test_a_row_that_fails_in_a_worker_ends_the_run(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        run_program(lambda: program(str(tmp_path / "run"), 8))
    said = capfd.readouterr().err
    assert ended.value.code == 2 and "Traceback" not in said
    errors = [line for line in said.splitlines() if line.startswith("error:")]
    assert len(errors) == 1 and errors[0].startswith(FAILED)


def test_a_row_that_fails_in_a_worker_of_a_rank_ends_all(tmp_path: Path) -> None:
    launch = "-m torch.distributed.run --standalone --nproc_per_node 2 -m"
    done = subprocess.run(
        [sys.executable, *launch.split(), "tests.runtime.test_workers", str(tmp_path / "run"), "4"],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,  # it would hang for ever
    )
    assert done.returncode == 1, done.stderr
    errors = [line for line in done.stderr.splitlines() if line.startswith("error:")]
    assert errors[0].startswith(FAILED), done.stderr  # the other rank says what it lost


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_row_that_cannot_be_read_is_named(num_workers: int, tmp_path: Path) -> None:
    config = make_config(tmp_path, num_workers=num_workers, steps=20)
    with pytest.raises(DataError, match=r"^row 17 of the data: OSError: the disk is gone \(test_w"):
        fit(config, dataset=BadRows(rows()))


def number(value: int) -> int:
    if value == 3:
        raise KeyError("no such thing")
    return value * value


@pytest.mark.parametrize("num_workers", [0, 2])
def test_batches_come_in_order_until_one_fails(num_workers: int) -> None:
    found = []
    with (
        load_batches(number, [5, 1, 2, 3, 4], num_workers) as batches,
        pytest.raises(DataError, match=r"KeyError: 'no such thing' \(test_workers.py:\d+\)"),
    ):
        found += [next(batches) for _ in range(3)]
        next(batches)
    assert found == [25, 1, 4] and multiprocessing.active_children() == []


def killed(value: int) -> int:
    if value == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    return value


def test_a_worker_that_is_killed_ends_the_run() -> None:
    with (
        pytest.raises(DataError, match=r"DataLoader worker .* Fewer workers"),
        load_batches(killed, [0, 0, 1], 1) as batches,
    ):
        list(batches)
    assert multiprocessing.active_children() == []


class Odd:
    """An embedder whose library fails at an item, without a word on which."""

    dimension = 2

    def prepare(self, items: Sequence[Item]) -> Prepared:
        if any(item.text == "odd" for item in items):
            raise TypeError("expected something else")
        return Prepared(None, [False] * len(items))


@pytest.mark.parametrize("num_workers", [0, 2])
def test_an_item_that_fails_is_named_in_evaluation(
    num_workers: int, capfd: pytest.CaptureFixture[str]
) -> None:
    items = [Item("even"), Item("odd"), Item("even too")]
    with pytest.raises(DataError, match=r"^text 'odd': TypeError: expected something else \(test"):
        list(encode(Accelerator(cpu=True), Odd(), items, 3, num_workers))  # type: ignore[arg-type]
    assert "Traceback" not in capfd.readouterr().err
    assert multiprocessing.active_children() == []


if __name__ == "__main__":
    run_program(lambda: program(sys.argv[1], int(sys.argv[2])))
