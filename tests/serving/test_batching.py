"""Items of many requests share batches, and each gets its own answer:

./launch.sh test tests/serving/test_batching.py
"""

from __future__ import annotations

import gc
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest

from tests.serving.services import running
from unime.embedder import Embedder, Prepared
from unime.errors import DataError
from unime.inputs.items import Item
from unime.serving.batching import Batcher
from unime.serving.requests import RequestError

TEXTS = [f"number {n}, " + "and so on, " * (n % 7) for n in range(40)]


@contextmanager
def batching(embedder: Embedder, **words: Any) -> Iterator[Batcher]:
    settings = {"batch_tokens": 500, "queue_items": 1000, "wait": 0.05, "workers": 2}
    batcher = Batcher(embedder, **(settings | words))
    try:
        yield batcher
    finally:
        batcher.close()


@pytest.fixture
def batches(embedder: Embedder, monkeypatch: pytest.MonkeyPatch) -> list[list[int]]:
    """The tokens of each item of each batch that is embedded."""
    seen: list[list[int]] = []
    embed = Embedder.embed

    def noted(self: Embedder, prepared: Sequence[Prepared], device: int = 0) -> Any:
        seen.append([one.tokens for one in prepared])
        return embed(self, prepared, device)

    monkeypatch.setattr(Embedder, "embed", noted)
    return seen


def test_batches_of_many_requests_fill_by_tokens(
    embedder: Embedder, batches: list[list[int]]
) -> None:
    expected = embedder.encode(TEXTS)
    batches.clear()
    with batching(embedder) as batcher, ThreadPoolExecutor(8) as clients:
        asked = [[n, (n * 7) % 40] for n in range(40)]

        def ask(numbers: list[int]) -> list[np.ndarray]:
            found = batcher.submit([Item(TEXTS[n]) for n in numbers], {})
            return [one.result(60).vector for one in found]

        for numbers, found in zip(asked, clients.map(ask, asked), strict=True):
            assert np.abs(np.stack(found) - expected[numbers]).max() < 1e-5
    assert sum(map(len, batches)) == 80
    assert all(max(one) * len(one) <= 500 for one in batches if len(one) > 1)
    assert max(map(len, batches)) > 2  # of more than one request


def test_a_bad_item_spoils_no_other(embedder: Embedder, monkeypatch: pytest.MonkeyPatch) -> None:
    expected, embed = embedder.encode(TEXTS[:8]), Embedder.embed
    marked = embedder.prepare(Item("spoilt")).sample["input_ids"]

    def spoilt(self: Embedder, prepared: Sequence[Prepared], device: int = 0) -> Any:
        for one in prepared:
            if one.sample["input_ids"].tolist() == marked.tolist():
                raise DataError("items[0]: not finite")
        return embed(self, prepared, device)

    monkeypatch.setattr(Embedder, "embed", spoilt)
    with batching(embedder) as batcher:
        good = batcher.submit([Item(text) for text in TEXTS[:4]], {})
        bad = batcher.submit([Item("spoilt"), Item("")], {})
        more = batcher.submit([Item(text) for text in TEXTS[4:8]], {})
        found = np.stack([one.result(60).vector for one in [*good, *more]])
        assert np.abs(found - expected).max() < 1e-5
        for one, said in zip(bad, ("not finite", "neither text nor image"), strict=True):
            with pytest.raises(DataError, match=said):
                one.result(60)


@contextmanager
def stopped(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], None]]:
    """A device that waits until it is let go."""
    let_go, embed = threading.Event(), Embedder.embed

    def wait(self: Embedder, prepared: Any, device: int = 0) -> Any:
        assert let_go.wait(60)
        return embed(self, prepared, device)

    monkeypatch.setattr(Embedder, "embed", wait)
    try:
        yield let_go.set
    finally:
        let_go.set()


def test_the_queue_is_bounded(embedder: Embedder, monkeypatch: pytest.MonkeyPatch) -> None:
    items = [Item(text) for text in TEXTS[:6]]
    with batching(embedder, queue_items=10) as batcher, stopped(monkeypatch) as let_go:
        first = batcher.submit(items, {})
        with pytest.raises(RequestError, match="6 of 10") as told:
            batcher.submit(items, {})
        assert told.value.status == 429 and int(told.value.headers["Retry-After"]) >= 1
        let_go()
        assert len([one.result(60) for one in first]) == 6
        until = time.monotonic() + 10
        while batcher.unanswered and time.monotonic() < until:
            time.sleep(0.01)
        assert len([one.result(60) for one in batcher.submit(items, {})]) == 6


def test_a_full_queue_is_429_to_a_client(
    embedder: Embedder, monkeypatch: pytest.MonkeyPatch
) -> None:
    with running(embedder, queue_items=4, max_items=4) as served, stopped(monkeypatch) as let_go:
        with ThreadPoolExecutor(1) as clients:
            body = {"input": TEXTS[:3]}
            first: Future[Any] = clients.submit(served.ask, "/v1/embeddings", body)
            while served.service.batcher.unanswered < 3:
                time.sleep(0.01)
            status, answer, headers = served.ask("/v2/embed", {"texts": TEXTS[:2]})
            assert status == 429 and "queue is full" in answer["message"]
            assert int(headers["retry-after"]) >= 1
            let_go()
            assert first.result()[0] == 200


def test_nothing_is_done_for_a_client_that_is_gone(
    embedder: Embedder, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    import http.client

    with running(embedder, batch_tokens=20) as served, stopped(monkeypatch) as let_go:
        asked = http.client.HTTPConnection("127.0.0.1", served.port)
        kind = {"content-type": "application/json"}
        asked.request("POST", "/v1/embeddings", b'{"input":["a","b","c","d","e","f"]}', kind)
        while served.service.batcher.unanswered < 6:
            time.sleep(0.01)
        asked.close()
        until = time.monotonic() + 10
        while served.service.batcher.unanswered > 5 and time.monotonic() < until:
            time.sleep(0.01)
        assert served.service.batcher.unanswered < 6
        let_go()
    gc.collect()
    assert [one.getMessage() for one in caplog.records if one.name == "asyncio"] == []


def test_what_was_taken_is_answered_at_the_end(embedder: Embedder) -> None:
    with batching(embedder) as batcher:
        taken = batcher.submit([Item(text) for text in TEXTS], {})
    assert all(one.done() and one.exception() is None for one in taken)
    with pytest.raises(RequestError) as told:
        batcher.submit([Item("a")], {})
    assert told.value.status == 503
