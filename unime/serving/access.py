"""Who may ask: with the key, and from no page of somebody else."""

from __future__ import annotations

import hmac
import os
from ipaddress import ip_address

from fastapi import Request

from unime.config.serving import ServeConfig
from unime.errors import require
from unime.serving.requests import RequestError

KEY = "UNIME_API_KEY"  # of the environment


class Access:
    """Checks requests before their body is read.

    Raises:
        ConfigError: without a key, nothing but this machine may reach the service unless it is
            asked for.
    """

    def __init__(self, config: ServeConfig) -> None:
        self._key = os.environ.get(KEY, "").encode()
        is_open = config.is_local or bool(self._key) or config.without_key
        expected = f"a loopback address, a key in {KEY}, or without_key=true"
        require(is_open, "host", config.host, expected)
        self._is_local = config.is_local

    def check(self, request: Request) -> None:
        """Raises:
        RequestError: no key or another; or a page in a browser asks, which may have made its own
            name stand for this machine (DNS rebinding).
        """
        self.check_page(request)
        scheme, _, given = request.headers.get("authorization", "").partition(" ")
        matches = hmac.compare_digest(given.strip().encode("latin-1"), self._key)
        if self._key and not (matches and scheme.lower() == "bearer"):
            expected = f"Authorization: Bearer, and the key that is in the service's {KEY}"
            raise RequestError(f"expected {expected}", 401, {"WWW-Authenticate": "Bearer"})

    def check_page(self, request: Request) -> None:
        """Raises:
        RequestError: see `check`.
        """
        host, origin = request.headers.get("host", ""), request.headers.get("origin")
        if self._is_local and not _is_loopback(host):
            raise RequestError(f"host: got {host[:60]!r}, expected localhost, or host=… set", 403)
        if origin is not None and origin.partition("://")[2] != host:
            raise RequestError("origin: pages of other sites may not ask", 403)


def _is_loopback(host: str) -> bool:
    name = host.rpartition(":")[0] if not host.endswith("]") and ":" in host else host
    name = name.strip("[]")
    try:
        return name.lower() == "localhost" or ip_address(name).is_loopback
    except ValueError:
        return False
