"""Work on the processes of a Ray cluster, of this machine or of many, by Ray Data.

Parts go out in any order and come back in theirs. A part whose process dies is given to another;
what a part raises ends the work, as it would here.
"""

from __future__ import annotations

import logging
import os
import pickle
import signal
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeVar

import torch

from unime.errors import ConfigError, DataError, RunError, require, require_package
from unime.runtime.environment import code_digest, installed_versions

P = TypeVar("P")
R = TypeVar("R")
LOCAL = "local"
PATIENCE = 10  # seconds
OURS = (ConfigError, DataError, RunError)
DECISIVE = ("python", "torch", "torchvision", "transformers", "tokenizers", "peft", "numpy")


def map_on_ray(
    address: str, function: Callable[[P], R], parts: Sequence[P], key: str = "ray"
) -> Iterator[R]:
    """What a function makes of each part, in their order, as soon as it is there.

    Args:
        address: of a cluster, or "local": processes of this machine, a core (or GPU) each.
        function: is sent to each process once, and best loads there what it needs.
        key: the setting that names the address, for messages.

    Raises:
        ConfigError: Ray is not installed, the cluster is not there, or has other versions, or no
            GPU where there is one here.
    """
    require_package("ray", "ray", key)
    if not parts:
        return
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    import ray
    import ray.data

    started = not ray.is_initialized()
    if started:
        _connect(address, key)
    try:
        yield from _mapped(function, parts)
    except ray.exceptions.RayError as error:
        words = " ".join(str(error).split())
        raise RunError(
            f"{key}: {words}; what is kept stays, and the same command goes on from it"
        ) from error
    finally:
        if started:
            ray.shutdown()


def _connect(address: str, key: str) -> None:
    import ray

    options: dict[str, Any] = {"address": address}
    if address == LOCAL:  # nobody else's business
        options = {"address": LOCAL, "include_dashboard": False, "_node_ip_address": "127.0.0.1"}
    heeded = signal.getsignal(signal.SIGTERM)
    try:
        host, _, port = address.rpartition(":")
        if port.isdecimal():  # where nobody listens Ray tries for minutes
            socket.create_connection((host, int(port)), PATIENCE).close()
        ray.init(logging_level=logging.WARNING, **options)
    except Exception as error:  # of an address that is none Ray raises nearly anything
        words = " ".join(str(error).split())
        raise ConfigError(f"{key}: no Ray cluster at {address!r}: {words}", key) from error
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, heeded)  # Ray has one of its own


def _mapped(function: Callable[[P], R], parts: Sequence[P]) -> Iterator[R]:
    import ray
    import ray.data

    context = ray.data.DataContext.get_current()
    context.execution_options.preserve_order = True
    context.enable_progress_bars = False
    gpus = 0
    if torch.cuda.is_available():  # what is computed here and there may stand beside each other
        gpus = int(ray.cluster_resources().get("GPU", 0))
        require(gpus > 0, "ray", "no GPU in the cluster", "one, as here")
    workers = gpus or int(ray.cluster_resources().get("CPU", 1))
    rows = [{"part": pickle.dumps(part)} for part in parts]
    results = ray.data.from_items(rows, override_num_blocks=len(rows)).map_batches(
        _Worker,
        fn_constructor_args=(pickle.dumps(function), torch.get_num_threads(), _versions()),
        batch_size=1,
        compute=ray.data.ActorPoolStrategy(size=min(workers, len(rows))),
        num_cpus=1,
        num_gpus=1 if gpus else 0,
    )
    for row in results.iter_rows():
        result = pickle.loads(row["result"])
        if isinstance(result, _Failed):
            raise result.kind(result.words)
        yield result


@dataclass(frozen=True)
class _Failed:
    """What a part raised; Ray would hand it on in a page of its own words."""

    kind: type[Exception]
    words: str


class _Worker:
    """Of one process: the function, and as many threads as were asked for here, on which the last
    bits of a sum may depend."""

    def __init__(self, function: bytes, threads: int, versions: dict[str, str | None]) -> None:
        torch.set_num_threads(threads)
        self.packed, self.versions = function, versions

    @cached_property
    def function(self) -> Callable[[Any], Any]:
        """Unpacked with the first part: of what fails while a process begins Ray says little."""
        own = _versions()
        changed = [f"{name} {own[name]}" for name in own if own[name] != self.versions.get(name)]
        require(not changed, "ray", ", ".join(changed), f"as here: {self.versions}")
        found: Callable[[Any], Any] = pickle.loads(self.packed)
        return found

    def __call__(self, batch: dict[str, Any]) -> dict[str, list[bytes]]:
        return {"result": [pickle.dumps(self._made(pickle.loads(part))) for part in batch["part"]]}

    def _made(self, part: Any) -> Any:
        try:
            return self.function(part)
        except OURS as error:
            return _Failed(type(error), str(error))


def _versions() -> dict[str, str | None]:
    installed = installed_versions()
    return {"unime": code_digest(), **{name: installed.get(name) for name in DECISIVE}}
