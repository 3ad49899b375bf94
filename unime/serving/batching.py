"""Items of many requests in batches that fill by tokens.

Threads prepare items (read pictures, tokenise), one thread for each device embeds what is prepared.
An item belongs to one request, whose future is its answer; a batch that fails is split until the
items that are to blame are alone.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from threading import Condition, Thread

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from unime.embedder import Embedder, Prepared
from unime.inputs.items import Item
from unime.serving.requests import Embedded, RequestError

LONGEST_RETRY = 60  # seconds
SMOOTHING = 0.1  # of the seconds that an item takes

# By small batches a CPU embeds as many items a second, in a quarter of the memory: docs/serving.md.
ON_GPU, ON_CPU = 16_384, 4_096

Pictures = Mapping[str, bytes | Image.Image]


def usual_tokens(embedder: Embedder) -> int:
    """What a batch is filled to on the embedder's devices, unless it is set."""
    device = next(embedder.encoders[0].parameters()).device
    return ON_CPU if device.type == "cpu" else ON_GPU


@dataclass(eq=False)
class Work:
    """An item on its way, and its answer."""

    item: Item
    pictures: Pictures
    answer: Future[Embedded] = field(default_factory=Future)
    prepared: Prepared | None = None

    @property
    def tokens(self) -> int:
        assert self.prepared is not None
        return self.prepared.tokens


class Batcher:
    """Embeds what is submitted, in the order that fills batches best.

    Args:
        batch_tokens: that a batch is filled to, padding included; one longer item is a batch.
        queue_items: that may be unanswered at a time.
        wait: seconds that a batch waits for items that are being prepared.
        workers: threads that prepare.
        seen: is told the items and tokens of each batch.
    """

    def __init__(
        self,
        embedder: Embedder,
        *,
        batch_tokens: int,
        queue_items: int,
        wait: float,
        workers: int,
        seen: Callable[[int, int], None] = lambda items, tokens: None,
    ) -> None:
        self.embedder, self.batch_tokens, self.queue_items = embedder, batch_tokens, queue_items
        self._wait, self._seen = wait, seen
        self._changed = Condition()
        self._waiting: deque[Work] = deque()
        self._ready: list[Work] = []
        self._preparing = self._unanswered = 0
        self._is_closing = False
        self._seconds = 0.05  # an item
        devices = range(len(embedder.encoders))
        self._threads = [Thread(target=self._prepare, daemon=True) for _ in range(workers)]
        self._threads += [Thread(target=self._embed, args=(n,), daemon=True) for n in devices]
        for thread in self._threads:
            thread.start()

    @property
    def unanswered(self) -> int:
        """Items that were submitted and have no answer yet."""
        return self._unanswered

    def submit(self, items: Sequence[Item], pictures: Pictures) -> list[Future[Embedded]]:
        """Take all items of a request, or none.

        Returns:
            What each will be; a failed one raises what is wrong with its item. Cancelled, an item
            that nobody has begun with is left out.

        Raises:
            RequestError: there is no room in the queue, or the service ends.
        """
        works = [Work(item, pictures) for item in items]
        with self._changed:
            if self._is_closing:
                raise RequestError("the service is shutting down", 503, {"Retry-After": "5"})
            if self._unanswered + len(works) > self.queue_items:
                seconds = math.ceil(self._unanswered * self._seconds)
                after = str(min(max(seconds, 1), LONGEST_RETRY))
                held = f"{self._unanswered} of {self.queue_items} items are waiting"
                raise RequestError(f"the queue is full: {held}", 429, {"Retry-After": after})
            self._unanswered += len(works)
            for work in works:
                work.answer.add_done_callback(self._is_answered)
            self._waiting += works
            self._changed.notify_all()
        return [work.answer for work in works]

    def close(self) -> None:
        """Answer what was taken, take no more."""
        with self._changed:
            self._is_closing = True
            self._changed.notify_all()
        for thread in self._threads:
            thread.join()

    def _is_answered(self, _: Future[Embedded]) -> None:
        with self._changed:
            self._unanswered -= 1

    def _prepare(self) -> None:
        """What a preparing thread does: an item at a time, while not too much is ready."""
        most = 2 * self.batch_tokens * len(self.embedder.encoders)

        def may_begin() -> bool:
            is_room = sum(work.tokens for work in self._ready) < most
            return (bool(self._waiting) and is_room) or (self._is_closing and not self._waiting)

        while True:
            with self._changed:
                self._changed.wait_for(may_begin)
                if not self._waiting:
                    return
                work = self._waiting.popleft()
                self._preparing += 1
            try:
                if work.answer.set_running_or_notify_cancel():
                    work.prepared = self.embedder.prepare(work.item, work.pictures)
            except Exception as error:
                work.answer.set_exception(error)
            with self._changed:
                self._preparing -= 1
                self._ready += [work] if work.prepared is not None else []
                self._changed.notify_all()

    def _embed(self, device: int) -> None:
        """What a device's thread does: a batch at a time."""
        while batch := self._next_batch():
            started = time.monotonic()
            self._answer(batch, device)
            seconds = (time.monotonic() - started) / len(batch)
            self._seconds += SMOOTHING * (seconds - self._seconds)

    def _next_batch(self) -> list[Work]:
        """What fills a batch beside the oldest that is ready, most alike in length first; nothing
        once all is done and no more will come."""
        with self._changed:
            while True:
                self._changed.wait_for(lambda: self._ready or self._is_over())
                until = time.monotonic() + self._wait
                while self._has_room() and (left := until - time.monotonic()) > 0:
                    self._changed.wait(left)
                if self._ready or self._is_over():  # else another device took them
                    break
            batch = self._fill() if self._ready else []
            taken = set(map(id, batch))
            self._ready = [work for work in self._ready if id(work) not in taken]
            self._changed.notify_all()
        return batch

    def _is_over(self) -> bool:
        return self._is_closing and not self._waiting and not self._preparing and not self._ready

    def _has_room(self) -> bool:
        """Whether items that are being prepared may still come into the next batch."""
        more = bool(self._waiting) or self._preparing > 0
        return more and sum(work.tokens for work in self._ready) < self.batch_tokens

    def _fill(self) -> list[Work]:
        oldest = self._ready[0]
        alike = sorted(self._ready[1:], key=lambda work: abs(work.tokens - oldest.tokens))
        batch, longest = [oldest], oldest.tokens
        for work in alike:
            longest = max(longest, work.tokens)
            if longest * (len(batch) + 1) > self.batch_tokens:
                break
            batch.append(work)
        return batch

    def _answer(self, batch: Sequence[Work], device: int) -> None:
        prepared = [work.prepared for work in batch if work.prepared is not None]
        try:
            vectors = self.embedder.embed(prepared, device)
        except Exception as error:
            if len(batch) == 1:
                batch[0].answer.set_exception(error)
                return
            half = len(batch) // 2
            self._answer(batch[:half], device)
            self._answer(batch[half:], device)
            return
        self._seen(len(batch), sum(one.tokens for one in prepared))
        for work, one, vector in zip(batch, prepared, vectors, strict=True):
            work.prepared = None  # its pixels
            work.answer.set_result(self._embedded(one, vector))

    def _embedded(self, prepared: Prepared, vector: NDArray[np.float32]) -> Embedded:
        processor = self.embedder.encoders[0].processor
        image_token = getattr(processor.hf_processor, "image_token_id", None)
        ids = prepared.sample["input_ids"]
        images = int((ids == image_token).sum()) if image_token is not None else 0
        return Embedded(vector, prepared.tokens, images, prepared.pixels, prepared.is_cut)
