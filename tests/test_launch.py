"""launch.sh: sets up once, repairs what was interrupted, and starts what it prints.

    ./launch.sh test tests/test_launch.py

Nothing is installed here: the interpreter that makes environments is a stand-in that logs what is
asked of it. The launches of one and of two ranks are real.
"""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.checkout import PATIENCE, Checkout
from tests.support.paths import ROOT


def test_passes_arguments_from_any_folder(checkout: Checkout, tmp_path: Path) -> None:
    assert checkout.launch("test", "-k", "a and b", "--lf", cwd=tmp_path)[0] == 0
    assert checkout.ran() == [str(checkout.root), "-m", "pytest", "-k", "a and b", "--lf"]
    (tmp_path / "mine.yaml").touch()
    checkout.launch("report", "mine.yaml", "seed=1", cwd=tmp_path)
    words = ["-m", "eval.report", "--config", f"{tmp_path}/mine.yaml", "seed=1"]
    assert checkout.ran()[1:] == words
    checkout.launch("plan", "some config.yaml", "gpus=4")
    words = ["-m", "stages.plan", "--config", "some config.yaml", "gpus=4"]
    assert checkout.ran()[1:] == words
    checkout.launch("report", "some config.yaml", cwd=tmp_path)
    assert checkout.ran()[1:] == ["-m", "eval.report", "--config", "some config.yaml"]
    checkout.launch("check", "runs/a store", "repair=true")
    assert checkout.ran()[1:] == ["-m", "stages.check", "runs/a store", "repair=true"]
    checkout.launch("bench", "step", "--small")
    assert checkout.ran()[1:] == ["-m", "benchmarks", "step", "--small"]


@pytest.mark.parametrize(
    ("words", "module"),
    [
        (("prepare",), "data_prep.teacher_embeddings"),
        (("prepare", "teacher"), "data_prep.teacher_embeddings"),
        (("prepare", "demo"), "data_prep.demo.data"),
        (("prepare", "real-llm"), "data_prep.real_llm.data"),
    ],
)
def test_prepare(checkout: Checkout, words: tuple[str, ...], module: str) -> None:
    assert checkout.launch(*words, "some config.yaml", "limit=5")[0] == 0
    assert checkout.ran()[1:] == ["-m", module, "--config", "some config.yaml", "limit=5"]


def test_prepare_mmeb(checkout: Checkout, tmp_path: Path) -> None:
    assert checkout.launch("prepare", "mmeb", "rows=5", "--dry-run")[0] == 0
    assert checkout.ran()[1:] == ["-m", "data_prep.mmeb", "rows=5", "--dry-run"]
    (tmp_path / "mine.yaml").touch()
    checkout.launch("prepare", "mmeb", "mine.yaml", "rows=5", cwd=tmp_path)
    assert checkout.ran()[1:] == ["-m", "data_prep.mmeb", f"{tmp_path}/mine.yaml", "rows=5"]
    status, said = checkout.launch("prepare", "mmeb", "none.yaml")[:2]
    assert status == 2 and "no such file: none.yaml" in said


def test_own_data_lie_where_the_caller_is(checkout: Checkout, tmp_path: Path) -> None:
    (tmp_path / "pets").mkdir()
    words = ("pets", "data/pets", "captions=class", "--dry-run")
    assert checkout.launch("prepare", "own", *words, cwd=tmp_path)[0] == 0
    assert checkout.ran()[1:] == ["-m", "data_prep.own", f"{tmp_path}/pets", *words[1:]]
    assert checkout.launch("prepare", "own", "pets")[0] == 2


def test_tune(checkout: Checkout) -> None:
    assert checkout.launch("tune", "data/pets", "optim.steps=5")[0] == 0
    assert checkout.ran()[1:] == ["-m", "stages.tune", "data/pets", "optim.steps=5"]
    assert checkout.launch("tune", "data/pets", "some config.yaml", "optim.steps=5")[0] == 0
    ran = ["-m", "stages.tune", "data/pets", "--config", "some config.yaml", "optim.steps=5"]
    assert checkout.ran()[1:] == ran
    assert checkout.launch("tune", "data/pets", "--help-me", "optim.steps=5")[0] == 0
    assert checkout.ran()[1:] == ["-m", "stages.tune", "data/pets", "--help-me", "optim.steps=5"]


