"""What one GPU does: exact gradients, 4-bit weights, seconds and memory of a step beside the
planner's, sentence-transformers' step beside ours, encoding, and the real programs.

    python -m benchmarks.gpu docs/results/gpu.json               (about ten minutes on an H100)
    python -m benchmarks.gpu /tmp/gpu.json --small               (all of it, on a CPU too)
    python -m benchmarks.gpu /tmp/gpu.json --only speed peer

Models have the published shapes and random weights, pairs are drawn: nothing is downloaded. A
section that fails or is too slow says so in the file, and the others go on. docs/performance.md
shows one run.
"""

from __future__ import annotations

import argparse
import json
import platform
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator

from benchmarks.gpu.exactness import exactness, float64, nf4
from benchmarks.gpu.models import (
    SIDE,
    Material,
    make_pairs,
    write_llava_next_7b,
    write_qwen2_vl_2b,
    write_weights,
)
from benchmarks.gpu.peer import peer
from benchmarks.gpu.programs import STARTED, memory_full, programs
from benchmarks.gpu.speed import CASES, OF_7B, OTHERS, encoding, kernels, product, speed
from benchmarks.gpu.steps import TOKENS, Result, Setting, free
from unime.runtime.environment import device_name, git_commit, installed_versions
from unime.runtime.files import read_json
from unime.runtime.interruption import heed_sigterm
from unime.runtime.progress import quiet_transformers

PACKAGES = (
    "python", "torch", "transformers", "peft", "accelerate", "bitsandbytes",
    "sentence-transformers", "datasets", "tokenizers", "triton",
)  # fmt: skip


class Report:
    """The file of results, written after every section."""

    def __init__(self, path: Path, commit: str | None, seconds: float) -> None:
        self.path, self.began, self.seconds = path, time.monotonic(), seconds
        known = {name.lower(): version for name, version in installed_versions().items()}
        self.content: Result = {
            "command": "python -m benchmarks.gpu " + " ".join(sys.argv[1:]),
            "commit": commit or git_commit(),
            "device": device_name(),
            "driver": driver(),
            "platform": platform.platform(),
            "CUDA": torch.version.cuda,
            "versions": {name: known.get(name) for name in PACKAGES},
            "sections": {},
        }

    @property
    def left(self) -> float:
        return self.seconds - (time.monotonic() - self.began)

    def section(self, name: str, limit: float, work: Callable[[Any], Any]) -> None:
        """Run `work` on what it fills, at most `limit` seconds and as long as there are any."""
        began = time.monotonic()
        found: Result = {}
        self.content["sections"][name] = found
        try:
            with_limit(min(limit, self.left), lambda: work(found))
        except (Exception, TimeLimit) as error:
            place = traceback.format_exception(error)[-6:]
            found["error"] = f"{type(error).__name__}: {str(error)[:2000]}"
            found["traceback"] = "".join(place)[-3000:]
        free()
        found["seconds"] = round(time.monotonic() - began, 1)
        self.content["seconds"] = round(time.monotonic() - self.began, 1)
        self.save()
        print(f"{name}: {found['seconds']} s; {found.get('error', 'done')}", flush=True)

    def save(self) -> None:
        """What there is, also of a section that has begun."""
        self.path.write_text(json.dumps(self.content, indent=1, default=str) + "\n")


class TimeLimit(BaseException):
    """Not an Exception: what is in the way would catch it."""


def with_limit(seconds: float, work: Callable[[], Any]) -> None:
    """Do `work`, and interrupt it after so many seconds.

    Raises:
        TimeLimit: it took longer, or nothing is left.
    """

    def stop(signum: int, frame: Any) -> None:
        raise TimeLimit(f"more than {seconds:.0f} s")

    if seconds < 5:
        raise TimeLimit("no time was left")
    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(int(seconds))
    try:
        work()
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def driver() -> str | None:
    command = [
        "nvidia-smi",
        "--query-gpu=name,driver_version,memory.total",
        "--format=csv,noheader",
    ]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


