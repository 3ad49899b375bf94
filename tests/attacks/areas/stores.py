"""Attacks on stores of embeddings: the evaluation's, the teacher's, and the layout before."""

from __future__ import annotations

import io
import json
import os
import pickle
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tests.attacks.damage import (
    Deeds,
    Payload,
    cut,
    flipped,
    link,
    no_json,
    not_a_file,
    remove,
    renamed,
    values,
)
from tests.attacks.harness import Area, Attack, Deed, each, nothing
from unime.data.embedding_store import EmbeddingStore
from unime.data.teacher_store import TeacherMeta, open_store, text_key, write_store

TEXTS = [f"text number {number}" for number in range(12)]
KEYS = [text_key(text) for text in TEXTS]
WIDTH = 16
META = TeacherMeta("teacher", None, "", WIDTH)
STORE, OLD = "store", "old"
Vectors = dict[str, list[float]]


def vectors() -> np.ndarray:
    found = np.random.default_rng(0).normal(size=(len(TEXTS), WIDTH)).astype("<f4")
    return found / np.linalg.norm(found, axis=1, keepdims=True)


def build() -> None:
    """A store, one of the layout before, and one of that layout which is not finished."""
    by_text = dict(zip(TEXTS, vectors(), strict=True))
    write_store(STORE, TEXTS, META, lambda some: np.stack([by_text[t] for t in some]), 5)
    for folder in (Path(OLD), Path("unfinished/partial")):
        folder.mkdir(parents=True)
        keys = sorted(KEYS)
        rows = np.stack([by_text[TEXTS[KEYS.index(key)]] for key in keys])
        np.save(folder / "embeddings.npy", rows)
        np.save(folder / "keys.npy", np.array(keys))
        facts = {
            key: value for key, value in asdict(META).items() if key not in ("cut_at", "num_cut")
        }
        (folder / "meta.json").write_text(json.dumps({**facts, "version": 1, "count": len(keys)}))
    np.save("unfinished/partial/done.npy", np.arange(len(TEXTS)) < 8)
    Path("outside").mkdir()


def taught(folder: str = STORE) -> Any:
    """What stage 1 reads of a store."""
    return lambda: open_store(folder, TEXTS).embeddings(KEYS)


def completed(folder: str) -> Any:
    """The teacher's program on a folder, whatever it holds: what it then holds."""

    def act() -> Tensor:
        by_text = dict(zip(TEXTS, vectors(), strict=True))
        write_store(folder, TEXTS, META, lambda some: np.stack([by_text[t] for t in some]), 5)
        return open_store(folder, TEXTS).embeddings(KEYS)

    return act


def evaluated() -> Tensor:
    """The evaluation's way: what is missing is encoded again, all of it is read."""
    with closing(EmbeddingStore(Path(STORE), asdict(META), "store")) as store:
        missing = store.missing(KEYS)
        if missing:
            new = torch.from_numpy(vectors()[missing])
            store.add([KEYS[place] for place in missing], new, [False] * len(missing))
        return store.embeddings(KEYS)


def wrong(found: Tensor) -> str | None:
    """Vectors that are not the texts' own."""
    off = np.abs(found.numpy() - vectors()).max(axis=1)
    return None if (off < 1e-6).all() else f"{int((~(off < 1e-6)).sum())} texts have other vectors"


def rows(change: Any, name: str = "vectors") -> Deed:
    """The rows of a file of the store, changed."""

    def act() -> None:
        size = os.path.getsize(f"{STORE}/{name}") // len(TEXTS)
        raw = np.frombuffer(Path(f"{STORE}/{name}").read_bytes(), np.uint8).reshape(-1, size)
        Path(f"{STORE}/{name}").write_bytes(change(raw.copy()).tobytes())

    return act


def of_floats(change: Any) -> Deed:
    def turned(raw: np.ndarray) -> np.ndarray:
        return change(raw[:, : WIDTH * 4].copy().view("<f4")).astype("<f4")

    return rows(turned)


def put(at: int, value: float) -> Any:
    def change(found: np.ndarray) -> np.ndarray:
        found[at] = value
        return found

    return change


