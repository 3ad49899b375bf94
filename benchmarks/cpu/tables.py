"""The tables of docs/performance.md from what `./launch.sh bench` wrote, which docs/results keeps.

.venv/bin/python -m benchmarks.cpu.tables docs/performance.md runs/bench docs/results/bench.json
"""

from __future__ import annotations

import sys
from pathlib import Path

from benchmarks.__main__ import BENCHMARKS
from benchmarks.cpu.frame import Result, goals_table
from benchmarks.markdown import fill
from unime.runtime.files import read_json, write_json

MARK = "bench"


def content(results: list[Result]) -> str:
    """What was to be reached, then each benchmark."""
    parts = [goals_table(results)]
    for result in results:
        benchmark = BENCHMARKS[result["name"]]
        told = f"**`{result['command']}`**: {benchmark.about}."
        made = f"{result['device']}; commit {result['commit']}."
        parts.append(f"{told} {made}\n\n{benchmark.shown(result)}")
    return "\n\n".join(parts)


def main(words: list[str]) -> None:
    document, folder, kept = map(Path, words)
    results = [
        read_json(folder / f"{name}.json")
        for name in BENCHMARKS
        if (folder / f"{name}.json").is_file()
    ]
    write_json(kept, {"results": results})
    document.write_text(fill(document.read_text(), content(results), MARK))


if __name__ == "__main__":
    main(sys.argv[1:])
