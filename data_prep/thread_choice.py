"""How many threads to train with on a machine that others use at the same time."""

from __future__ import annotations

import torch


class ThreadChooser:
    """Keep the thread count that is faster right now.

    Beside another busy process, two threads can be ten times slower than one: every parallel
    loop waits for the thread that was put aside.
    """

    def __init__(self, most: int, probe_every: int = 16) -> None:
        self.counts = sorted({1, most})
        self.rates = dict.fromkeys(self.counts, 0.0)  # tokens per second, moving average
        self.probe_every = probe_every
        self.steps = 0

    def choose(self) -> int:
        """Threads for the coming step; now and then the slower setting gets another try."""
        self.steps += 1
        fastest = max(self.counts, key=self.rates.__getitem__)
        probing = self.steps % self.probe_every < 2
        count = next((c for c in self.counts if c != fastest), fastest) if probing else fastest
        torch.set_num_threads(count)
        return count

    def note(self, count: int, rate: float) -> None:
        """Believe bad news at once, good news by halves."""
        self.rates[count] = min(rate, 0.5 * self.rates[count] + 0.5 * rate)
