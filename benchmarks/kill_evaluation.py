"""Kills an evaluation with SIGKILL at random points, goes on each time, and compares the end with
that of an evaluation that was left alone: every score, and how many items were begun twice (those
of a chunk that a kill interrupted, too) and encoded to the end twice.

    ./launch.sh demo                                              (once, for its data)
    python -m benchmarks.kill_evaluation configs/demo/eval.yaml runs/kill_evaluation \\
        [--processes 2] [key=value …]

The peer is the evaluation without kills, in the same call. A chunk is what all ranks encode between
two writes: batch_size items each. Exits with 1 where the end is another one, where an attempt fails
by itself, or where no kill came before the end.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from eval import evaluate
from unime.config import EvalConfig, build_config
from unime.retrieval.unime_embedder import UnimeEmbedder
from unime.runtime.environment import git_commit
from unime.runtime.files import read_json
from unime.runtime.program import run_program

LOG = "UNIME_KILL_LOG"  # where a child counts what it encodes
COMPARED = ("score", "values", "metrics", "num_items", "num_truncated", "data_fingerprint")


def child(words: list[str]) -> None:
    """The evaluation, which writes a byte for each item before and after it encodes it."""
    embed = UnimeEmbedder.embed

    def counted(self: UnimeEmbedder, inputs: Any) -> Tensor:
        note("begun", sum(len(places) for places, _ in inputs[0]))
        rows = embed(self, inputs)
        note("encoded", len(rows))
        return rows

    UnimeEmbedder.embed = counted  # type: ignore[method-assign]
    run_program(lambda: evaluate.main(words))


def note(what: str, count: int) -> None:
    with open(f"{os.environ[LOG]}.{what}.{os.environ.get('RANK', '0')}", "ab") as log:
        log.write(bytes(count))


def start(output: Path, arguments: argparse.Namespace) -> subprocess.Popen[bytes]:
    command = [sys.executable]
    if arguments.processes > 1:
        command += ["-m", "torch.distributed.run", "--standalone"]
        command += ["--nproc_per_node", str(arguments.processes)]
    command += ["-m", "benchmarks.kill_evaluation", "--child", "--config", str(arguments.config)]
    command += [*arguments.settings, f"output_dir={output}"]
    environment = {
        "OMP_NUM_THREADS": "1",
        "HF_HUB_OFFLINE": "1",
        "ACCELERATE_USE_CPU": "true",
        **os.environ,
        LOG: f"{output}.log",
    }
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    return subprocess.Popen(command, env=environment, start_new_session=True, **quiet)  # type: ignore[call-overload, no-any-return]


def counted(output: Path, what: str = "encoded") -> int:
    """Items that all attempts have encoded, or begun to, over all ranks."""
    return sum(path.stat().st_size for path in output.parent.glob(f"{output.name}.log.{what}.*"))


def results(output: Path) -> dict[str, dict[str, Any]]:
    found = {path.stem: read_json(path) for path in output.glob("*.json")}
    return {task: {key: result[key] for key in COMPARED} for task, result in found.items()}


def kill_at(process: subprocess.Popen[bytes], output: Path, count: int, delay: float) -> bool:
    """Kill every process of the evaluation some time after `count` items; False: it had ended."""
    while counted(output) < count and process.poll() is None:
        time.sleep(0.001)
    time.sleep(delay)
    if process.poll() is not None:
        return False
    os.killpg(process.pid, signal.SIGKILL)
    return process.wait() == -signal.SIGKILL


def main(words: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("config", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("settings", nargs="*", metavar="key=value")
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_intermixed_args(words)
    config = build_config(EvalConfig, arguments.config, arguments.settings)
    arguments.folder.mkdir(parents=True)
    rng = random.Random(arguments.seed)
    straight, killed = arguments.folder / "straight", arguments.folder / "killed"
    commit, began = git_commit(), time.monotonic()
    assert start(straight, arguments).wait() == 0, "the evaluation itself fails"
    total, seconds = counted(straight), time.monotonic() - began
    killed_at = []
    for kill in range(arguments.kills):
        process, have = start(killed, arguments), counted(killed)
        left = max(0, total - have) // (arguments.kills - kill + 1)
        if kill_at(process, killed, have + rng.randint(0, left), rng.random() * 0.2):
            killed_at.append(counted(killed))
            print(f"killed after {killed_at[-1]} of {total} items", flush=True)
        elif process.returncode != 0:
            raise SystemExit(f"an attempt ended by itself, with status {process.returncode}")
    assert start(killed, arguments).wait() == 0, "the evaluation did not go on"
    chunk = config.batch_size * arguments.processes
    outcome = {
        "config": str(arguments.config),
        "settings": arguments.settings,
        "processes": arguments.processes,
        "items": total,
        "chunk": chunk,
        "killed_after_items": killed_at,
        "begun_twice": counted(killed, "begun") - total,
        "encoded_twice": counted(killed) - total,
        "same_results": results(killed) == results(straight),
        "seconds_straight": seconds,
        "commit": commit,
    }
    print(json.dumps(outcome, indent=2))
    (arguments.folder / "outcome.json").write_text(json.dumps(outcome, indent=2) + "\n")
    if not killed_at:
        raise SystemExit("no kill came before the evaluation's end: nothing was tried")
    if not outcome["same_results"] or outcome["begun_twice"] > chunk * len(killed_at):
        raise SystemExit("an interrupted evaluation is not what it would have been")


if __name__ == "__main__":
    if "--child" in sys.argv[1:2]:
        child(sys.argv[2:])
    else:
        main(sys.argv[1:])
