"""What /metrics says, in Prometheus' format."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

SECONDS = (0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100)
SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)


class Metrics:
    """Counters of one service."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        own, route = self.registry, ("route",)
        self.requests = Counter(
            "unime_requests", "Answered, by status.", ("route", "status"), registry=own
        )
        self.seconds = Histogram(
            "unime_request_seconds", "Until the answer.", route, buckets=SECONDS, registry=own
        )
        self.items = Counter("unime_items", "Embedded.", registry=own)
        self.tokens = Counter("unime_tokens", "Of embedded items, prompts included.", registry=own)
        self.cut = Counter("unime_cut_texts", "Longer than the model is shown.", registry=own)
        self.batches = Histogram("unime_batch_items", "Of a batch.", buckets=SIZES, registry=own)
        self.queue = Gauge("unime_queue_items", "Not yet answered.", registry=own)
        self.held = Gauge("unime_held_bytes", "Of requests in memory.", registry=own)

    def batch(self, items: int, tokens: int) -> None:
        self.batches.observe(items)
        self.items.inc(items)
        self.tokens.inc(tokens)

    def text(self) -> bytes:
        """All of them."""
        return generate_latest(self.registry)
