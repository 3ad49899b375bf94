"""One program at a time in a folder: pytest tests/runtime/test_folder_lock.py"""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.paths import ROOT
from tests.support.stand_in import make_config
from unime.errors import ConfigError
from unime.runtime.folder_lock import lock_folder
from unime.training.run import start_run

HOLDING = """
import os, sys, time
from pathlib import Path
from unime.runtime.folder_lock import lock_folder
lock_folder("run.output_dir", Path(sys.argv[1]))
if os.fork() == 0:  # as a loader's worker, which outlives its parent by some seconds
    time.sleep(60)
print("locked", flush=True)
time.sleep(60)
"""


@pytest.fixture
def holder(tmp_path: Path):
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDING, str(tmp_path / "run")],
        stdout=subprocess.PIPE,
        cwd=ROOT,
        start_new_session=True,
        text=True,
    )
    assert process.stdout is not None and process.stdout.readline() == "locked\n"
    yield process
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def test_a_second_run_in_the_folder_is_refused(tmp_path: Path, holder: subprocess.Popen) -> None:
    """It says who is there and writes nothing; once that one was killed, its lock is no more."""
    config = make_config(tmp_path / "run")
    with pytest.raises(ConfigError, match=rf"run is in use by process {holder.pid} on \S+ since 2"):
        start_run(config)
    assert [path.name for path in (tmp_path / "run").iterdir()] == [".lock"]
    os.kill(holder.pid, signal.SIGKILL)
    holder.wait()
    start_run(config)
    assert (tmp_path / "run" / "config.yaml").is_file()
    start_run(config)  # the same program again


def test_a_disk_without_locks_is_warned_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_locks(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "lockf", no_locks)
    with pytest.warns(UserWarning, match="cannot be locked .No locks available"):
        lock_folder("output_dir", tmp_path / "new")
    assert (tmp_path / "new").is_dir()


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="output_dir: .*file/run cannot be written"):
        lock_folder("output_dir", tmp_path / "file" / "run")