DAMAGED: Deeds = {
    **{f"vectors-{n}": d for n, d in cut(f"{STORE}/vectors", 6).items()},
    **{f"records-{n}": d for n, d in cut(f"{STORE}/records", 6).items()},
    **flipped(f"{STORE}/vectors", 6, at_once=1),
    **flipped(f"{STORE}/records", 6, at_once=1),
    **not_a_file(f"{STORE}/vectors"),
    **not_a_file(f"{STORE}/records"),
    **not_a_file(f"{STORE}/store.json"),
    **no_json(f"{STORE}/store.json"),
    **values(f"{STORE}/store.json", "dimension", -1, 0, 10**12, "x", None, 8, 32, 1.5, [16], True),
    "vectors-gone": lambda: remove(f"{STORE}/vectors"),
    "records-gone": lambda: remove(f"{STORE}/records"),
    "facts-gone": lambda: remove(f"{STORE}/store.json"),
    "first-record-lost": rows(lambda own: own[1:], "records"),  # A18
    "middle-record-lost": rows(lambda own: np.delete(own, 5, 0), "records"),
    "first-vector-lost": rows(lambda own: own[1:]),
    "records-turned": rows(lambda own: own[::-1], "records"),
    "records-twice": rows(lambda own: own[[0] * len(own)], "records"),
    "records-zero": rows(lambda own: own * 0, "records"),
    "vectors-turned": of_floats(lambda own: own[::-1]),
    "vectors-not-finite": of_floats(put(3, float("nan"))),
    "vectors-infinite": of_floats(put(3, float("inf"))),
    "vectors-zero": of_floats(put(3, 0.0)),
    "vectors-all-zero": of_floats(lambda own: own * 0),
    "vectors-long": of_floats(lambda own: own * 100),
    "vectors-half": of_floats(lambda own: own / 2),
    "vectors-of-another": of_floats(lambda own: np.roll(own, 1, 1)),
    "vectors-more": of_floats(lambda own: np.concatenate([own, own])),
    "linked-vectors": lambda: link(f"{STORE}/vectors", "../outside/secret.txt"),
}


def lying(path: str, shape: tuple[int, ...], descr: str = "<f4", size: int = 64) -> Deed:
    """An array whose header says another shape or kind than its content has."""

    def act() -> None:
        held = io.BytesIO()
        header = {"descr": descr, "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(held, header)
        Path(path).write_bytes(held.getvalue() + b"\0" * size)

    return act


def objects(path: str) -> Deed:
    """An array of pickled objects."""

    def act() -> None:
        held = io.BytesIO()
        header = {"descr": "|O", "fortran_order": False, "shape": (len(TEXTS),)}
        np.lib.format.write_array_header_1_0(held, header)
        Path(path).write_bytes(held.getvalue() + pickle.dumps(Payload()))

    return act


def saved(path: str, change: Any) -> Deed:
    return lambda: np.save(path, change(np.load(path)))


def of_the_layout_before(folder: str) -> Deeds:
    array, keys, facts = (f"{folder}/{n}" for n in ("embeddings.npy", "keys.npy", "meta.json"))
    return {
        **cut(array, 6),
        **cut(keys, 4),
        **no_json(facts, "utf-16", "latin-1", "nul"),
        **not_a_file(array),
        **not_a_file(facts),
        **values(facts, "count", -1, 0, 7, 10**12, "x", None),
        **values(facts, "dimension", -1, 0, 8, "x", None),
        **values(facts, "version", 0, 2, "x", None),
        "objects": objects(array),
        "objects-as-keys": objects(keys),
        "shape-huge": lying(array, (10**9, WIDTH)),
        "shape-negative": lying(array, (-1, WIDTH)),
        "kind": lying(array, (len(TEXTS), WIDTH), "|V4", 768),
        "zeros": saved(array, lambda own: own * 0),
        "not-finite": saved(array, lambda own: own * np.nan),
        "long": saved(array, lambda own: own * 100),
        "whole-and-zero": lambda: (
            os.truncate(array, 128), os.truncate(array, 128 + len(TEXTS) * WIDTH * 4)
        ),  # A3: what a full disk leaves
        "columns-first": saved(array, np.asfortranarray),
    }  # fmt: skip


def attacks() -> list[Attack]:
    old = of_the_layout_before(OLD)
    unfinished = of_the_layout_before("unfinished/partial")
    return [
        *each({"control": nothing} | DAMAGED, taught(), (STORE,), wrong),
        *each(
            {"control-of-evaluated": nothing} | renamed("evaluated", DAMAGED),
            evaluated,
            (STORE,),
            wrong,
        ),
        *each({"control-of-old": nothing} | renamed("old", old), taught(OLD), (OLD,), wrong),
        *each(
            {"control-of-unfinished": nothing}
            | {f"unfinished-{n}": d for n, d in unfinished.items()},
            completed("unfinished"),
            ("unfinished",),
            wrong,
        ),
    ]


AREA = Area("stores", build, attacks, ("first-record-lost", "old-objects"))
