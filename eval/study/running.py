"""Runs the steps of a study, some side by side, each after those that it needs."""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event, Lock

from eval.study.identity import code_of, forget
from eval.study.marks import DONE, FAILED, STOPPED, Mark, Marks
from eval.study.plan import Step
from unime.config.reading.processes import processes_asked_for
from unime.errors import RunError, require
from unime.runtime.folder_lock import wait_until_free
from unime.runtime.launcher import SCRIPTS

LOGS = "logs"
PATIENCE = 120.0  # seconds for a program of a study that was killed, which ends by itself
LAST = 4096  # bytes of a log that say why a program failed
GPUS, RANKS = "CUDA_VISIBLE_DEVICES", "UNIME_NUM_PROCESSES"
LAUNCHED_BY = (RANKS, "UNIME_ACCELERATE_CONFIG")  # what a user may export, by which ranks run
TOLD = re.compile(r"^(error|launch\.sh): .*", re.MULTILINE)


@dataclass
class Runner:
    """Runs commands in the checkout.

    Attributes:
        folder: of all studies; what the commands say goes into its logs.
        environments: of each worker, beside that of this process.
        commit: of the code.
        retry: whether steps that failed are run again.
        ended: set once all has to end.
        starting: held while a program starts, which is not while all are ended.
    """

    folder: Path
    environments: list[dict[str, str]]
    commit: str
    retry: bool = False
    children: dict[int, str] = field(default_factory=dict)  # process id -> step
    ended: Event = field(default_factory=Event)
    starting: Lock = field(default_factory=Lock)

    def run(self, steps: Iterable[Step], ended: Callable[[Step, Mark], None]) -> None:
        """Run all steps that are not done, and tell of each how it ended.

        Raises:
            KeyboardInterrupt: a signal came; all programs have ended.
            RunError: the code is no longer what the steps were planned with.
        """
        marks = Marks(self.folder)
        found = {step.name: step for step in steps}
        known = {name: marks.of(step) for name, step in found.items()}
        todo = [step for name, step in found.items() if self._is_open(known[name])]
        done = {name for name, mark in known.items() if mark is not None and mark.status == DONE}
        slots, running = list(range(len(self.environments))), dict[Future[Mark], tuple[Step, int]]()
        with ThreadPoolExecutor(len(slots)) as pool:
            try:
                while True:
                    for step in [step for step in todo if set(step.needs) <= done][: len(slots)]:
                        todo.remove(step)
                        slot = slots.pop(0)
                        running[pool.submit(self._run, step, marks, slot)] = step, slot
                    if not running:
                        return
                    for future in wait(running, return_when=FIRST_COMPLETED).done:
                        step, slot = running.pop(future)
                        slots.append(slot)
                        mark = future.result()
                        done |= {step.name} if mark.status == DONE else set()
                        ended(step, mark)
            except BaseException:
                self.stop()
                raise

    def _is_open(self, mark: Mark | None) -> bool:
        if mark is None or mark.status == STOPPED:
            return True
        return mark.status == FAILED and self.retry

    def stop(self) -> None:
        """End all programs that run, and start no other; training saves first."""
        with self.starting:
            self.ended.set()
            for child in list(self.children):
                try:
                    os.kill(child, signal.SIGTERM)
                except ProcessLookupError:
                    pass

    def prepare(self, commands: Mapping[str, list[str]]) -> None:
        """Make the data, one after another, with what they say on the terminal.

        Raises:
            RunError: a command failed.
        """
        for name, command in commands.items():
            print(f"{name}: {shlex.join(command)}", flush=True)
            status = subprocess.run(command, env=self._environment(0), check=False).returncode
            if status:
                raise RunError(f"{name}: {shlex.join(command)} ended with status {status}")

    def _run(self, step: Step, marks: Marks, slot: int) -> Mark:
        forget()
        if code_of(step.kind) != step.code:
            raise RunError("the code has changed while the study ran: type the command again")
        if not wait_until_free(step.folder, PATIENCE, self.ended) and not self.ended.is_set():
            reason = f"{step.folder} is in use by another program"
            return marks.ended(step, STOPPED, reason, 0.0, 0.0, self.commit)
        log = self.folder / LOGS / f"{step.name}.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        began = time.monotonic()
        with log.open("ab") as file:
            with self.starting:
                if self.ended.is_set():
                    reason = "the study ended before it began"
                    return marks.ended(step, STOPPED, reason, 0.0, 0.0, self.commit)
                file.write(f"$ {shlex.join(step.command)}\n".encode())
                file.flush()
                child = subprocess.Popen(
                    step.command,
                    stdin=subprocess.DEVNULL,
                    stdout=file,
                    stderr=subprocess.STDOUT,
                    env=self._environment(slot),
                )
                self.children[child.pid] = step.name
            try:
                _, ended, usage = os.wait4(child.pid, 0)  # with what it started and waited for
            finally:
                del self.children[child.pid]
            child.returncode = os.waitstatus_to_exitcode(ended)
        status, reason = outcome(child.returncode, log)
        cpu, seconds = usage.ru_utime + usage.ru_stime, time.monotonic() - began
        return marks.ended(step, status, reason, seconds, cpu, self.commit)

    def _environment(self, slot: int) -> dict[str, str]:
        launchers = f"{os.environ.get(SCRIPTS, '')} {os.getpid()}".strip()
        ours = {"UNIME_VENV": sys.prefix, SCRIPTS: launchers}
        return {**os.environ, **self.environments[slot], **ours}


