"""How large things may be: seconds and memory of the largest that were tried, for docs/limits.md.

    OMP_NUM_THREADS=1 nice python -m benchmarks.limits [scale=1.0] [only=ranking,…]
    python -m benchmarks.limits table docs/limits.md

Every row is made by one process and measured in another: its seconds are those of the act alone, of
CPU, so that others on the machine do not count, and its memory the most that the process ever held,
some 600 MB of them what it imports. With a scale, or of some rows only, nothing is written.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks import memory
from benchmarks.large import rows
from benchmarks.markdown import fill, table
from unime.runtime.environment import device_name, git_commit
from unime.runtime.files import read_json, write_json

RESULT = Path("docs/results/limits.json")
KNOWN = (("scale", "="), ("only", "="))


def child(what: str, name: str, size: str, folder: str) -> dict[str, float]:
    """Make or measure a row in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.limits", what, name, size, folder]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def in_child(what: str, name: str, size: str, folder: str) -> None:
    row = rows()[name]
    if what == "make":
        row.make(Path(folder), int(size))
    before, started = memory(), time.process_time()
    if what == "act":
        row.act(Path(folder), int(size))
    seconds = time.process_time() - started
    print(json.dumps({"seconds": seconds, "MB": memory(), "MB before": before}))


def main(words: list[str]) -> None:
    if words and words[0] in ("make", "act"):
        in_child(*words)
        return
    if words and words[0] == "table":
        document = Path(words[1])
        document.write_text(fill(document.read_text(), in_words(read_json(RESULT))))
        return
    given = settings(words)
    chosen = [name for name in rows() if name.split(",")[0] in given.get("only", name).split(",")]
    commit, found = git_commit(), []
    for name in chosen:
        row = rows()[name]
        size = max(1, int(row.size * float(given.get("scale", 1))))
        with tempfile.TemporaryDirectory() as folder:
            child("make", name, str(size), folder)
            measured = child("act", name, str(size), folder)
        shown = row.shown.format(size)
        found.append({"name": name, "what": shown, **measured})
        print(f"{shown}: {measured['seconds']:.1f} s, {measured['MB']:.0f} MB", flush=True)
    if not given:
        write_json(RESULT, {"rows": found, "commit": commit, "device": device_name()})


def settings(words: list[str]) -> dict[str, str]:
    """The given scale and rows; the program ends where a word is neither, or no row is so named."""
    if wrong := [word for word in words if word.partition("=")[:2] not in KNOWN]:
        raise SystemExit(f"got {wrong[0]!r}, expected scale=NUMBER or only=ROW,…")
    given = dict(word.split("=", 1) for word in words)
    names = dict.fromkeys(name.split(",")[0] for name in rows())
    if "only" in given and (unknown := set(given["only"].split(",")) - names.keys()):
        raise SystemExit(f"no row {min(unknown)!r}, there are {', '.join(names)}")
    return given


def in_words(result: dict[str, Any]) -> str:
    heads = ("what", "CPU seconds", "MB at most", "grows with")
    cells = [
        [row["what"], f"{row['seconds']:.1f}", f"{row['MB']:,.0f}", rows()[row["name"]].memory]
        for row in result["rows"]
    ]
    return table(heads, cells) + f"\n\n{result['device']}; commit {result['commit']}."


if __name__ == "__main__":
    main(sys.argv[1:])