@pytest.mark.parametrize("words", [("demo",), ("tune", "data/pets")])
def test_accelerates_configuration_is_the_callers(
    checkout: Checkout, tmp_path: Path, words: tuple[str, ...]
) -> None:
    (tmp_path / "own.yaml").write_text("num_processes: 2\n")
    for name, status, said in (
        ("own.yaml", 0, f"{tmp_path}/own.yaml\n"),
        ("none.yaml", 2, "launch.sh: no such file: none.yaml"),
    ):
        found, output = checkout.launch(
            *words, cwd=tmp_path, UNIME_ACCELERATE_CONFIG=name,
            UNIME_TEST_THEN='echo "$UNIME_ACCELERATE_CONFIG"',
        )  # fmt: skip
        assert found == status and output.startswith(said), output


@pytest.mark.parametrize(
    "command",
    [
        "demo",
        "test",
        "lint",
        "prepare",
        "stage1",
        "stage2",
        "plan",
        "eval",
        "report",
        "check",
        "bench",
    ],
)
def test_help_needs_no_set_up(checkout: Checkout, command: str) -> None:
    status, output = checkout.launch(command, "--help")
    assert status == 0
    assert f"./launch.sh {command}" in output
    assert checkout.calls() == []
    assert command in checkout.launch("--help")[1]


def test_help_is_the_programs_once_there_is_one(checkout: Checkout) -> None:
    checkout.launch("test")
    assert checkout.launch("plan", "--help")[0] == 0
    assert checkout.ran()[1:] == ["-m", "stages.plan", "--help"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "Usage: ./launch.sh COMMAND"),
        (("stage3",), "unknown command 'stage3'"),
        (("stage1",), "Usage: ./launch.sh stage1 CONFIG"),
        (("stage1", "none.yaml"), "no such file: none.yaml"),
        (("check",), "Usage: ./launch.sh check DATA"),
        (("check", "none.yaml"), "no such file: none.yaml"),
        (("study", "none.yaml"), "no such file: none.yaml"),
        (("tune", "data", "none.yaml"), "no such file: none.yaml"),
        (("mine", "none.yaml", "out"), "no such file: none.yaml"),
        (("judge", "none.yaml", "out"), "no such file: none.yaml"),
        (("mine", "data"), "Usage: ./launch.sh mine CONFIG|DATA OUT"),
        (("bench",), "Usage: ./launch.sh bench NAME"),
    ],
)
def test_mistakes_need_no_set_up(checkout: Checkout, words: tuple[str, ...], message: str) -> None:
    status, output = checkout.launch(*words)
    assert (status, message in output) == (2, True), output
    assert checkout.calls() == []
    if "no such file" in message:
        assert output.count("\n") == 1 and not checkout.log.with_suffix(".run").exists()


@pytest.mark.parametrize(
    ("word", "status", "said"),
    [
        ("run.sed=3", 2, "unknown key 'run.sed'; the nearest valid key is 'run.seed'\n"),
        ("--run.seed=3", 2, "launch.sh stage1: got --run.seed=3; settings are written key=value"),
        ("--print-config", 0, "  seed: 3\n"),
    ],
)
def test_what_starts_no_rank(checkout: Checkout, word: str, status: int, said: str) -> None:
    found, output = checkout.launch("stage1", "some config.yaml", "run.seed=3", word)
    assert (found, said in output) == (status, True), output
    assert "accelerate launch" not in output


@pytest.mark.parametrize("processes", [1, 2])
def test_starts_that_many_ranks_on_cpu(checkout: Checkout, processes: int) -> None:
    status, output = checkout.with_accelerate().launch(
        "stage1", "some config.yaml", "run.seed=3", "data.columns=[sent0, sent1]",
        UNIME_NUM_PROCESSES=str(processes), CUDA_VISIBLE_DEVICES="",
    )  # fmt: skip
    assert status == 0, output
    launched = "accelerate launch --config_file configs/accelerate/cpu_two_ranks" in output
    assert launched == (processes > 1)
    assert "-m stages.stage1_distill --config some\\ config.yaml run.seed=3" in output
    seen = [json.loads(path.read_text()) for path in sorted(checkout.root.glob("rank*.json"))]
    words = ["--config", "some config.yaml", "run.seed=3", "data.columns=[sent0, sent1]"]
    assert seen == [[processes, words]] * processes


