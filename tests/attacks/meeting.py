"""One attack in a process of its own, and what came of it.

A server has imported all programs once and forks a child for every attack, with limits on its time
and memory. An area of attacks builds what is attacked once; every attack has a copy of it, beside a
folder that nobody may touch and a secret that nobody may repeat.
"""

from __future__ import annotations

import faulthandler
import json
import os
import re
import resource
import select
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tests.attacks.harness import SECRET, Area, Attack
from unime.runtime.program import run_program

CPU_SECONDS, SECONDS = 10, 20  # of an attack, the second where it waits for something
MEMORY = 1500 << 20  # bytes beyond what the server has
LONGEST = 5000  # characters of a message
KEPT = {"secret.txt": SECRET, "notes.txt": "nobody's business"}
OUTCOMES = ("refused", "survived", "unnamed", "traceback", "exhausted", "let in", "hung")
GOOD = OUTCOMES[:2]


@dataclass(frozen=True)
class Met:
    """The end of an attack."""

    name: str
    outcome: str  # one of OUTCOMES
    detail: str
    seconds: float
    gigabytes: float


def in_child(action: Callable[[], object], seconds: float, said: Path) -> Any:
    """What an action returns in a forked process, as JSON; a number if it was killed by a signal,
    None if its time was over."""
    read, write = os.pipe()
    sys.stdout.flush()
    child = os.fork()
    if child == 0:
        _run_child(action, write, said)
    os.close(write)
    ended = os.pidfd_open(child)
    waiting = select.poll()
    waiting.register(ended, select.POLLIN)
    in_time = bool(waiting.poll(seconds * 1000))
    for kill in (os.killpg, os.kill):  # its workers too; the group may not be there yet
        try:
            kill(child, signal.SIGKILL)
        except ProcessLookupError:
            pass
    _, status, _ = os.wait4(child, 0)
    os.close(ended)
    with os.fdopen(read, "rb") as pipe:
        returned = pipe.read()
    if returned and in_time:
        return json.loads(returned)
    return os.waitstatus_to_exitcode(status) if in_time else None


def _run_child(action: Callable[[], object], write: int, said: Path) -> None:
    os.setsid()
    with said.open("wb") as file, open(os.devnull, "rb") as nothing:
        os.dup2(nothing.fileno(), 0)
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    sys.stdout, sys.stderr = (open(place, "w", 1, closefd=False) for place in (1, 2))
    faulthandler.disable()
    try:
        returned = json.dumps(action()).encode()
    except BaseException:
        traceback.print_exc()
        returned = b""
    sys.stdout.flush()
    sys.stderr.flush()
    os.write(write, returned)  # a few hundred bytes
    os._exit(0 if returned else 1)


def _limit() -> None:
    held = re.search(r"VmData:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert held is not None
    most = int(held[1]) * 1024 + MEMORY
    resource.setrlimit(resource.RLIMIT_DATA, (most, most))
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_SECONDS, CPU_SECONDS + 2))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def meet(area: Area, attack: Attack, built: Path, keep: bool = False) -> Met:
    """Let an attack happen to a copy of what its area built."""
    base = Path(tempfile.mkdtemp(prefix="attack-"))
    here, outside, said = base / "here", base / "outside", base / "said.txt"
    shutil.copytree(built, here, symlinks=True)
    outside.mkdir()
    if (here / "outside").is_dir():
        os.replace(here / "outside", outside)
    for name, content in KEPT.items():
        (outside / name).write_text(content)
    before = _contents(base, but=(here, said))
    started = time.monotonic()

    def act() -> dict[str, Any]:
        os.chdir(here)
        try:
            attack.deed()
        except Exception as error:
            return _found("traceback", f"the attack itself fails: {_where(error)}")
        _limit()
        return _met(attack, said)

    found = in_child(act, SECONDS, said)
    seconds = time.monotonic() - started
    text = said.read_text(errors="replace")
    if not isinstance(found, dict):
        found = _killed(found, text)
    after = _contents(base, but=(here, said))
    touched = sorted(n for n in {*before, *after} if before.get(n) != after.get(n))
    if touched:
        found |= {"outcome": "let in", "detail": f"touched outside: {', '.join(touched)}"}
    elif any(SECRET in _text(path) for path in _written(here)):
        found |= {"outcome": "let in", "detail": "the secret is in what was written"}
    if keep:
        print(f"{text}\nkept: {base}")
    else:
        shutil.rmtree(base, ignore_errors=True)
    name = f"{area.name}/{attack.name}"
    return Met(name, found["outcome"], found["detail"], seconds, found.get("gigabytes", 0.0))


