"""A service on a free port of this machine, in a thread of the test's process."""

from __future__ import annotations

import base64
import http.client
import json
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fastapi import FastAPI

from unime.config import ServeConfig
from unime.embedder import Embedder
from unime.serving.server import listen, server_of
from unime.serving.service import Service

PATIENCE = 60.0  # seconds


@dataclass
class Running:
    """A service that answers at `host`:`port`."""

    service: Service
    port: int
    host: str = "127.0.0.1"

    @property
    def url(self) -> str:
        return f"http://{self.host}:{self.port}"

    def ask(
        self,
        path: str,
        body: Any = None,
        headers: Mapping[str, str] | None = None,
        method: str | None = None,
    ) -> tuple[int, Any, Mapping[str, str]]:
        """Status, JSON (or text) and headers of an answer; bytes are sent as they are."""
        content = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
        given = {"content-type": "application/json"} | dict(headers or {})
        with closing(http.client.HTTPConnection(self.host, self.port, timeout=PATIENCE)) as asked:
            asked.request(method or ("GET" if body is None else "POST"), path, content, given)
            answer = asked.getresponse()
            text = answer.read()
        try:
            value = json.loads(text)
        except ValueError:
            value = text.decode()
        return answer.status, value, {k.lower(): v for k, v in answer.headers.items()}


@contextmanager
def running(
    embedder: Embedder, names: tuple[str, ...] = ("tiny",), **words: Any
) -> Iterator[Running]:
    """A service that is shut down, gracefully, at the end."""
    config = ServeConfig(**({"model": "tiny", "port": 0} | words))
    with answering(Service(embedder, config, names)) as found:
        yield found


@contextmanager
def answering(service: Service, app: FastAPI | None = None) -> Iterator[Running]:
    """The same of a service that is there already, with the routes of `app`."""
    with listen(service.config) as listening:
        port = listening.getsockname()[1]
        server = server_of(service, app)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
        thread.start()
        until = time.monotonic() + PATIENCE
        while not server.started and time.monotonic() < until:
            time.sleep(0.01)
        try:
            yield Running(service, port)
        finally:
            server.should_exit = True
            thread.join(PATIENCE)


def data_uri(picture: str | Path | bytes) -> str:
    content = picture if isinstance(picture, bytes) else Path(picture).read_bytes()
    return f"data:image/png;base64,{in_base64(content)}"


def in_base64(content: bytes) -> str:
    return base64.b64encode(content).decode()
