"""A copy of launch.sh in a checkout of its own, whose pip and programs only log."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.support.paths import ROOT

PATIENCE = 480  # seconds; two ranks were seen to take two minutes to start on a busy machine
# `-m venv DIR` makes an environment whose python is this file again; `-m pip` only logs, and fails
# when told to; everything else is done by the real interpreter.
STAND_IN = """#!/usr/bin/env bash
set -euo pipefail
case "${1:-} ${2:-}" in
  "-m venv")
    echo "venv" >>"$UNIME_TEST_LOG"
    mkdir -p "$3/bin" && cp "$0" "$3/bin/python" && touch "$3/pyvenv.cfg" ;;
  "-m pip")
    echo "pip ${*:3}" >>"$UNIME_TEST_LOG"
    echo "${PIP_CONSTRAINT:-none} ${PIP_BUILD_CONSTRAINT:-none}" >>"$UNIME_TEST_LOG.constraints"
    [[ ! -e $UNIME_TEST_LOG.fail ]] ;;
  "-m pytest" | "-m stages.demo" | "-m stages.plan" | "-m stages.export" | "-m stages.check" | \
    "-m stages.tune" | "-m stages.serve" | "-m stages.app" | "-m eval.report" | \
    "-m data_prep."* | "-m eval.miniatures" | "-m benchmarks")
    printf '%s\\n' "$PWD" "$@" >"$UNIME_TEST_LOG.run"
    eval "${UNIME_TEST_THEN:-}" ;;
  "-c import os, sys; print("*)
    echo "${UNIME_TEST_PYTHON:-3 11} $(realpath "$0")" ;;
  *) exec REAL_PYTHON "$@" ;;
esac
"""
TRIVIAL_STAGE = """
import json, os, sys
from accelerate import Accelerator
accelerator = Accelerator()
seen = accelerator.num_processes, sys.argv[1:]
open(f"rank{accelerator.process_index}.json", "w").write(json.dumps(seen))
accelerator.wait_for_everyone()
accelerator.end_training()
"""


class Checkout:
    """A copy of what launch.sh needs, in a folder with a space in its name."""

    def __init__(self, folder: Path) -> None:
        self.root = folder / "my checkout"
        self.log = folder / "log"
        self.venv = folder / "an environment"
        (self.root / "stages").mkdir(parents=True)
        (self.root / "stages" / "stage1_distill.py").write_text(TRIVIAL_STAGE)
        shutil.copy(ROOT / "launch.sh", self.root)
        shutil.copytree(ROOT / "configs" / "accelerate", self.root / "configs" / "accelerate")
        (self.root / "pyproject.toml").write_text("[project]\n")
        (self.root / "requirements.lock").write_text("torch==2.14.1\n")
        no_cache = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / "unime", self.root / "unime", ignore=no_cache)
        config = ROOT / "configs" / "stage1" / "smolvlm-256m.yaml"
        shutil.copy(config, self.root / "some config.yaml")
        self.python = folder / "stand-in"
        self.python.write_text(STAND_IN.replace("REAL_PYTHON", f"'{sys.executable}'"))
        self.python.chmod(0o755)

    def launch(self, *words: str, cwd: Path | None = None, **settings: str) -> tuple[int, str]:
        called = self.call(words, settings) | {"cwd": cwd or self.root}
        done = subprocess.run(**called, capture_output=True, timeout=PATIENCE)
        return done.returncode, done.stdout + done.stderr

    def start(self, *words: str, **settings: str) -> subprocess.Popen[str]:
        """Without waiting for its end; heeds Ctrl-C, also where the tests run in a shell's
        background, which ignores it and hands that on."""
        return subprocess.Popen(
            **self.call(words, settings),
            stdin=subprocess.PIPE,
            stderr=subprocess.PIPE,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )

    def wait_for(self, process: subprocess.Popen[str], *names: str) -> None:
        """Until there are files of these names in the checkout."""
        deadline = time.monotonic() + PATIENCE
        while not all((self.root / name).exists() for name in names):
            assert time.monotonic() < deadline and process.poll() is None
            time.sleep(0.05)

    def call(self, words: Sequence[str], settings: Mapping[str, str]) -> dict[str, Any]:
        """What starts it, for `subprocess`."""
        ours = {"UNIME_VENV": str(self.venv), "UNIME_PYTHON": str(self.python)}
        environment = os.environ | ours | settings | {"UNIME_TEST_LOG": str(self.log)}
        command = [self.root / "launch.sh", *words]
        return {"args": command, "cwd": self.root, "env": environment, "text": True}

    def with_accelerate(self) -> Checkout:
        """Set up, with the real accelerate."""
        self.launch("test")
        program = self.venv / "bin" / "accelerate"
        module = "accelerate.commands.accelerate_cli"
        program.write_text(f"#!/bin/sh\nexec '{sys.executable}' -m {module} \"$@\"\n")
        program.chmod(0o755)
        return self

    def calls(self) -> list[str]:
        """How the stand-in was called since the last look: venv, or pip and its arguments."""
        lines = self.log.read_text().splitlines() if self.log.exists() else []
        self.log.unlink(missing_ok=True)
        return lines

    def ran(self) -> list[str]:
        return self.log.with_suffix(".run").read_text().splitlines()