def _contents(base: Path, but: tuple[Path, ...]) -> dict[str, bytes]:
    found = {}
    for path in base.rglob("*"):
        if not any(path == other or path.is_relative_to(other) for other in but):
            regular = path.is_file() and path.stat().st_size < 1 << 20
            found[path.relative_to(base).as_posix()] = path.read_bytes() if regular else b""
    return found


def _written(here: Path) -> list[Path]:
    """What a program may have written, which names its output ``out``."""
    return [path for path in (here / "out").rglob("*") if path.resolve().is_relative_to(here)]


def _text(path: Path) -> str:
    regular = path.is_file() and path.stat().st_size < 8 << 20
    return path.read_bytes().decode("utf-8", "replace") if regular else ""


def _met(attack: Attack, said: Path) -> dict[str, Any]:
    """How the victim ends, in its own process."""
    returned: list[Any] = []
    status: Any = 0
    try:
        run_program(lambda: returned.append(attack.victim()))
    except SystemExit as left:
        status = left.code
    except BaseException as error:
        return _found("traceback", _where(error))
    sys.stdout.flush()
    sys.stderr.flush()
    if status:
        return _refused(attack, status, said.read_text(errors="replace"))
    harm = attack.harm(returned[0] if returned else None)
    return _found("let in", harm) if harm else _found("survived", "")


def _found(outcome: str, detail: str) -> dict[str, Any]:
    if re.search("MemoryError|can't allocate memory|bad_alloc", detail):
        outcome = "exhausted"
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    return {"outcome": outcome, "detail": " ".join(detail.split())[:400], "gigabytes": most}


def _refused(attack: Attack, status: Any, text: str) -> dict[str, Any]:
    """A refusal is one line that begins with "error: ", or a line for each task that failed."""
    at = max((found.start() for found in re.finditer(r"(?m)(?<![^\r\n])error: ", text)), default=-1)
    if " tasks failed:" in text:
        lines = text[text.rindex(" tasks failed:") :].strip().split("\n")[1:]
    elif at >= 0:
        lines = [text[at:].strip()]
    else:
        return _found("traceback", f"status {status} without a word: {text[-200:]}")
    for line in lines:
        if "\n" in line or len(line) > LONGEST:
            count = line.count("\n") + 1
            return _found("unnamed", f"{count} lines, {len(line)} characters: {line[:200]}")
        if attack.names and not any(name in line for name in attack.names):
            return _found("unnamed", line)
    return _found("refused", lines[0])


def _where(error: BaseException) -> str:
    """What was raised, and the last place of ours that it went through."""
    own = [
        f"{Path(frame.filename).name}:{frame.lineno}"
        for frame in traceback.extract_tb(error.__traceback__)
        if re.search(r"/(unime|eval|stages|data_prep)/", frame.filename)
        and "site-packages" not in frame.filename
    ]
    traceback.print_exception(error)
    return f"{type(error).__name__}: {error} ({own[-1] if own else 'nowhere of ours'})"


def _killed(status: int | None, text: str) -> dict[str, Any]:
    if status is None:
        return {"outcome": "hung", "detail": f"still there after {SECONDS} s"}
    if status in (-signal.SIGXCPU, -signal.SIGKILL):
        return {"outcome": "hung", "detail": f"more than {CPU_SECONDS} CPU seconds"}
    memory = "bad_alloc" in text or "allocat" in text
    reason = f"killed by signal {-status}: {text[-200:]}" if status < 0 else text[-300:]
    return {"outcome": "exhausted" if memory else "traceback", "detail": " ".join(reason.split())}


def as_json(met: Met) -> str:
    return json.dumps(asdict(met))
