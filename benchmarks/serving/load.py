"""Clients whose every answer is checked, and what the service takes for them."""

from __future__ import annotations

import base64
import http.client
import io
import json
import random
import re
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from benchmarks import memory
from unime.embedder import Embedder
from unime.runtime.progress import quiet_transformers
from unime.serving.contents import decoded

ITEMS, PICTURES, MOST = 240, 60, 8  # of the pool, with pictures, and of a request
QUEUE, TIMES = 256, 10
NEAR = 1e-4
WORDS = "red blue small old bird car house tree on under beside the sea hill street".split()
KINDS = {"content-type": "application/json"}


@dataclass
class Pool:
    """Items as the embedder and as requests take them, and their vectors."""

    given: list[dict[str, Any]]
    sent: list[dict[str, Any]]
    vectors: np.ndarray
    rate: float  # items a second, encoded directly


@dataclass
class Tally:
    """What clients saw."""

    statuses: Counter[int] = field(default_factory=Counter)
    items: int = 0
    wrong: int = 0
    without_retry_after: int = 0
    seconds: list[float] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)


def make_items(pictures: str | None) -> list[dict[str, Any]]:
    """Texts, pictures and both, all of them different."""
    chosen, contents = random.Random(0), []
    if pictures:
        paths = sorted(Path(pictures).rglob("*.png"))
        contents = [path.read_bytes() for path in chosen.sample(paths, PICTURES)]
    noise = np.random.default_rng(0)
    while len(contents) < PICTURES:
        held = io.BytesIO()
        coarse = noise.integers(0, 256, (4, 4, 3), dtype=np.uint8)
        Image.fromarray(coarse).resize((224, 168)).save(held, "PNG")
        contents.append(held.getvalue())
    items = []
    for number in range(ITEMS):
        item = {"text": f"{number} {' '.join(chosen.choices(WORDS, k=chosen.randint(3, 20)))}"}
        if number < PICTURES:
            item = {"text": item["text"]} if number % 2 else {}
            item["image"] = base64.b64encode(contents[number]).decode()
        items.append(item)
    return items


def encoded(embedder: Embedder, given: list[dict[str, Any]]) -> tuple[np.ndarray, float]:
    """Vectors, and items a second."""
    started = time.monotonic()
    vectors = embedder.encode(given)
    return vectors, len(given) / (time.monotonic() - started)


@contextmanager
def serving(model: str, *words: str) -> Iterator[tuple[int, int]]:
    """The port and the process of a service."""
    command = [sys.executable, "-m", "stages.serve", model, "port=0", *words]
    started = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert started.stdout is not None
        line = started.stdout.readline()
        found = re.search(r":(\d+)$", line.strip())
        if found is None:
            raise SystemExit(f"the service did not start: {line}")
        yield int(found[1]), started.pid
    finally:
        started.terminate()
        started.wait()


@contextmanager
def watched(process: int) -> Iterator[list[float]]:
    """The most memory that a process has meanwhile, in MB."""
    most, is_over = [memory("VmRSS", process)], threading.Event()

    def watch() -> None:
        while not is_over.wait(0.05):
            most[0] = max(most[0], memory("VmRSS", process))

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield most
    finally:
        is_over.set()
        thread.join()


def ask(port: int, pool: Pool, numbers: Sequence[int], tally: Tally) -> None:
    """One request, whose every vector is compared with its own item's."""
    body = json.dumps({"input": [pool.sent[n] for n in numbers], "encoding_format": "base64"})
    started = time.monotonic()
    asked = http.client.HTTPConnection("127.0.0.1", port, timeout=600)
    asked.request("POST", "/v1/embeddings", body, KINDS)
    answer = asked.getresponse()
    content = json.loads(answer.read())
    asked.close()
    with tally.lock:
        tally.statuses[answer.status] += 1
        tally.seconds.append(time.monotonic() - started)
        if answer.status == 429:
            tally.without_retry_after += answer.headers.get("Retry-After") is None
        if answer.status != 200:
            return
        found = np.stack(
            [np.frombuffer(decoded(one["embedding"], ""), "<f4") for one in content["data"]]
        )
        far = np.abs(found - pool.vectors[list(numbers)]).max(axis=1)
        tally.items += len(numbers)
        tally.wrong += int((far > NEAR).sum())


def steady(port: int, pool: Pool, clients: int, seconds: float) -> tuple[Tally, float]:
    """Clients that ask again as soon as they are answered; and the time it took."""
    tally, started = Tally(), time.monotonic()

    def client(seed: int) -> None:
        chosen = random.Random(seed)
        while time.monotonic() - started < seconds:
            count = chosen.randint(1, MOST)
            ask(port, pool, chosen.sample(range(len(pool.sent)), count), tally)

    at_once(client, range(clients))
    return tally, time.monotonic() - started


def flood(port: int, pool: Pool) -> Tally:
    """Ten times what the queue holds, at once."""
    tally, requests = Tally(), TIMES * QUEUE // MOST

    def client(seed: int) -> None:
        ask(port, pool, random.Random(seed).sample(range(len(pool.sent)), MOST), tally)

    at_once(client, range(requests))
    return tally


def at_once(act: Callable[[int], None], seeds: Sequence[int]) -> None:
    with ThreadPoolExecutor(len(seeds)) as clients:
        for done in [clients.submit(act, seed) for seed in seeds]:
            done.result()


def measure(model: str, seconds: float, clients: int, pictures: str | None) -> dict[str, Any]:
    """Both loads on one service, and encoding directly before and after."""
    quiet_transformers()
    embedder, sent = Embedder(model, device="cpu"), make_items(pictures)
    given = [{k: decoded(v, k) if k == "image" else v for k, v in item.items()} for item in sent]
    encoded(embedder, given[::8])  # nothing is warm before
    vectors, before = encoded(embedder, given)
    pool = Pool(given, sent, vectors, before)
    with serving(model, f"queue_items={QUEUE}", "max_items=16") as (port, process):
        for number in range(4):
            ask(port, pool, [number, ITEMS - 1 - number], Tally())
        idle = memory("VmRSS", process)
        with watched(process) as under_load:
            tally, took = steady(port, pool, clients, seconds)
        with watched(process) as under_flood:
            flooded = flood(port, pool)
        after_flood = Tally()
        ask(port, pool, range(MOST), after_flood)
    _, after = encoded(embedder, given)
    direct, rate = (before + after) / 2, tally.items / took
    return {
        "model": model, "clients": clients, "seconds": took, "items": tally.items,
        "statuses": {str(k): v for k, v in tally.statuses.items()}, "wrong": tally.wrong,
        "items a second": rate, "directly before": before, "directly after": after,
        "ratio": rate / direct, "p50": float(np.percentile(tally.seconds, 50)),
        "p99": float(np.percentile(tally.seconds, 99)), "queue": QUEUE,
        "flood statuses": {str(k): v for k, v in flooded.statuses.items()},
        "flood wrong": flooded.wrong,
        "without Retry-After": tally.without_retry_after + flooded.without_retry_after,
        "answers after": after_flood.statuses[200] == 1 and after_flood.wrong == 0,
        "MB idle": idle, "MB under load": under_load[0], "MB in the flood": under_flood[0],
    }  # fmt: skip
