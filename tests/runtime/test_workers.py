"""Batches from worker processes, whose failures end a program at once and in one line.

pytest tests/runtime/test_workers.py

The programs run this file: a stage's loop on a stand-in for the encoder, with a row that fails.
"""

from __future__ import annotations

import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from accelerate import Accelerator

from tests.support.paths import ROOT
from tests.support.stand_in import collate, fit, make_config, rows
from unime.data.datasets import TextRow
from unime.errors import ConfigError, DataError
from unime.inputs.items import Item
from unime.retrieval.embedder import Prepared
from unime.retrieval.encoding import encode
from unime.runtime.hand_over import check_room
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


def tensors(value: int) -> dict[str, object]:
    return {
        "rows": [torch.full((40, 50), value, dtype=torch.float32), torch.tensor(value)],
        "turned": torch.arange(6).view(2, 3).T.to(torch.bfloat16),
        "empty": torch.empty(0, 3),
        "array": np.arange(value),
        "flags": torch.tensor([True, False]),
        "text": "é",
    }


def test_what_workers_hand_over_is_what_was_made() -> None:
    """In one piece of shared memory, which is given back with the last of its tensors."""
    handles = []
    with load_batches(tensors, range(12), 2) as batches:
        for value, batch in enumerate(batches):
            expected = tensors(value)
            assert batch.pop("text") == expected.pop("text")
            torch.testing.assert_close(batch, expected, rtol=0, atol=0)
            batch["rows"][0] += 1  # it is nobody else's
            handles.append(len(os.listdir("/proc/self/fd")))
    assert max(handles[2:]) <= handles[2] + 1


def room_of(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    disk = SimpleNamespace(f_bavail=size, f_blocks=size, f_frsize=1)
    monkeypatch.setattr("unime.runtime.hand_over.os.statvfs", lambda _: disk)


@pytest.mark.parametrize(("ranks", "room", "refused"), [
    (1, 60_000, False), (1, 40_000, True), (2, 60_000, True), (2, 120_000, False), (1, 0, False),
])  # fmt: skip
def test_shared_memory_is_looked_at_before_workers_start(
    ranks: int, room: int, refused: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two workers hold 6 batches of 8 kB and a little; 0: a disk that says no size."""
    room_of(room, monkeypatch)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", str(ranks))
    with load_batches(tensors, range(9), 2, "run.num_workers") as batches:
        if not refused:
            assert len(list(batches)) == 9
            return
        said = r"^run.num_workers: 2 workers hold 6 batches .*/dev/shm has .*--shm-size=.*fewer"
        with pytest.raises(ConfigError, match=said):
            next(batches)
        assert multiprocessing.active_children() == []


def test_file_handles_are_looked_at_before_workers_start(monkeypatch: pytest.MonkeyPatch) -> None:
    """The limit is raised as far as it may be."""
    limits, raised = [(40, 100)], []
    monkeypatch.setattr("unime.runtime.hand_over.resource.getrlimit", lambda _: limits[-1])
    monkeypatch.setattr(
        "unime.runtime.hand_over.resource.setrlimit", lambda _, to: raised.append(to)
    )
    monkeypatch.setattr("unime.runtime.hand_over.os.listdir", lambda _: range(30))
    check_room(1, 8, "num_workers")
    assert raised == [(100, 100)]
    limits.append((40, 60))
    with pytest.raises(ConfigError, match=r"8 workers need 78 file handles.* may have 60.*ulimit"):
        check_room(1, 8, "num_workers")


UNLOOKED = """
import resource, sys
import torch
from unime.runtime import workers
from unime.runtime.hand_over import check_room
from unime.runtime.program import run_program
workers.check_room = lambda *_: None  # as if there had been room when it was looked at
def make(value):
    return torch.ones(4000)
def main():
    with workers.load_batches(make, range(9), 2) as batches:
        next(batches)
        if sys.argv[1:]:
            resource.setrlimit(resource.RLIMIT_NOFILE, (int(sys.argv[1]), 999))
        print(len(list(batches)), "came")
run_program(main)
"""


def with_little(*words: str, before: Sequence[str] = ()) -> str:
    done = subprocess.run(
        [*before, sys.executable, "-c", UNLOOKED, *words],
        env=os.environ | {"OMP_NUM_THREADS": "1"}, cwd=ROOT, capture_output=True,
        text=True, timeout=200,  # it would hang for ever
    )  # fmt: skip
    assert done.returncode == 2, done.stderr
    return done.stderr


def test_a_batch_that_does_not_fit_into_shared_memory_ends_the_run() -> None:
    mount = "mount -t tmpfs -o size=64k none /dev/shm"
    small = ["unshare", "--mount", "sh", "-c", f'{mount} && exec "$@"', "sh"]
    if not shutil.which("unshare") or subprocess.run([*small, "true"]).returncode:
        pytest.skip("may not mount a /dev/shm of its own here")
    said = with_little(before=small)
    assert said.startswith(
        "error: num_workers: a worker cannot start or hand a batch over (Runtime"
    )
    assert "No space left" in said and "--shm-size" in said and said.count("\n") == 1


def test_a_batch_for_which_no_handle_is_left_ends_the_run() -> None:
    said = [line for line in with_little("17").splitlines() if line.startswith("error:")]
    assert len(said) == 1 and "hand a batch over" in said[0] and "ulimit -n" in said[0]


def late(value: int) -> int:
    time.sleep(30 * (value == 2))
    return value


def test_a_batch_that_does_not_come_ends_the_run() -> None:
    with (
        pytest.raises(DataError, match=r"no worker gave a batch for 1 s .num_workers.*shm.*ulimit"),
        load_batches(late, range(5), 1, patience=1) as batches,
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
