"""Kills a run with SIGKILL at random steps, resumes it each time, and compares the end with that of
a run that was left alone: adapters byte for byte, and the steps that had to be taken twice.

    ./launch.sh demo                                       (once, for data and stage 1's adapter)
    python -m benchmarks.kill_and_resume configs/demo/stage2.yaml runs/kill_and_resume \
        model.adapter=runs/demo/stage1/final

Two ranks on CPU. The peer is the run without kills, in the same call.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import random
import time
from pathlib import Path

from tests.support.launching import Launch


def digests(folder: Path) -> dict[str, str]:
    files = sorted((folder / "final").rglob("*.safetensors"))
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in files
    }


def start(folder: Path, name: str, arguments: argparse.Namespace) -> Launch:
    settings = (f"run.save_every={arguments.save_every}", "run.log_every=1", *arguments.settings)
    return Launch(folder, name, *settings, config="cpu_two_ranks", stage_config=arguments.config)


def last_step(output_dir: Path) -> int:
    path = output_dir / "metrics.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    return json.loads(lines[-1])["step"] if lines and lines[-1].endswith("}") else 0


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("config", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("settings", nargs="*", metavar="key=value")
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--save-every", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True)
    random.seed(arguments.seed)
    began = time.monotonic()
    straight = start(arguments.folder, "straight", arguments)
    assert straight.wait(7200) == 0, straight.said[-2000:]
    total, seconds = last_step(straight.output_dir), time.monotonic() - began
    killed_at, repeated, began = [], 0, time.monotonic()
    for kill in range(arguments.kills):
        launch = start(arguments.folder, "killed", arguments)
        done = last_step(launch.output_dir)
        goal = done + max(1, random.randint(1, 2 * (total - done) // (arguments.kills - kill + 1)))
        launch.until_step(min(goal, total - 1))
        time.sleep(random.random())  # anywhere in the next step, or while saving
        launch.kill()
        killed_at.append(last_step(launch.output_dir))
        saved = max(
            (int(p.name[5:]) for p in (launch.output_dir / "checkpoints").glob("step_????????")),
            default=0,
        )
        repeated += killed_at[-1] - saved
        print(f"kill {kill + 1}: after step {killed_at[-1]}, newest checkpoint {saved}", flush=True)
    launch = start(arguments.folder, "killed", arguments)
    assert launch.wait(7200) == 0, launch.said[-2000:]
    same = digests(launch.output_dir) == digests(straight.output_dir)
    print(json.dumps({
        "steps": total,
        "killed_after_steps": killed_at,
        "steps_taken_twice": repeated,
        "identical": same,
        "seconds": round(time.monotonic() - began),
        "seconds_without_kills": round(seconds),
    }))  # fmt: skip
    raise SystemExit(not same)


if __name__ == "__main__":
    main()
