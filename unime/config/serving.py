"""Settings of the service (stages.serve)."""

from __future__ import annotations

import re
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Annotated

from omegaconf import MISSING

from unime.config.model import Precision, Quantization
from unime.config.settings import Bounds, FilePath, NotNegative, Positive, Settings, setting
from unime.errors import require

Port = Annotated[int, Bounds("in [0, 65535]", lambda value: 0 <= value <= 65535)]
HostName = Annotated[
    str, Bounds("a host, or host:port", re.compile(r"[\w.-]+(:\d{1,5})?", re.ASCII).fullmatch)
]

MOST_ITEMS = 256  # of a request, unless it is set


@dataclass
class ServeConfig(Settings):
    """What is served, to whom, and how much of it at a time (stages.serve)."""

    model: FilePath = setting(MISSING, "a run, an exported folder, an adapter or a hub id")
    device: list[str] = setting([], "each gets a copy of the model; none: a GPU where there is one")
    precision: Precision | None = setting(None, "null: bfloat16 on a GPU, float32 else")
    quantization: Quantization | None = setting(None, "null: as it was trained")
    trust_remote_code: bool = setting(False, "run the code that the model brings")
    names: list[str] = setting(
        [], "what requests may call the model, the first in answers; none: as its folder"
    )
    host: str = setting("127.0.0.1", "address to listen at; another than loopback needs a key")
    port: Port = setting(8000, "0: any that is free, which is printed")
    without_key: bool = setting(False, "listen beyond loopback although UNIME_API_KEY is not set")
    allowed_hosts: list[HostName] = setting(
        [], "whose pictures are fetched where a request names an address; none: data URIs alone"
    )
    max_body_mib: Positive[int] = setting(32, "of a request, and of what is fetched for it")
    max_items: Positive[int] | None = setting(
        None, f"of a request; null: {MOST_ITEMS}, or queue_items where that is less"
    )
    max_pixels: Positive[int] = setting(25_000_000, "of all pictures of an item")
    body_seconds: Positive[float] = setting(20.0, "in which a request has to have come")
    fetch_seconds: Positive[float] = setting(10.0, "for one picture, redirects included")
    queue_items: Positive[int] = setting(1024, "not yet answered; further ones are told 429")
    held_mib: Positive[int] = setting(256, "of requests' bodies in memory; further ones: 429")
    connections: Positive[int] = setting(512, "at a time; further ones are told 503")
    batch_tokens: Positive[int] | None = setting(
        None, "that a batch is filled to, padding included; null: 16,384 on a GPU, 4,096 else"
    )
    batch_wait_ms: NotNegative[float] = setting(
        5.0, "that a batch waits for items that are being prepared"
    )
    workers: Positive[int] = setting(2, "threads that read pictures and texts")
    shutdown_seconds: Positive[int] = setting(60, "after SIGTERM, to answer what was accepted")

    def __post_init__(self) -> None:
        super().__post_init__()
        fits = self.most_items <= self.queue_items
        expected = f"at most queue_items={self.queue_items}"
        require(fits, "max_items", self.max_items, expected)
        fits = self.max_body_mib <= self.held_mib
        require(fits, "max_body_mib", self.max_body_mib, f"at most held_mib={self.held_mib}")

    @property
    def most_items(self) -> int:
        """Of a request."""
        return self.max_items or min(MOST_ITEMS, self.queue_items)

    @property
    def is_local(self) -> bool:
        """Whether nothing but this machine reaches it."""
        try:
            return self.host == "localhost" or ip_address(self.host).is_loopback
        except ValueError:
            return False
