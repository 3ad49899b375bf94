"""The tables of docs/performance.md from what `./launch.sh bench` wrote, which docs/results keeps.

.venv/bin/python -m benchmarks.cpu.tables docs/performance.md runs/bench docs/results/bench.json

What has no new result keeps the one that docs/results has.
"""

from __future__ import annotations

import sys
from pathlib import Path

from benchmarks.__main__ import BENCHMARKS
from benchmarks.cpu.frame import Result, goals_table
from benchmarks.markdown import fill
from unime.errors import ConfigError
from unime.runtime.files import read_json, write_json
from unime.runtime.program import run_program

MARK = "bench"


def content(results: list[Result]) -> str:
    """What was to be reached, then each benchmark."""
    by_name = {result["name"]: result for result in results}
    parts = [goals_table(BENCHMARKS.values(), by_name)]
    for result in results:
        benchmark = BENCHMARKS[result["name"]]
        told = f"**`{result['command']}`**: {benchmark.about}."
        made = f"{result['device']}; commit {result['commit']}."
        parts.append(f"{told} {made}\n\n{benchmark.shown(result)}")
    return "\n\n".join(parts)


def main(words: list[str]) -> None:
    document, folder, kept = map(Path, words)
    earlier = read_json(kept)["results"] if kept.is_file() else []
    found = {result["name"]: result for result in earlier}
    for name in BENCHMARKS:
        if (folder / f"{name}.json").is_file():
            found[name] = read_result(folder / f"{name}.json")
    results = [found[name] for name in BENCHMARKS if name in found]
    write_json(kept, {"results": results})
    document.write_text(fill(document.read_text(), content(results), MARK))


def read_result(path: Path) -> Result:
    """What `./launch.sh bench` wrote of one.

    Raises:
        ConfigError: something else did, or it was run with --small.
    """
    result: Result = read_json(path)
    if "figures" not in result:
        raise ConfigError(f"{path}: got another program's file, expected one of ./launch.sh bench")
    if result["small"]:
        raise ConfigError(f"{path}: got a result of --small, whose figures mean nothing")
    return result


if __name__ == "__main__":
    run_program(lambda: main(sys.argv[1:]))
