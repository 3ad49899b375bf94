"""One program at a time in a folder, and what is written there is whole or not there.

./launch.sh test tests/eval/test_locks.py
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from eval.miniatures import __main__ as miniatures
from tests.eval.report.conftest import HITS, config, play, write_results
from tests.eval.test_disks import contents, desk, programs  # noqa: F401 (a fixture)
from tests.eval.test_disks import play as outcome_of
from tests.support.paths import ROOT
from unime.errors import ConfigError
from unime.runtime.folder_lock import LENT, NAME, lock_folder, locked

HOLDING = """
import sys, time
from pathlib import Path
from unime.runtime.folder_lock import lock_folder
lock_folder("output_dir", Path(sys.argv[1]))
print("locked", flush=True)
time.sleep(600)
"""
PROGRAMS = ("report", "page", "eval", "export", "miniatures", "demo data")


@pytest.fixture
def hold() -> Iterator[Callable[[Path], int]]:
    """``hold(folder)``: another process that has it; returns its id."""
    started: list[subprocess.Popen[str]] = []

    def start(folder: Path) -> int:
        command = [sys.executable, "-c", HOLDING, str(folder)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, cwd=ROOT, text=True)
        started.append(process)
        assert process.stdout is not None and process.stdout.readline() == "locked\n"
        return process.pid

    yield start
    for process in started:
        process.kill()
        process.wait()


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_second_program_is_told_who_has_the_folder(
    name: str,
    desk: Path,  # noqa: F811
    tmp_path: Path,
    hold: Callable[[Path], int],
) -> None:
    """Whether the first has written something already or not; nothing of it is touched."""
    place = tmp_path / "folder"
    output = place / "out" if name in ("report", "page") else place
    pid = hold(place)
    for _ in range(2):
        before = contents(tmp_path)
        status, said = outcome_of(*programs(desk, str(output))[name])
        assert status == 2 and f"{place} is in use by process {pid} on " in said, said
        assert len(said.splitlines()) == 1 and contents(tmp_path) == before
        (place / "begun.json").write_text("{}")


@pytest.mark.parametrize("name", ["export", "miniatures"])
def test_a_finished_folder_is_neither_written_nor_marked(
    name: str,
    desk: Path,  # noqa: F811
    tmp_path: Path,
) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / NAME).write_text("")  # of one that was killed
    (tmp_path / "out.partial").mkdir()
    (tmp_path / "out.partial" / "half").write_text("")
    program, words = programs(desk, str(tmp_path / "out"))[name]
    assert outcome_of(program, words) == (0, "")
    made = contents(tmp_path / "out")
    assert made and [path.name for path in tmp_path.iterdir()] == ["out"]
    assert NAME not in {path.name for path in (tmp_path / "out").rglob("*")}
    status, said = outcome_of(program, words)
    assert status == 2 and said.endswith(f"{tmp_path}/out exists already\n"), said
    assert contents(tmp_path / "out") == made


def test_killed_miniatures_are_made_by_the_same_command(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "eval.miniatures", str(tmp_path / "out")]
    process = subprocess.Popen(command, cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)})
    while not (tmp_path / "out.partial").is_dir():
        assert process.poll() is None
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert [path.name for path in (tmp_path / "out").iterdir()] == [NAME]
    miniatures.main([str(tmp_path / "out")])
    assert {path.name for path in tmp_path.iterdir()} == {"out"}
    assert (tmp_path / "out/eval_images").resolve() == tmp_path / "out/image-tasks"


def test_a_lock_for_a_while_leaves_nothing(tmp_path: Path) -> None:
    with locked("output", tmp_path / "new"):
        assert (tmp_path / "new" / NAME).is_file()
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "old").mkdir()
    with locked("output", tmp_path / "old"), locked("output", tmp_path / "old"):
        (tmp_path / "old" / "file").write_text("")
    assert [path.name for path in (tmp_path / "old").iterdir()] == ["file"]
    with pytest.raises(ConfigError), locked("output", tmp_path / "old"):
        raise ConfigError("x")
    lock_folder("output", tmp_path / "old")  # until the end: a while of it does not end it
    with locked("output", tmp_path / "old"):
        pass
    assert (tmp_path / "old" / NAME).is_file()


def test_a_program_lends_its_folder_to_those_that_it_starts(
    tmp_path: Path, hold: Callable[[Path], int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The demo has its folder, in which its report is written."""
    write_results(tmp_path / "base", HITS)
    settings = config(tmp_path, names=["base"])
    (tmp_path / "out").mkdir()
    hold(tmp_path / "out")
    with pytest.raises(ConfigError, match="in use by"):
        play(settings)
    monkeypatch.setenv(LENT, str(tmp_path / "out"))
    play(settings)
    assert (tmp_path / "out/report.json").is_file()


@pytest.mark.parametrize(
    "environment",
    [
        {"PYTHONIOENCODING": "ascii"},
        {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
    ],
    ids=["ascii", "C"],
)
def test_a_terminal_without_letters_ends_no_report(
    environment: dict[str, str], tmp_path: Path
) -> None:
    write_results(tmp_path / "base", HITS)
    settings = config(tmp_path, names=["base"])
    (tmp_path / "report.yaml").write_text(
        f"models: {{modèle: {tmp_path}/base}}\nsuite: {settings.suite}\n"
        f"output: {settings.output}\n",
        encoding="utf-8",
    )
    done = subprocess.run(
        [sys.executable, "-m", "eval.report", "--config", tmp_path / "report.yaml"],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)} | environment,
        capture_output=True,
    )
    assert done.returncode == 0, done.stderr.decode()
    assert re.search(rb"mod(\\xe8|\?)le", done.stdout) and b"written: " in done.stdout
    assert "modèle" in Path(settings.output).with_suffix(".md").read_text(encoding="utf-8")