def run(report: Report, folder: Path, small: bool, only: list[str]) -> None:
    """All sections: the programs run beside those that time nothing."""
    beside = folder / "programs.json"
    if only and "programs" not in only:
        sections(report, folder, small, only, None)
        return
    process = start_programs(folder, beside, small)
    try:
        sections(report, folder, small, only, lambda: end_programs(process, beside))
    finally:
        stop(process)


def sections(
    report: Report, folder: Path, small: bool, only: list[str], ended: Callable[[], Result] | None
) -> None:
    """All of them in turn; `ended` waits for the programs that run beside them, if they do."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    side = 96 if small else SIDE
    pairs = make_pairs(folder / "pictures", 8 if small else 256, side, TOKENS)
    accelerator = Accelerator(cpu=device == "cpu")
    two_b = Setting(Material(folder / "2b", pairs), accelerator, small)
    seven_b = Setting(Material(folder / "7b", pairs), accelerator, small)
    untimed = [("exactness", 150, exactness), ("float64", 60, float64), ("nf4", 100, nf4)]
    timed = [("kernels", 80, kernels), ("peer", 120, peer), ("product", 20, product),
             ("encoding", 80, encoding)]  # fmt: skip

    def section(name: str, limit: float, work: Callable[[Any], Any]) -> None:
        if not only or name in only:
            report.section(name, 4 * limit if small else limit, work)

    def write_2b(found: Result) -> None:
        write_weights(write_qwen2_vl_2b(folder / "2b", small), device)

    report.section("models", 90, write_2b)
    for name, limit, measure in untimed:
        section(name, limit, lambda found, of=measure: found.update(of(two_b)))
    if ended is not None:
        section("programs", 1000, lambda found: found.update(ended()))
    section("speed", 170, lambda found: speed(two_b, CASES, found, report.save))
    full = folder / "full"
    full.mkdir()
    section("memory full", 100, lambda found: found.update(memory_full(full, folder / "2b", small)))
    for name, limit, measure in timed:
        section(name, limit, lambda found, of=measure: found.update(of(two_b)))

    section("speed of others", 80, lambda found: speed(two_b, OTHERS, found, report.save))

    def speed_7b(found: Result) -> None:
        write_weights(write_llava_next_7b(folder / "7b", small), device)
        speed(seven_b, OF_7B, found, report.save)

    section("speed 7b", 150, speed_7b)


def start_programs(folder: Path, output: Path, small: bool) -> subprocess.Popen[bytes]:
    place = folder / "programs"
    place.mkdir()
    words = [str(output), "--folder", str(place), "--programs", *(["--small"] if small else [])]
    command = [sys.executable, "-m", "benchmarks.gpu", *words]
    return subprocess.Popen(command, start_new_session=True)  # Ctrl-C is for us, who end it


def end_programs(process: subprocess.Popen[bytes], output: Path) -> Result:
    """What they found; they are ended where there is no time to wait for them."""
    try:
        process.wait()  # it has a limit of its own
    finally:
        stop(process)
    return read_json(output)["sections"]["programs"]


def stop(process: subprocess.Popen[bytes]) -> None:
    """End it, and with SIGTERM what it has started, if it has not ended."""
    process.terminate()
    try:
        process.wait(30)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("output", type=Path)
    parser.add_argument("--small", action="store_true", help="tiny models, few steps")
    parser.add_argument("--only", nargs="+", default=[], metavar="SECTION")
    parser.add_argument("--seconds", type=float, default=900, help="for all sections together")
    parser.add_argument("--commit", help="where the code is no checkout")
    parser.add_argument("--folder", type=Path, help="for models: fast, with 25 GB of room")
    parser.add_argument("--programs", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args(argv)
    quiet_transformers()
    torch.backends.cudnn.allow_tf32 = False
    small, limit = arguments.small, 900 if arguments.small else 220
    report = Report(arguments.output, arguments.commit, arguments.seconds)
    with tempfile.TemporaryDirectory(dir=arguments.folder) as name:
        if arguments.programs:
            try:
                report.section("programs", limit, lambda f: f.update(programs(Path(name), small)))
            finally:
                signal.signal(signal.SIGTERM, signal.SIG_IGN)
                for program in STARTED:
                    program.kill()
        else:
            run(report, Path(name), small, arguments.only)


if __name__ == "__main__":
    heed_sigterm()  # leave nothing behind
    main()
