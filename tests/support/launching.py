"""Starts the stage programs as users do, through accelerate's launcher and configs/accelerate/."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from tests.support.checkout import Checkout
from tests.support.paths import ROOT

STAGES = {  # the program, and the setting that names where it writes
    "stage1": ("stages.stage1_distill", "run.output_dir"),
    "stage2": ("stages.stage2_instruct", "run.output_dir"),
    "eval": ("eval.evaluate", "output_dir"),
}
ON_CPU = {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}


class Launch:
    """One call of the launcher for `ranks` processes of a stage, or of the launch.sh of a checkout;
    its output goes to a file."""

    def __init__(
        self,
        folder: Path,
        output: str,
        *settings: str,
        stage: str = "stage2",
        config: str = "ddp",
        ranks: int = 2,
        launcher: tuple[str, ...] = (),
        environment: Mapping[str, str] = ON_CPU,
        script: Checkout | None = None,
    ) -> None:
        module, output_key = STAGES[stage]
        self.output_dir = folder / output
        self._known_ranks: list[int] = []
        self.log = folder / f"{output.replace('/', '_')}_{time.monotonic_ns()}.log"
        if config == "zero1":  # which needs no file of its own
            config, launcher = "zero2", ("--zero_stage", "1", *launcher)
        words = [str(folder / f"{stage}.yaml"), f"{output_key}={self.output_dir}", *settings]
        command = [
            sys.executable, "-m", "accelerate.commands.launch",
            "--config_file", f"configs/accelerate/{config}.yaml", "--num_processes", str(ranks),
            *launcher, "--quiet", "-m", module, "--config", *words,
        ]  # fmt: skip
        called: dict[str, Any] = {"args": command, "env": os.environ | environment, "cwd": ROOT}
        if script is not None:
            own = {"UNIME_NUM_PROCESSES": str(ranks), "CUDA_VISIBLE_DEVICES": ""}
            called = script.call([stage, *words], {**environment, **own})
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                **called, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
            )

    @property
    def said(self) -> str:
        return self.log.read_text()

    def wait(self, timeout: float = 480) -> int:
        """Its exit status; everything is killed where it does not end in time."""
        try:
            return self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            self.kill()
            raise AssertionError(f"still running:\n{self.said[-3000:]}") from None

    def done(self, timeout: float = 480) -> Path:
        """The run's folder, once it has ended well."""
        assert self.wait(timeout) == 0, self.said[-4000:]
        return self.output_dir

    def until(self, happened: Callable[[], bool], timeout: float = 480) -> None:
        deadline = time.monotonic() + timeout
        while not happened():
            if self.process.poll() is not None or time.monotonic() > deadline:
                self.kill()
                raise AssertionError(f"ended, or too slow:\n{self.said[-3000:]}")
            time.sleep(0.01)

    def until_step(self, step: int, timeout: float = 480) -> None:
        """A line of metrics.jsonl says that `step` is taken; who runs is looked for before, so that
        a kill comes at once."""
        lines = self.output_dir / "metrics.jsonl"
        self.until(lambda: lines.exists() and bool(lines.read_text()), timeout)
        self._known_ranks = self.ranks
        self.until(lambda: f'"step": {step},' in lines.read_text(), timeout)

    @property
    def ranks(self) -> list[int]:
        """The process ids of the ranks, rank 0 first."""
        found = []
        for path in Path("/proc").glob("[0-9]*/environ"):
            try:
                variables = path.read_bytes().split(b"\0")
                parent = (path.parent / "stat").read_text().rsplit(")", 1)[1].split()[1]
            except (OSError, IndexError):
                continue  # gone by now
            rank = next((v[5:] for v in variables if v.startswith(b"RANK=")), None)
            if rank is not None and int(parent) == self.process.pid:
                found.append((int(rank), int(path.parent.name)))
        return [pid for _, pid in sorted(found)]

    def kill(self) -> None:
        """At once, and every rank with it: torchrun's have sessions of their own, accelerate's only
        one has the launcher's."""
        ranks = self._known_ranks or self.ranks
        for kill, pid in ((os.killpg, self.process.pid), *((os.kill, rank) for rank in ranks)):
            try:
                kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        self.process.wait()


def add_results(variable: str, key: str, found: Mapping[str, Any]) -> None:
    """Into the file from which a document is made, if the environment's `variable` names one."""
    name = os.environ.get(variable)
    if name:
        path = Path(name)
        results = json.loads(path.read_text()) if path.exists() else {}
        results.setdefault(key, {}).update(found)
        path.write_text(json.dumps(results, indent=1, sort_keys=True) + "\n")


def run(folder: Path, output: str, *settings: str, **options: object) -> Path:
    """From start to end; the run's folder."""
    return Launch(folder, output, *settings, **options).done()  # type: ignore[arg-type]
