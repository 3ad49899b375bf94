"""The service under load: clients whose every answer is checked, then ten times its queue.

    OMP_NUM_THREADS=1 nice python -m benchmarks.serving [model=assets/base] [seconds=60] [clients=8]
        [pictures=FOLDER] [output=docs/results/serving.json]
    python -m benchmarks.serving table docs/serving.md

Items are texts, pictures and both; encoding them directly is measured before and after, by one
`Embedder` in this process while the service is idle. Clients and service are processes of their own
on the same cores, so what clients compute counts against the service. Exits with 1 where an answer
was wrong, or none.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from benchmarks.markdown import fill, table
from benchmarks.serving.load import TIMES, measure
from unime.runtime.environment import device_name, git_commit
from unime.runtime.files import read_json, write_json

RESULT = Path("docs/results/serving.json")


def in_words(found: dict[str, Any]) -> str:
    """The table of docs/serving.md."""
    said, flooded = (
        ", ".join(f"{count} x {status}" for status, count in sorted(found[key].items()))
        for key in ("statuses", "flood statuses")
    )
    direct = f"{found['directly before']:.1f} before and {found['directly after']:.1f} after"
    memory = [f"{found[f'MB {when}']:.0f}" for when in ("idle", "under load", "in the flood")]
    rows = [
        [
            f"{found['clients']} clients, {found['seconds']:.0f} s",
            f"{said}; {found['items']:,} items, {found['wrong']} wrong",
        ],
        [
            "items a second",
            f"{found['items a second']:.1f}; directly {direct}: {found['ratio']:.2f} of it",
        ],
        ["seconds of a request", f"median {found['p50']:.2f}, 99 of 100 {found['p99']:.2f}"],
        [
            f"{TIMES * found['queue']:,} items at once, queue of {found['queue']}",
            f"{flooded}; {found['flood wrong']} wrong; then it answers: {found['answers after']}",
        ],
        [
            "MB of the service",
            f"{memory[0]} idle, {memory[1]} under load, {memory[2]} in the flood",
        ],
    ]
    text = table(("what", "measured"), rows)
    return f"{text}\n\n{found['model']}; {found['device']}; commit {found['commit']}."


def faults(found: dict[str, Any]) -> list[str]:
    """What a service that does well has none of."""
    counts = {
        "wrong vectors": found["wrong"] + found["flood wrong"],
        "answers of 429 without Retry-After": found["without Retry-After"],
        "answers of neither 200 nor 429": sum(
            count
            for key in ("statuses", "flood statuses")
            for status, count in found[key].items()
            if status not in ("200", "429")
        ),
        "requests after the flood not answered": int(not found["answers after"]),
    }
    return [f"{count} {what}" for what, count in counts.items() if count]


def main(words: list[str]) -> None:
    if words and words[0] == "table":
        document = Path(words[1])
        document.write_text(fill(document.read_text(), in_words(read_json(RESULT)), "load"))
        return
    given = {"model": "assets/base", "seconds": "60", "clients": "8"}
    given |= dict(word.split("=", 1) for word in words)
    commit = git_commit()
    found = measure(
        given["model"], float(given["seconds"]), int(given["clients"]), given.get("pictures")
    )
    found |= {"commit": commit, "device": device_name()}
    print(in_words(found))
    write_json(Path(given.get("output", str(RESULT))), found)
    if wrong := faults(found):
        raise SystemExit(f"the service did wrong: {'; '.join(wrong)}")


if __name__ == "__main__":
    main(sys.argv[1:])
