"""The service on a socket: connections that neither ask nor listen are closed, and SIGTERM lets it
answer what it has accepted."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

import uvicorn
from fastapi import FastAPI
from uvicorn.protocols.http.h11_impl import H11Protocol

from unime.config.serving import ServeConfig
from unime.serving.service import Service, make_app


def listen(config: ServeConfig) -> socket.socket:
    """A socket that takes connections, to be answered once there is a server.

    Raises:
        OSError: the address is taken, or none of this machine's.
    """
    family = socket.AF_INET6 if ":" in config.host else socket.AF_INET
    return socket.create_server((config.host, config.port), family=family, backlog=1024)


def address_of(listening: socket.socket) -> str:
    """Where clients find it, "http://127.0.0.1:8000"."""
    host, port = listening.getsockname()[:2]
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"


def run(service: Service, listening: socket.socket, app: FastAPI | None = None) -> None:
    """Serve until SIGTERM or Ctrl-C."""
    server_of(service, app).run(sockets=[listening])


def server_of(service: Service, app: FastAPI | None = None) -> uvicorn.Server:
    """A server of a service's own routes, or of an application that has more."""
    config = service.config
    return uvicorn.Server(
        uvicorn.Config(
            app or make_app(service),
            http=type("Patient", (Patient,), {"seconds": config.body_seconds}),
            ws="none",
            loop="asyncio",
            lifespan="on",
            log_level="warning",
            access_log=False,
            server_header=False,
            proxy_headers=False,
            limit_concurrency=config.connections,
            timeout_graceful_shutdown=config.shutdown_seconds,
        )
    )


class Patient(H11Protocol):
    """uvicorn's protocol, which closes a connection on which no request begins within `seconds`,
    whatever comes of its headers."""

    seconds = 20.0
    _timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._begin()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if not self._is_idle():
            self._cancel()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self._is_idle():  # the next request may have come already
            self._begin()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._cancel()

    def _begin(self) -> None:
        self._cancel()
        self._timer = self.loop.call_later(self.seconds, self._end)

    def _cancel(self) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def _is_idle(self) -> bool:
        return self.cycle is None or self.cycle.response_complete

    def _end(self) -> None:
        if self._is_idle():
            self.transport.close()
