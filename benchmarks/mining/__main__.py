"""Search in a large corpus, exact and by IVF, and mining beside sentence-transformers.

    ./launch.sh bench mining [runs/bench/mining.json] [--of texts|clusters] [--count 100000]
    ./launch.sh bench mining --small

The ten nearest of COUNT targets for each of COUNT queries, 384 dimensions: recall of IVF against
exact, wall and CPU seconds of one thread, and by how much each makes a process of its own grow that
holds the vectors. "texts" are WordNet's words and definitions as all-MiniLM-L6-v2 embeds them (an
hour once; the vectors stay beside the output), "clusters" are random. Then the negatives of texts,
embedded beforehand, beside `mine_hard_negatives` at NV-Retriever's settings, by each of its ways of
searching.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks import memory, settled
from benchmarks.markdown import table
from benchmarks.mining.peer import beside_peer
from benchmarks.mining.vectors import DIMENSION, SIDES, make_vectors
from unime.config import MiningConfig
from unime.errors import RunError
from unime.mining.search import make_search
from unime.runtime.environment import device_name, git_commit, installed_versions
from unime.runtime.files import write_json
from unime.runtime.program import run_program

DEPTH = 10
MEMORY = 1.0  # GiB that a search may take
RECALL = 0.95
PAIRS = 10_000  # words and definitions


def main(words: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser("./launch.sh bench mining", description=__doc__)
    parser.add_argument("output", nargs="?", type=Path, default=Path("runs/bench/mining.json"))
    parser.add_argument("--of", choices=("texts", "clusters"), default="texts")
    parser.add_argument("--count", type=int, default=100_000)
    parser.add_argument("--small", action="store_true", help="to see that it runs")
    parser.add_argument("--search", choices=("exact", "ivf"), help=argparse.SUPPRESS)
    args = parser.parse_args(words)
    torch.set_num_threads(1)
    count = 600 if args.small else args.count
    folder = args.output.parent / f"mining_{args.of}_{count}"
    folder.mkdir(parents=True, exist_ok=True)
    if args.search is not None:
        print(json.dumps(searched(folder, args.search)))
        return
    commit = git_commit()
    make_vectors(folder, args.of, count)
    found = {kind: child(kind, args, count) for kind in ("exact", "ivf")}
    exact, ivf = (np.load(folder / f"{kind}.npy") for kind in ("exact", "ivf"))
    shared = (exact[:, :, None] == ivf[:, None]).any(axis=2).mean().item()
    peers = beside_peer(folder, 200 if args.small else PAIRS)
    result = {
        "name": "mining", "of": args.of, "count": count, "dimension": DIMENSION,
        "small": args.small,
        "command": f"./launch.sh bench mining --of {args.of} --count {count}"
        + " --small" * args.small,
        "commit": commit, "device": device_name(), "versions": installed_versions(),
        "search": found, "recall@10": shared, "pairs": peers,
    }  # fmt: skip
    write_json(args.output, result)
    print(shown(result))
    missed = [] if args.small else broken(shared, found, count)
    if missed:
        raise SystemExit("; ".join(missed))


def broken(recall: float, found: dict[str, dict[str, float]], count: int) -> list[str]:
    """What was promised and does not hold; an index has the vectors once more."""
    missed = [f"recall@10 of IVF is {recall:.3f}, promised: {RECALL}"] if recall < RECALL else []
    vectors = 4 * DIMENSION * count / 2**20
    for kind, of in found.items():
        limit = 1024 * MEMORY + vectors * (kind == "ivf")
        if of["MB"] > limit:
            missed.append(f"{kind} took {of['MB']:.0f} MB, promised: {limit:.0f}")
    return missed


def shown(result: dict[str, Any]) -> str:
    rows = [
        [kind, *(f"{of[key]:.1f}" for key in ("wall", "CPU", "MB")),
         f"{result['recall@10']:.4f}" if kind == "ivf" else "1"]
        for kind, of in result["search"].items()
    ]  # fmt: skip
    first = table(("search", "wall s", "CPU s", "MB beside the vectors", "recall@10"), rows)
    peers = [
        [name, f"{of['wall']:.2f}", f"{of['CPU']:.2f}", f"{of['negatives']:,}", f"{of['same']:.4f}"]
        for name, of in result["pairs"].items()
    ]
    heads = ("mined by", "wall s", "CPU s", "negatives", "rows with the same as ours")
    return f"{first}\n\n{table(heads, peers)}"


def child(kind: str, args: argparse.Namespace, count: int) -> dict[str, float]:
    """What a process of its own measures.

    Raises:
        RunError: it failed.
    """
    words = [str(args.output), "--of", args.of, "--count", str(count), "--search", kind]
    command = [sys.executable, "-m", "benchmarks.mining", *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RunError(f"{kind}: {done.stderr.strip()[-500:]}")
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    print(f"{kind}: {found}", file=sys.stderr, flush=True)
    return found


def searched(folder: Path, kind: str) -> dict[str, float]:
    """Seconds, the index among them, and by how much this process has grown."""
    if kind == "ivf":
        import faiss

        faiss.omp_set_num_threads(1)
    queries, targets = (torch.from_numpy(np.load(folder / f"{side}.npy")) for side in SIDES)
    config = MiningConfig(search=kind, memory=MEMORY)
    before = settled()
    wall, cpu = time.perf_counter(), time.process_time()
    search = make_search(targets, DEPTH, config)
    places = torch.empty(len(queries), DEPTH, dtype=torch.long)
    for own, some in zip(places.split(search.rows), queries.split(search.rows), strict=True):
        own.copy_(search(some)[0])
    seconds = {"wall": time.perf_counter() - wall, "CPU": time.process_time() - cpu}
    growth = memory() - before
    np.save(folder / f"{kind}.npy", places.numpy())
    return {**seconds, "MB": growth}


if __name__ == "__main__":
    run_program(main)
