"""Benchmarks of this project, beside its peers where there are any.

    ./launch.sh bench NAME|all [--small] [--repeat N] [--output FOLDER]

Each prints a table and writes FOLDER/NAME.json: both sides' raw seconds, versions, machine, commit,
ratios and goals; where a goal is missed it exits with 1. "all" runs each in a process of its own,
but those with words of their own, prints what was reached, and exits with 1 where one falls short
or fails. --small shows that they run, in seconds; its figures mean nothing and miss no goal.
"""

from __future__ import annotations

import argparse
import runpy
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from benchmarks.cpu import steps
from benchmarks.cpu.flops import FlopsBenchmark
from benchmarks.cpu.frame import Benchmark, Result, falls_short, goals_table, save
from benchmarks.cpu.memory import MemoryBenchmark
from benchmarks.cpu.others import EncodingBenchmark, LossBenchmark, PreparingBenchmark
from unime.errors import ConfigError
from unime.runtime.environment import git_commit
from unime.runtime.files import read_json
from unime.runtime.program import run_program
from unime.runtime.progress import quiet_transformers

BENCHMARKS: dict[str, Benchmark] = {
    benchmark.name: benchmark
    for benchmark in (
        steps.STEP,
        steps.MIXED,
        steps.DUPLICATES,
        MemoryBenchmark(),
        FlopsBenchmark(),
        EncodingBenchmark(),
        LossBenchmark(),
        PreparingBenchmark(),
    )
}
OUTPUT = Path("runs/bench")
PROGRAMS = {  # with words of their own
    "scoring": "scores from stored embeddings, beside a loop over queries",
    "mining": "search in a large corpus and mining, beside sentence-transformers",
    "limits": "seconds and memory of the largest things that may be",
    "planner": "memory | time | paper: the plan beside what is measured",
    "gpu": "all of it on a GPU",
    "serving": "the service under load, each answer checked, and flooded",
}


def main(argv: Sequence[str] | None = None) -> None:
    """Run what is named.

    Raises:
        ConfigError: words of "./launch.sh bench" stand before a program that has its own.
        SystemExit: 1, a goal was not met.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    if words and words[0] in PROGRAMS:
        sys.argv = [words[0], *words[1:]]
        runpy.run_module(f"benchmarks.{words[0]}", run_name="__main__", alter_sys=False)
        return
    arguments = parsed(words)
    if arguments.name == "all":
        run_all(arguments)
        return
    torch.set_num_threads(1)
    quiet_transformers()
    benchmark = BENCHMARKS[arguments.name]
    print(f"{benchmark.name}: {benchmark.about}", flush=True)
    commit = git_commit()  # of what runs, whatever the checkout is when it ends
    result = benchmark.measure(arguments.small, arguments.repeat)
    result |= {"command": " ".join(["./launch.sh bench", *words]), "commit": commit}
    save(result, arguments.output)
    print(f"\n{benchmark.shown(result)}\n\n{goals_table([benchmark], {benchmark.name: result})}")
    if falls_short(benchmark, result):
        raise SystemExit(1)


def parsed(words: Sequence[str]) -> argparse.Namespace:
    named = [f"  {name:<12}{of.about}" for name, of in BENCHMARKS.items()]
    named += [f"  {name:<12}{about} (with words of its own)" for name, about in PROGRAMS.items()]
    parser = argparse.ArgumentParser(
        prog="./launch.sh bench",
        description=f"{__doc__}\n" + "\n".join(named),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("name", choices=[*BENCHMARKS, *PROGRAMS, "all"])
    parser.add_argument("--small", action="store_true", help="a few pairs, one turn")
    parser.add_argument("--repeat", type=int, help="turns that are counted")
    parser.add_argument("--output", type=Path, default=OUTPUT)
    arguments, others = parser.parse_known_args(words)
    if arguments.name in PROGRAMS:
        raise ConfigError(f"{arguments.name}: expected first, its own words after it", "name")
    if others:
        parser.error(f"unrecognized arguments: {' '.join(others)}")
    return arguments


def run_all(arguments: argparse.Namespace) -> None:
    """One after the other, whatever becomes of each.

    Raises:
        SystemExit: 1, a goal was not met or a benchmark failed.
    """
    words = ["--small"] * arguments.small
    words += [] if arguments.output == OUTPUT else ["--output", str(arguments.output)]
    words += [] if arguments.repeat is None else ["--repeat", str(arguments.repeat)]
    results: dict[str, Result] = {}
    failed = []
    for name in BENCHMARKS:
        path = arguments.output / f"{name}.json"
        before = changed(path)
        done = subprocess.run([sys.executable, "-m", "benchmarks", name, *words], check=False)
        if done.returncode and changed(path) == before:
            failed.append(name)
        else:  # status 1 with a new result: a goal was missed
            results[name] = read_json(path)
    print(f"\n{goals_table(BENCHMARKS.values(), results)}")
    for name in failed:
        print(f"{name}: failed, see above")
    if failed or any(falls_short(BENCHMARKS[name], result) for name, result in results.items()):
        raise SystemExit(1)


def changed(path: Path) -> int | None:
    """When a file was last written; None: it is not there."""
    return path.stat().st_mtime_ns if path.is_file() else None


if __name__ == "__main__":
    run_program(main)
