"""Negatives of words among definitions, beside sentence-transformers' `mine_hard_negatives`."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.mining.vectors import SEED, SIDES, TEACHER
from data_prep.demo.wordnet import load_glosses
from data_prep.teachers.sentence_model import load_teacher
from unime.config import MiningConfig
from unime.inputs.items import Item, Pair
from unime.mining.corpus import Corpus
from unime.mining.miner import Miner

NEGATIVES, WINDOW, MARGIN = 5, 100, 0.05


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
    teacher = load_teacher(TEACHER)
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
