"""What the programs say when ranks lose each other: pytest tests/runtime/test_lost_ranks.py"""

from __future__ import annotations

import time

import pytest
import torch.distributed as dist

from unime.runtime.lost_ranks import explain_collective, stall_watch
from unime.runtime.program import run_program

GLOO_LOST = (
    "[/pytorch/third_party/gloo/gloo/transport/tcp/pair.cc:547] Connection closed by peer"
    " [127.0.0.1]:23456\nmore"
)
GLOO_TIMEOUT = "[/…/gloo/transport/tcp/unbound_buffer.cc:84] Timed out waiting 1800000ms for recv"


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (RuntimeError(GLOO_LOST), "rank 2 lost another rank ([/pytorch/third_party/gloo/gloo"),
        (RuntimeError(GLOO_TIMEOUT), "rank 2 waited for the others longer than run.collective"),
        (dist.DistBackendError("NCCL error: remote process exited"), "rank 2 lost another rank"),
        (dist.DistBackendError("Watchdog caught collective operation timeout"), "rank 2 waited"),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), None),
        (RuntimeError("Timeout of the data loader"), None),
        (dist.DistBackendError("NCCL error: invalid usage. Duplicate GPU detected"), None),
    ],
)
def test_explanations(
    error: RuntimeError, expected: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RANK", "2")
    said = explain_collective(error)
    assert said is None if expected is None else said is not None and expected in said


def test_stall_watch(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    ended: list[int] = []
    monkeypatch.setattr("unime.runtime.lost_ranks.os._exit", ended.append)
    with stall_watch(7, 60, num_processes=2):
        pass
    with stall_watch(7, 0.1, num_processes=1):  # there is no one to wait for
        time.sleep(0.3)
    assert (capsys.readouterr().err, ended) == ("", [])
    with stall_watch(7, 1, num_processes=2):
        time.sleep(1.1)
    said = capsys.readouterr().err
    assert "rank 0 has been in step 7 for 1 s" in said and "py-spy dump --pid" in said
    assert not ended
    with stall_watch(7, 0.2, num_processes=2):
        time.sleep(0.6)
    assert "error: rank 0 waited for the others longer" in capsys.readouterr().err
    assert ended == [1]


def test_other_errors_keep_their_traceback() -> None:
    def main() -> None:
        raise RuntimeError("a bug")

    with pytest.raises(RuntimeError, match="a bug"):
        run_program(main)
