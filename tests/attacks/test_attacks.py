"""What strangers make is refused by name or does no harm: ./launch.sh test -m attacks"""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.attacks.__main__ import ENVIRONMENT
from tests.support.paths import ROOT


def run(*words: str) -> subprocess.CompletedProcess[str]:
    """The attacks in a process of their own, whose children it forks before it has threads."""
    return subprocess.run(
        [sys.executable, "-m", "tests.attacks", *words],
        cwd=ROOT, env=os.environ | ENVIRONMENT, capture_output=True, text=True,
    )  # fmt: skip


@pytest.mark.attacks
def test_no_attack_gets_through(capsys: pytest.CaptureFixture[str]) -> None:
    done = run()
    with capsys.disabled():
        print(f"\n{done.stdout}")
    assert done.returncode == 0, done.stderr[-2000:]


def test_a_few_attacks_of_every_area() -> None:
    done = run("--sample")
    assert done.returncode == 0, done.stdout + done.stderr[-2000:]
