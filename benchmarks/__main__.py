"""Benchmarks of this project, beside its peers where there are any.

    ./launch.sh bench NAME [--small] [--repeat N] [--output FOLDER]
    ./launch.sh bench all

Each prints a table and writes FOLDER/NAME.json: both sides' raw seconds, versions, machine, commit,
ratios and goals. "all" runs every one that has a goal in a process of its own, prints what was
reached, and exits with 1 where that falls short. --small shows that they run, in seconds; its
figures mean nothing.
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
from benchmarks.cpu.frame import Benchmark, Result, goals_table, save
from benchmarks.cpu.memory import MemoryBenchmark
from benchmarks.cpu.others import EncodingBenchmark, LossBenchmark, PreparingBenchmark
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
PROGRAMS = {  # with words of their own
    "scoring": "scores from stored embeddings, beside a loop over queries",
    "mining": "search in a large corpus and mining, beside sentence-transformers",
    "limits": "seconds and memory of the largest things that may be",
    "planner": "memory | time | paper: the plan beside what is measured",
    "gpu": "all of it on a GPU",
    "serving": "the service under load, each answer checked, and flooded",
}


def main(argv: Sequence[str] | None = None) -> None:
    words = list(sys.argv[1:] if argv is None else argv)
    if words and words[0] in PROGRAMS:
        sys.argv = [words[0], *words[1:]]
        runpy.run_module(f"benchmarks.{words[0]}", run_name="__main__", alter_sys=False)
        return
    arguments = parsed(words)
    if arguments.name == "all":
        run_all(words[1:], arguments.output)
        return
    torch.set_num_threads(1)
    quiet_transformers()
    benchmark = BENCHMARKS[arguments.name]
    print(f"{benchmark.name}: {benchmark.about}", flush=True)
    commit = git_commit()  # of what runs, whatever the checkout is when it ends
    result = benchmark.measure(arguments.small, arguments.repeat)
    result |= {"command": " ".join(["./launch.sh bench", *words]), "commit": commit}
    save(result, arguments.output)
    print(f"\n{benchmark.shown(result)}\n\n{goals_table([result])}")


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
    parser.add_argument("--output", type=Path, default=Path("runs/bench"))
    return parser.parse_args(words)


def run_all(words: Sequence[str], output: Path) -> None:
    """One after the other, whatever becomes of each.

    Raises:
        SystemExit: 1, a goal was not met or a benchmark failed.
    """
    results: list[Result] = []
    failed = []
    for name in BENCHMARKS:
        command = [sys.executable, "-m", "benchmarks", name, *words]
        if subprocess.run(command, check=False).returncode:
            failed.append(name)
        else:
            results.append(read_json(output / f"{name}.json"))
    print(f"\n{goals_table(results)}")
    for name in failed:
        print(f"{name}: failed, see above")
    short = [of for result in results for of in result["figures"].values() if not of["met"]]
    if failed or short:
        raise SystemExit(1)


if __name__ == "__main__":
    run_program(main)