def outcome(status: int, log: Path) -> tuple[str, str]:
    """What an exit status means, and why: a program that a signal ended is run again by the next
    call, one that failed by itself is not."""
    if status == 0:
        return DONE, ""
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - LAST))
        said = file.read().decode("utf-8", "replace").rpartition("\n$ ")[2].strip()
    lines = [found[0] for found in TOLD.finditer(said)] or said.splitlines()[-1:]
    reason = lines[-1] if lines else ""
    signum = -status if status < 0 else status - 128
    if signum in (signal.SIGINT, signal.SIGTERM, signal.SIGKILL, signal.SIGHUP):
        return STOPPED, f"ended by {signal.Signals(signum).name}; {reason}".rstrip("; ")
    return FAILED, f"status {status}; {reason}".rstrip("; ")


def with_ranks(workers: int, own: Mapping[str, str]) -> dict[str, str]:
    """A base's environment with how many ranks each of its programs has, which decides the global
    batch: what it says itself, what this process was started with (a number, or accelerate's
    configuration), or one a GPU of a worker.

    Raises:
        ConfigError: GPUs that the workers do not divide, or no number of ranks.
    """
    gpus, shares = visible_gpus({**os.environ, **own}), 1 if GPUS in own else workers
    expected = f"a divisor of {len(gpus)}, the GPUs: cells of one study have as many each"
    require(len(gpus) % shares == 0, "workers", workers, expected)
    exported = {key: os.environ[key] for key in LAUNCHED_BY if os.environ.get(key)}
    found = {**own, **{key: value for key, value in exported.items() if not own.get(key)}}
    ranks = processes_asked_for(found) or max(1, len(gpus) // shares)
    return {**found, RANKS: str(ranks)}


def environments(workers: int, own: Mapping[str, str]) -> list[dict[str, str]]:
    """What each worker's programs get of the machine: its share of the cores and of the GPUs.

    Args:
        own: what the base says, which goes first.

    Raises:
        ConfigError: GPUs that the workers do not divide, or no number of ranks.
    """
    own = with_ranks(workers, own)
    gpus = visible_gpus(os.environ)
    cores = len(os.sched_getaffinity(0)) // workers
    shared = {"OMP_NUM_THREADS": str(max(1, cores // int(own[RANKS])))}
    if "OMP_NUM_THREADS" in os.environ:
        shared = {}
    found = []
    for worker in range(workers):
        of_worker = {GPUS: ",".join(gpus[worker::workers])} if gpus else {}
        found.append({**shared, **of_worker, **own})
    return found


def visible_gpus(environment: Mapping[str, str]) -> list[str]:
    """Their names for CUDA_VISIBLE_DEVICES."""
    if (named := environment.get(GPUS)) is not None:
        return [name for name in named.split(",") if name.strip()]
    import torch  # slow, and of no other use here

    return [str(number) for number in range(torch.cuda.device_count())]
