"""Runs attacks on what strangers make, and prints what came of them.

    python -m tests.attacks                        all of them, two at a time
    python -m tests.attacks tables pages           these areas
    python -m tests.attacks models/pickle-alone    one, with all that it says; its folder is kept
    python -m tests.attacks --sample               a few of every area

The exit status is 1 unless every attack was refused by name or survived, and every control (the
same without an attack) survived.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

PROCESSES = 2
ENVIRONMENT = {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1"}
if __name__ == "__main__":  # before torch looks at it
    os.environ |= ENVIRONMENT

from tests.attacks.areas import (  # noqa: E402
    adapters,
    evaluations,
    lines,
    models,
    pictures,
    results,
    runs,
    settings,
    stores,
    tables,
    tokenizers,
)
from tests.attacks.harness import SECRET, SECRET_NAME, Area, Attack  # noqa: E402
from tests.attacks.meeting import GOOD, OUTCOMES, Met, as_json, in_child, meet  # noqa: E402

MODULES = (
    *(runs, models, adapters, tokenizers, evaluations),  # the slow ones first
    *(results, tables, lines, settings, pictures, stores),
)
AREAS: dict[str, Area] = {module.AREA.name: module.AREA for module in MODULES}
CONTROL = "control"
BUILDING = 120  # seconds


def main(words: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.attacks", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="AREA or AREA/ATTACK")
    parser.add_argument("--sample", action="store_true", help="a few of every area")
    args = parser.parse_args(words)
    chosen = choose(args.names, args.sample)
    os.environ[SECRET_NAME] = SECRET
    started = time.monotonic()
    alone = len(args.names) == len(chosen) == 1
    with tempfile.TemporaryDirectory(prefix="attacks-") as folder:
        os.environ |= {
            "HF_DATASETS_CACHE": f"{folder}/datasets",
            "HF_MODULES_CACHE": f"{folder}/code",
        }
        if not alone:
            tempfile.tempdir = folder
        areas = list({area.name: area for area, _ in chosen}.values())
        spread([lambda area=area: build(area, Path(folder)) for area in areas], Path(folder, "b"))
        jobs = [
            lambda area=area, attack=attack: as_json(
                meet(area, attack, Path(folder, area.name), alone)
            )
            for area, attack in chosen
        ]
        if alone:
            said = [jobs[0]()]
        else:
            said = spread(jobs, Path(folder, "met"))
        found = [Met(**json.loads(line)) for line in said]
    print(table(found, time.monotonic() - started))
    return int(len(found) < len(chosen) or bool(bad(found)))


def choose(names: Sequence[str], sample: bool) -> list[tuple[Area, Attack]]:
    """The attacks of these names, or all; their names are distinct."""
    found = []
    for area in AREAS.values():
        attacks = area.attacks()
        twice = [n for n, count in Counter(a.name for a in attacks).items() if count > 1]
        assert not twice, f"{area.name}: {twice}"
        for attack in attacks:
            full = f"{area.name}/{attack.name}"
            wanted = not names or area.name in names or full in names
            if wanted and (not sample or attack.name in area.sample):
                found.append((area, attack))
    assert found, f"none is called {names}"
    return found


def build(area: Area, folder: Path) -> str:
    here, said = folder / area.name, folder / f"{area.name}.txt"
    here.mkdir()

    def act() -> str:
        os.chdir(here)
        area.build()
        return "built"

    done = in_child(act, BUILDING, said)
    assert done == "built", f"{area.name}: {done}: {said.read_text()}"
    return ""


def spread(jobs: Sequence[Callable[[], str]], into: Path) -> list[str]:
    """Do some jobs in a few processes; the lines that they return."""
    into.touch()
    workers = []
    for number in range(PROCESSES):
        worker = os.fork()
        if worker == 0:
            status = 1
            try:
                with into.open("a", buffering=1) as file:
                    for job in jobs[number::PROCESSES]:
                        file.write(f"{job()}\n")
                status = 0
            finally:
                os._exit(status)
        workers.append(worker)
    failed = [worker for worker in workers if os.waitpid(worker, 0)[1]]
    assert not failed, "a server of attacks has failed"
    return into.read_text().splitlines()


def bad(found: Sequence[Met]) -> list[Met]:
    """What got through, and controls that did not survive."""
    return [
        met
        for met in found
        if met.outcome not in GOOD
        or (met.name.rpartition("/")[2].startswith(CONTROL) and met.outcome != "survived")
    ]


def table(found: Sequence[Met], seconds: float) -> str:
    """Areas by outcomes, and every attack that got through, with how to repeat it."""
    areas = list(dict.fromkeys(met.name.partition("/")[0] for met in found))
    counts = Counter((met.name.partition("/")[0], met.outcome) for met in found)
    rows = [["", *OUTCOMES, "all"]]
    for area in sorted(areas):
        own = [counts[area, outcome] for outcome in OUTCOMES]
        rows.append([area, *map(str, own), str(sum(own))])
    whole = [sum(counts[area, outcome] for area in areas) for outcome in OUTCOMES]
    rows.append(["all", *map(str, whole), str(sum(whole))])
    lines = ["  ".join(f"{cell:>9}" for cell in row) for row in rows]
    through = [
        f"{met.outcome}: python -m tests.attacks {met.name!r}\n    {met.detail}"
        for met in sorted(bad(found), key=lambda met: (met.outcome, met.name))
    ]
    slow = sorted(found, key=lambda met: -met.seconds)[:3]
    most = ", ".join(f"{met.name} {met.seconds:.1f} s" for met in slow)
    large = max(found, key=lambda met: met.gigabytes)
    lines += [
        f"{seconds:.0f} s; the slowest: {most}; the largest: {large.name} {large.gigabytes:.1f} GiB"
    ]
    return "\n".join([*lines, *through])


if __name__ == "__main__":
    sys.exit(main())
