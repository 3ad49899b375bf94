"""Programs as forks of one process that has imported what they need: each starts at once, as if it
had been called by ``python -m``, and can be stopped before any of its changes of a folder.

    python -m tests.faults.forks        is that process; `Forks` starts it
"""

from __future__ import annotations

import importlib
import json
import os
import runpy
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tests.support.launching import ON_CPU
from tests.support.paths import ROOT

IMPORTED = (  # by all programs, and what they import when they are at work
    "stages.stage1_distill", "stages.stage2_instruct", "stages.export", "eval.evaluate",
    "eval.report.__main__", "eval.page.build", "eval.miniatures.__main__", "data_prep.demo.data",
    "data_prep.teacher_embeddings", "stages.mine", "sentence_transformers", "sklearn.decomposition",
    "sklearn.manifold", "bitsandbytes", "peft", "transformers.models.qwen2_vl.modeling_qwen2_vl",
    "transformers.models.qwen2_vl.processing_qwen2_vl", "transformers.models.auto.modeling_auto",
    "transformers.models.bert.modeling_bert", "scipy.io", "resvg_py",
)  # fmt: skip
CHANGES = {"os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate", "os.symlink"}
PATIENCE = 240.0  # seconds; the slowest program takes ten


@dataclass(frozen=True)
class Watch:
    """What to note of a program, and when to stop it.

    Attributes:
        below: a path; every change of a file or folder whose path begins with it counts.
        listed: the file that gets a line for each, just before it is made.
        at: the change before which the program gets `signum`; 0: none.
    """

    below: str
    listed: str
    at: int = 0
    signum: int = signal.SIGKILL


class Fork:
    """A program that runs, or ran; its output goes to a file."""

    def __init__(self, forks: Forks, pid: int, log: Path) -> None:
        self.forks, self.pid, self.log = forks, pid, log
        self.status: int | None = None

    @property
    def said(self) -> str:
        return self.log.read_text(errors="replace")

    def poll(self) -> int | None:
        """Its exit status, negative for a signal; None: it runs."""
        if self.status is None:
            self.status = self.forks.ask({"status_of": self.pid})
        return self.status

    def until(self, happened: Callable[[], bool], timeout: float = PATIENCE) -> None:
        deadline = time.monotonic() + timeout
        while not happened():
            if time.monotonic() > deadline:
                self.kill()
                raise AssertionError(f"still running after {timeout:.0f} s:\n{self.said[-2000:]}")
            time.sleep(0.005)

    def wait(self, timeout: float = PATIENCE) -> int:
        self.until(lambda: self.poll() is not None, timeout)
        assert self.status is not None
        return self.status

    def is_stopped(self) -> bool:
        """By SIGSTOP."""
        return Path(f"/proc/{self.pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "T"

    def kill(self) -> None:
        """At once, if it runs."""
        if self.poll() is None:
            os.kill(self.pid, signal.SIGKILL)
            self.wait(30)


class Forks:
    """Starts programs; `folder` gets their output."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.count = folder, 0
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        command = [sys.executable, "-m", "tests.faults.forks"]
        self._log = (folder / "server.txt").open("w")
        self.process = subprocess.Popen(
            command, cwd=ROOT, env=os.environ | ON_CPU, stderr=self._log, **pipes
        )  # type: ignore[call-overload]

    def ask(self, question: dict[str, Any]) -> Any:
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write(json.dumps(question) + "\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline()
        assert answer, (self.folder / "server.txt").read_text()[-3000:]
        return json.loads(answer)

    def start(self, module: str, words: Sequence[str], watch: Watch | None = None) -> Fork:
        """``python -m module words``."""
        self.count += 1
        log = self.folder / f"{self.count}_{module}.txt"
        asked = {"module": module, "words": list(words), "log": str(log)}
        pid = self.ask(asked | {"watch": watch and asdict(watch)})
        return Fork(self, pid, log)

    def stop(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()
        self._log.close()


def serve() -> dict[str, Any]:
    """Answer until the tests are gone, and end what still runs then; in a fork, return what it has
    to run."""
    running = set()
    for line in sys.stdin:
        asked = json.loads(line)
        if "status_of" in asked:
            pid, status = os.waitpid(asked["status_of"], os.WNOHANG)
            answer = os.waitstatus_to_exitcode(status) if pid else None
            running.discard(pid)
        else:
            answer = os.fork()
            if not answer:
                return dict(asked)
            running.add(answer)
        print(json.dumps(answer), flush=True)
    for pid in running:
        os.kill(pid, signal.SIGKILL)  # one that is stopped too
    os._exit(0)


def become(asked: dict[str, Any]) -> None:
    """Be the program that is asked for."""
    os.setsid()
    log = os.open(asked["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
    nothing = os.open(os.devnull, os.O_RDONLY)
    for place, source in enumerate((nothing, log, log)):
        os.dup2(source, place)
    sys.stdin = open(0)
    module = asked["module"]
    sys.argv = [module, *asked["words"]]
    for imported in (module, f"{module}.__main__"):
        sys.modules.pop(imported, None)
    if asked["watch"] is not None:
        sys.addaudithook(watcher(Watch(**asked["watch"])))
    runpy.run_module(module, run_name="__main__", alter_sys=True)


def watcher(watch: Watch) -> Callable[[str, tuple[Any, ...]], None]:
    """Called by Python before it opens, renames or removes a file."""
    program, count = os.getpid(), 0
    listed = os.open(watch.listed, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal count
        if event == "open":
            is_change = isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR)
        else:
            is_change = event in CHANGES
        if not is_change or not isinstance(arguments[0], str | bytes | os.PathLike):
            return
        path = os.fsdecode(arguments[0])
        if os.getpid() != program or not path.startswith(watch.below):
            return
        count += 1
        os.write(listed, f"{event} {path}\n".encode())
        if count == watch.at:
            os.kill(program, watch.signum)

    return hook


if __name__ == "__main__":
    for name in IMPORTED:
        importlib.import_module(name)
    become(serve())
