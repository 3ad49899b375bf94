"""Studies that run, with programs that only say so: ./launch.sh test -m "study or not study"
tests/study/test_running.py"""

from __future__ import annotations

import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from threading import Timer

import pytest

from eval.study.identity import forget
from eval.study.marks import Marks
from eval.study.plan import Step
from eval.study.running import Runner, environments, outcome
from stages import study
from tests.support.studies import QUERIES, TASKS, StudyCheckout, kill
from unime.errors import ConfigError, RunError
from unime.runtime.files import read_json

RECIPES = "recipes: [unime, infonce-after-stage1, stage1-only]\nseeds: [0, 1]\n"


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> StudyCheckout:
    made = StudyCheckout(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(study, "ROOT", tmp_path)
    monkeypatch.setattr(study, "write_outcome", lambda *_: None)
    monkeypatch.setattr(signal, "signal", lambda *_: None)  # the test's own handlers stay
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setattr("unime.runtime.folder_lock.HELD", {})
    return made


def run(*words: str) -> int:
    with pytest.raises(SystemExit) as end:
        study.main(list(words))
    return int(end.value.code or 0)


def test_every_command_runs_once_and_every_cell_is_a_row(
    checkout: StudyCheckout, capsys: pytest.CaptureFixture[str]
) -> None:
    name = checkout.write(RECIPES)
    study.main([name, "--dry-run"])
    said = capsys.readouterr().out
    assert "[1/6] unime seed 0: not run, 0 of 3" in said and "12 commands, of which 12" in said
    head = "export CUDA_VISIBLE_DEVICES='' UNIME_NUM_PROCESSES=1\n"
    head += "./launch.sh prepare data.yaml  # data\n"
    assert said.startswith(head)  # what goes before a command that is typed by hand
    assert not (checkout.folder / "runs").exists() and not checkout.calls
    assert run(name) == 0
    kinds = [line.split()[1] for line in checkout.calls if line.startswith("end")]
    assert sorted(kinds) == ["eval"] * 6 + ["stage1"] * 2 + ["stage2"] * 4
    rows = checkout.table()
    assert [(r["recipe"], r["seed"], r["status"]) for r in rows] == [
        (recipe, seed, "done")
        for recipe in ("unime", "infonce-after-stage1", "stage1-only")
        for seed in (0, 1)
    ]
    for found in rows:
        assert len(found["hits/Names"]) == QUERIES
        assert found["score/Names"] == sum(found["hits/Names"]) / QUERIES
        assert found["average/micro-3"] == pytest.approx(
            sum(found[f"score/{task}"] for task in TASKS) / 3
        )
        assert found["seconds"] == pytest.approx(sum(
            value for key, value in found.items() if key.startswith("seconds/")
        ))  # fmt: skip
        assert found["cpu_seconds"] >= 0 and found["commit"] == "c1" and found["hardware"] == "CPU"
        assert found["stage1/loss"] == 0.5 and found["curve/stage1/step"] == [2, 4]
        assert ("stage2/grad_norm" in found) == (found["recipe"] != "stage1-only")
    before = checkout.calls
    assert run(name) == 0 and checkout.calls == before  # nothing is run twice
    study.main([name, "--dry-run"])
    assert "6 done\n12 commands, of which 0 are to be run" in capsys.readouterr().out


def test_studies_share_what_they_have_in_common(checkout: StudyCheckout) -> None:
    assert run(checkout.write(RECIPES)) == 0
    before = len(checkout.calls)
    more = RECIPES.replace("infonce-after-stage1", "infonce-after-stage1, stage2-only")
    assert run(checkout.write(more, "more.yaml")) == 0
    assert {line.split()[1] for line in checkout.calls[before:]} == {"stage2", "eval"}
    assert len(checkout.calls) == before + 8  # begin and end of two stages and two evaluations
    assert len(checkout.table("more")) == 8


def test_a_failure_is_a_row_with_its_reason_and_ends_no_other(
    checkout: StudyCheckout, capsys: pytest.CaptureFixture[str]
) -> None:
    text = "recipes: [unime, stage1-only]\nseeds: [0]\n"
    text += "grid: {stage2.loss.temperature: [0.02, 0.666, -1.0]}\n"
    name = checkout.write(text)
    assert run(name) == 1
    rows = {row.get("grid/stage2.loss.temperature"): row for row in checkout.table()}
    assert {key: row["status"] for key, row in rows.items()} == {
        0.02: "done", 0.666: "failed", -1.0: "failed", None: "done"
    }  # fmt: skip
    assert rows[0.666]["reason"] == "stage2: status 1; error: collapsed"
    assert "loss.temperature: got -1.0" in rows[-1.0]["reason"]
    said = capsys.readouterr().out
    assert "failed: unime stage2.loss.temperature=0.666 seed 0: stage2: status 1" in said
    assert "2 of 4 cells are not done" in said
    before = len(checkout.calls)
    assert run(name) == 1 and len(checkout.calls) == before  # what failed stays failed,
    script = checkout.folder / "launch.sh"
    script.write_text(script.read_text().replace("error: collapsed", "error: no room"))
    assert run(name, "retry=true") == 1
    reasons = [row["reason"] for row in checkout.table()]
    assert "stage2: status 1; error: no room" in reasons  # of the last attempt
    script.write_text(script.read_text().replace("0.666", "never"))
    assert run(name, "retry=true") == 1  # until it is asked for: one setting is still wrong
    assert [row["status"] for row in checkout.table()].count("done") == 3


def test_what_a_signal_ended_is_run_again_by_the_next_call(
    checkout: StudyCheckout, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = checkout.folder / "launch.sh"
    whole = script.read_text()
    script.write_text(whole.replace("sleep", "[ $command = stage2 ] && kill -KILL $$; sleep"))
    name = checkout.write("recipes: [unime, stage1-only]\nseeds: [0]\n")
    assert run(name) == 1
    assert [row["status"] for row in checkout.table()] == ["not run", "done"]
    assert "SIGKILL" in checkout.table()[0]["reason"]
    script.write_text(whole)
    assert run(name) == 0
    assert max(checkout.counts("end").values()) == 1


def test_cells_run_side_by_side(checkout: StudyCheckout, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLEEP", "0.4")
    name = checkout.write("recipes: [vlm2vec, stage2-only, infonce-after-stage1]\nseeds: [0]\n")
    assert run(name, "workers=3") == 0
    order = [line.split()[0] for line in checkout.calls]
    assert order[:3] == ["begin"] * 3
    assert {row["status"] for row in checkout.table()} == {"done"}


def test_code_that_changes_while_a_study_runs_ends_it(
    checkout: StudyCheckout, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("eval.study.running.code_of", lambda kind: "another")
    with pytest.raises(RunError, match="the code has changed"):
        study.main([checkout.write(RECIPES)])
    assert not checkout.calls


def test_data_that_cannot_be_made_end_it(checkout: StudyCheckout) -> None:
    script = checkout.folder / "launch.sh"
    script.write_text(script.read_text().replace("exit 0 ;;", "exit 3 ;;"))
    with pytest.raises(RunError, match="data: ./launch.sh prepare data.yaml ended with status 3"):
        study.main([checkout.write(RECIPES)])


def test_workers_divide_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,5,6,7")
    shared = {"OMP_NUM_THREADS": "2", "UNIME_NUM_PROCESSES": "2"}
    assert environments(2, {}) == [
        {**shared, "CUDA_VISIBLE_DEVICES": "4,6"},
        {**shared, "CUDA_VISIBLE_DEVICES": "5,7"},
    ]
    assert [e["CUDA_VISIBLE_DEVICES"] for e in environments(4, {})] == ["4", "5", "6", "7"]
    for workers in (3, 8):
        with pytest.raises(ConfigError, match=f"workers: got {workers}, expected a divisor of 4"):
            environments(workers, {})
    own = {"CUDA_VISIBLE_DEVICES": "", "UNIME_NUM_PROCESSES": "2"}
    assert environments(3, own) == [{"OMP_NUM_THREADS": "1", **own}] * 3


def test_a_number_of_ranks_is_of_an_identity(
    checkout: StudyCheckout, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Which decides the global batch: that of the workers' GPUs, and one that a user exports."""
    base = checkout.folder / "base.yaml"
    base.write_text(base.read_text().partition("environment:")[0])
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1,2,3,4,5,6,7")
    name = checkout.write("recipes: [unime]\nseeds: [0]\n")

    def planned(*words: str) -> str:
        study.main([name, "--dry-run", *words])
        return capsys.readouterr().out

    def steps(said: str) -> set[str]:
        return set(re.findall(r"steps/([a-z0-9]+-[0-9a-f]+)\n", said))

    whole, halves = planned(), planned("workers=2")
    assert whole.startswith("export UNIME_NUM_PROCESSES=8\n")  # as it is typed by hand
    assert halves.startswith("export UNIME_NUM_PROCESSES=4\n")
    assert len(steps(whole)) == len(steps(halves)) == 3 and not steps(whole) & steps(halves)
    monkeypatch.setenv("UNIME_NUM_PROCESSES", "4")
    assert planned() == planned("workers=2") == halves
    with pytest.raises(ConfigError, match="workers: got 3, expected a divisor of 8"):
        study.main([name, "workers=3"])
    monkeypatch.delenv("UNIME_NUM_PROCESSES")
    file = checkout.folder / "own.yaml"
    monkeypatch.setenv("UNIME_ACCELERATE_CONFIG", str(file))
    file.write_text("num_processes: 2\n")
    two = planned()
    assert " UNIME_NUM_PROCESSES=2\n" in two  # and not one a GPU
    forget()
    file.write_text("num_processes: 2\nmixed_precision: bf16\n")
    assert not steps(planned()) & steps(two)  # what it says counts, and not where it lies
    forget()
    file.write_text("num_processes: 2\n")
    moved = file.rename(checkout.folder / "moved.yaml")
    monkeypatch.setenv("UNIME_ACCELERATE_CONFIG", str(moved))
    assert steps(planned()) == steps(two)
    monkeypatch.setenv("UNIME_NUM_PROCESSES", "many")
    with pytest.raises(ConfigError, match="UNIME_NUM_PROCESSES: got 'many', expected a positive"):
        planned()


@pytest.mark.parametrize(
    ("status", "said", "expected"),
    [
        (0, "", ("done", "")),
        (
            2,
            "noise\nerror: data.root: got 'x'\n+ more\n",
            ("failed", "status 2; error: data.root: got 'x'"),
        ),
        (1, "a line\nlast words\n", ("failed", "status 1; last words")),
        (-9, "", ("stopped", "ended by SIGKILL")),
        (143, "stopped\n", ("stopped", "ended by SIGTERM; stopped")),
    ],
)
def test_what_an_exit_status_means(
    status: int, said: str, expected: tuple[str, str], tmp_path: Path
) -> None:
    (tmp_path / "log").write_text(said)
    assert outcome(status, tmp_path / "log") == expected


def test_what_waits_for_its_folder_is_not_begun_when_a_study_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another program, of a study that was killed a moment ago, has the folder."""
    folder = tmp_path / "steps/stage1-x"
    folder.mkdir(parents=True)
    hold = "import fcntl, sys; file = open(sys.argv[1], 'w'); fcntl.lockf(file, fcntl.LOCK_EX)\n"
    hold += "print('held', flush=True); sys.stdin.read()"
    words = [sys.executable, "-c", hold, str(folder / ".lock")]
    step = Step("stage1-x", "stage1", folder, ("touch", str(tmp_path / "ran")), (), "code", None)
    monkeypatch.setattr("eval.study.running.code_of", lambda kind: "code")
    monkeypatch.setattr("eval.study.running.wait", ended_by_a_signal)
    runner = Runner(tmp_path, [{}], "c1")
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None and holder.stdout.readline() == b"held\n"
        Timer(1.0, holder.kill).start()  # after the signal
        with pytest.raises(KeyboardInterrupt):
            runner.run([step], lambda *_: None)
    assert not (tmp_path / "ran").exists()
    assert not (tmp_path / "logs/stage1-x.log").read_bytes()
    mark = Marks(tmp_path).of(step)
    assert mark is not None and mark.status == "stopped"


def ended_by_a_signal(*_: object, **__: object) -> None:
    time.sleep(0.3)  # the step waits already
    raise KeyboardInterrupt


# Kills -----------------------------------------------------------------------------------------


def logs_of_done(made: StudyCheckout) -> set[tuple[str, str]]:
    """Each step that is marked as done, and its log, which has a line of every time it ran."""
    folder = made.folder / "runs/study"
    marks = [path for path in folder.glob("marks/*.json") if read_json(path)["status"] == "done"]
    return {(path.stem, (folder / f"logs/{path.stem}.log").read_text()) for path in marks}


@pytest.mark.study
def test_killed_five_times_nothing_is_lost_or_run_twice(tmp_path: Path) -> None:
    made = StudyCheckout(tmp_path)
    name, before = made.write(RECIPES), set[tuple[str, str]]()
    for turn in range(5):
        process = made.start(name, "workers=2", sleep=0.7)
        begun, deadline = len(made.calls), time.monotonic() + 240
        while len(made.calls) <= begun + turn % 3 and process.poll() is None:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        time.sleep(random.Random(turn).uniform(0, 0.9))
        kill(process)
        assert logs_of_done(made) >= before  # what was done has not run again
        before = logs_of_done(made)
        for row in made.table():  # whole, whenever it is looked at
            assert row["status"] in ("done", "not run")
    process = made.start(name)
    said = process.communicate(timeout=300)[0]
    assert process.returncode == 0, said[-3000:]
    assert set(made.counts("end").values()) == {1} and len(made.counts("end")) == 12
    rows = made.table()
    assert [row["status"] for row in rows] == ["done"] * 6
    assert len({row["cell"] for row in rows}) == 6
    assert logs_of_done(made) >= before
    assert (made.folder / "runs/study/small/comparison.md").is_file()


@pytest.mark.study
@pytest.mark.parametrize(("signum", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_what_runs_and_the_study(
    signum: signal.Signals, status: int, tmp_path: Path
) -> None:
    made = StudyCheckout(tmp_path)
    name = made.write(RECIPES)
    process = made.start(name, sleep=30)
    deadline = time.monotonic() + 240
    while not made.calls:
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.05)
    process.send_signal(signum)
    assert process.wait(60) == status
    assert not made.counts("end")
    rows = made.table()
    assert {row["status"] for row in rows} == {"not run"}
    assert Marks(made.folder / "runs/study").folder.is_dir()
    process = made.start(name)
    assert process.wait(300) == 0


def test_a_damaged_result_is_the_failure_of_its_cell_alone(
    checkout: StudyCheckout, capsys: pytest.CaptureFixture[str]
) -> None:
    name = checkout.write("recipes: [unime, stage1-only]\nseeds: [0]\n")
    assert run(name) == 0
    folder = checkout.folder / checkout.table()[0]["folder"]
    (folder / "Names.json").unlink()
    capsys.readouterr()
    assert run(name) == 1
    rows = checkout.table()
    assert [row["status"] for row in rows] == ["failed", "done"]
    assert "no result" in rows[0]["reason"] and str(folder.name) in rows[0]["reason"]
    assert "1 of 2 cells are not done" in capsys.readouterr().out
    shutil.rmtree(folder)  # as it says
    assert run(name) == 0 and [row["status"] for row in checkout.table()] == ["done", "done"]


def test_nothing_is_prepared_for_a_study_of_which_no_cell_can_run(checkout: StudyCheckout) -> None:
    name = checkout.write("recipes: [unime]\nseeds: [0]\ngrid: {stage2.loss.temperatur: [1]}\n")
    with pytest.raises(ConfigError, match="no cell can run: .*unknown key 'loss.temperatur'"):
        study.main([name])
    assert not (checkout.folder / "prepared.log").exists()
    with pytest.raises(SystemExit):  # and the dry run says so by its status
        study.main([name, "--dry-run"])