@pytest.mark.parametrize(
    ("first", "words"),
    [
        ("data", ["--config", "configs/mine.yaml", "data.root=data", "output_dir=out"]),
        ("own.yaml", ["--config", "own.yaml", "output_dir=out"]),
    ],
)
def test_mining_takes_data_or_a_file(checkout: Checkout, first: str, words: list[str]) -> None:
    root = checkout.root
    shutil.copy(root / "stages/stage1_distill.py", root / "stages/mine.py")
    shutil.copy(ROOT / "configs/mine.yaml", root / "configs")
    (root / "own.yaml").write_text("model: {name: m}\ndata: {root: r}\n")
    command = ("mine", first, "out", "model.name=m")
    status, output = checkout.with_accelerate().launch(
        *command, UNIME_NUM_PROCESSES="1", CUDA_VISIBLE_DEVICES=""
    )
    assert status == 0, output
    assert json.loads((root / "rank0.json").read_text()) == [1, [*words, "model.name=m"]]
    status, output = checkout.launch(*command, "mining.lists=3")
    assert status == 2 and output.count("mining.lists: got 3, expected null without ivf") == 1


@pytest.mark.skipif(shutil.which("shellcheck") is None, reason="shellcheck is not installed")
def test_shellcheck_has_nothing_to_say() -> None:
    scripts = [str(ROOT / "launch.sh"), str(ROOT / ".ci" / "run")]
    done = subprocess.run(["shellcheck", *scripts], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_what_an_engine_cannot_do_is_said_before_any_rank_starts(checkout: Checkout) -> None:
    for engine, status in (("zero2", 2), ("ddp", 0)):
        found, output = checkout.with_accelerate().launch(
            "stage1", "some config.yaml", "optim.auto_chunk=true", UNIME_NUM_PROCESSES="1",
            UNIME_ACCELERATE_CONFIG=f"configs/accelerate/{engine}.yaml", CUDA_VISIBLE_DEVICES="",
        )  # fmt: skip
        assert found == status, output
        if status:
            assert output.startswith(f"error: optim.auto_chunk: got true with {engine}, expected")
            assert output.count("\n") == 1


@pytest.mark.parametrize("command", ["judge", "mine"])
def test_an_engine_is_no_matter_of_what_trains_nothing(checkout: Checkout, command: str) -> None:
    """Up to the ranks, of which there are none here."""
    shutil.copy(ROOT / f"configs/{command}.yaml", checkout.root / "configs")
    accelerate = checkout.venv / "bin" / "accelerate"
    checkout.launch("test")
    accelerate.write_text("#!/bin/sh\necho launched\n")
    accelerate.chmod(0o755)
    status, output = checkout.launch(
        command, "data", "out", "model.name=m",
        UNIME_ACCELERATE_CONFIG="configs/accelerate/zero2.yaml", CUDA_VISIBLE_DEVICES="",
    )  # fmt: skip
    assert status == 0 and output.startswith("launched\n"), output


SLOW_STAGE = """
import os, sys, time
from unime.runtime.interruption import Interruption, typed_command
rank = os.environ.get("RANK", "0")
with Interruption() as interruption:
    open(f"began{rank}", "w").close()
    while not interruption.signum:
        time.sleep(0.05)
    time.sleep(1)
    open(f"saved{rank}", "w").write(str(interruption.signum))
    print("to go on:", typed_command(), file=sys.stderr)
sys.exit(128 + interruption.signum)
"""


@pytest.mark.parametrize(
    ("processes", "signum"), [("1", signal.SIGTERM), ("1", signal.SIGINT), ("2", signal.SIGTERM)]
)
def test_a_signal_reaches_every_rank_and_all_may_save(
    checkout: Checkout, processes: str, signum: signal.Signals
) -> None:
    """accelerate alone would leave its only rank behind, and its status is always 1."""
    (checkout.root / "stages" / "stage1_distill.py").write_text(SLOW_STAGE)
    words = ("stage1", "some config.yaml")
    process = checkout.with_accelerate().start(*words, UNIME_NUM_PROCESSES=processes)
    ranks = range(int(processes))
    checkout.wait_for(process, *(f"began{rank}" for rank in ranks))
    process.send_signal(signum)
    said = process.communicate(timeout=PATIENCE)[1]
    assert process.returncode == 128 + signum
    typed = f"{checkout.root}/launch.sh stage1 some config.yaml".replace(" checkout", "\\ checkout")
    typed = typed.replace("some config", "some\\ config")
    assert f"UNIME_NUM_PROCESSES={processes} {typed}\n" in said.split("to go on: ")[1]
    if processes == "1":
        assert "Traceback" not in said
    assert [(checkout.root / f"saved{rank}").read_text() for rank in ranks] == [
        str(int(signum)) for _ in ranks
    ]


KILLED = "launch.sh: the program was killed, most likely by the system for want of memory"


@pytest.mark.parametrize(
    "words",
    [
        ("demo",),
        ("test",),
        ("prepare", "some config.yaml"),
        ("prepare", "miniatures", "folder"),
        ("plan", "some config.yaml"),
        ("report", "some config.yaml"),
        ("export", "a run", "a folder"),
    ],
)
def test_a_killed_program_gets_its_line(checkout: Checkout, words: tuple[str, ...]) -> None:
    status, output = checkout.launch(*words, UNIME_TEST_THEN="kill -KILL $$")
    assert status == 137
    assert output.splitlines()[-1].startswith(KILLED) and output.count(KILLED) == 1
    assert len(output.splitlines()) == 3, output  # what is installed, what is run, and this
    status, output = checkout.launch(*words, UNIME_TEST_THEN="echo failed >&2; exit 1")
    assert (status, output.splitlines()[-1]) == (1, "failed")


ENDING_STAGE = """
import os, signal, sys
from unime.errors import RunError
from unime.runtime.program import run_program
def main():
    END
run_program(main)
"""


@pytest.mark.parametrize(
    ("end", "status", "last"),
    [
        ("os.kill(os.getpid(), signal.SIGKILL)", 137, KILLED),
        ("raise RunError('no room')", 1, "error: no room"),
        ("import nothing_of_this_name", 1, "ModuleNotFoundError: No module"),
        ("print('done', file=sys.stderr)", 0, "done"),
    ],
)
def test_the_only_rank_gets_its_line_when_it_is_killed(
    checkout: Checkout, end: str, status: int, last: str
) -> None:
    """accelerate's own status is 1, and with --quiet it says nothing."""
    stage = checkout.root / "stages" / "stage1_distill.py"
    stage.write_text(ENDING_STAGE.replace("END", end))
    found, output = checkout.with_accelerate().launch(
        "stage1", "some config.yaml", UNIME_NUM_PROCESSES="1", CUDA_VISIBLE_DEVICES=""
    )
    assert found == status, output
    assert output.splitlines()[-1].startswith(last)
    assert output.count(KILLED) == (last == KILLED)


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_reaches_a_program_without_ranks(
    checkout: Checkout, signum: signal.Signals
) -> None:
    waits = f"{sys.executable} -c '{WAITING_PROGRAM}'"
    process = checkout.start("demo", UNIME_TEST_THEN=f"exec {waits}")
    assert process.stdin is not None
    process.stdin.write("typed\n")
    process.stdin.flush()
    checkout.wait_for(process, "began")
    process.send_signal(signum)
    process.communicate(timeout=PATIENCE)
    assert process.returncode == 128 + signum
    assert (checkout.root / "ended").read_text() == f"typed {int(signum)}"


WAITING_PROGRAM = """
import signal, sys, time
def end(number, _):
    open("ended", "w").write(f"{line} {number}")
    sys.exit(128 + number)
assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
for number in (signal.SIGINT, signal.SIGTERM):
    signal.signal(number, end)
line = input()
open("began", "w").close()
time.sleep(600)
"""
