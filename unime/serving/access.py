"""Who may ask: with the key, and from no page of somebody else."""

from __future__ import annotations

import base64
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

    Args:
        of_page: a browser is told to ask for the key, which it sends as the password of any user.

    Raises:
        ConfigError: without a key, nothing but this machine may reach the service unless it is
            asked for.
    """

    def __init__(self, config: ServeConfig, of_page: bool = False) -> None:
        self._key = os.environ.get(KEY, "").encode()
        is_open = config.is_local or bool(self._key) or config.without_key
        expected = f"a loopback address, a key in {KEY}, or without_key=true"
        require(is_open, "host", config.host, expected)
        self._is_local, self._of_page = config.is_local, of_page

    def check(self, request: Request) -> None:
        """Refuse a request without the key, or of a page in a browser.

        Raises:
            RequestError: no key or another; or a page in a browser, which may have made its own
            name stand for this machine (DNS rebinding).
        """
        self.check_page(request)
        scheme, _, given = request.headers.get("authorization", "").partition(" ")
        scheme, key = scheme.lower(), given.strip().encode("latin-1")
        if self._of_page and scheme == "basic":
            scheme, key = "bearer", _password(key)
        matches = hmac.compare_digest(key, self._key)
        if self._key and not (matches and scheme == "bearer"):
            asks = 'Basic realm="unime", charset="UTF-8"' if self._of_page else "Bearer"
            expected = f"Authorization: Bearer, and the key that is in the service's {KEY}"
            raise RequestError(f"expected {expected}", 401, {"WWW-Authenticate": asks})

    def check_page(self, request: Request) -> None:
        """Refuse a request of another site's page.

        Raises:
            RequestError: see `check`.
        """
        host, origin = request.headers.get("host", ""), request.headers.get("origin")
        site = request.headers.get("sec-fetch-site", "none")  # of the page that asks; none: a user
        is_visit = request.headers.get("sec-fetch-mode") == "navigate" and request.method == "GET"
        if self._is_local and not _is_loopback(host):
            raise RequestError(f"host: got {host[:60]!r}, expected localhost, or host=… set", 403)
        is_other = origin is not None and origin.partition("://")[2] != host
        if is_other or (site not in ("none", "same-origin") and not is_visit):
            raise RequestError("origin: pages of other sites may not ask", 403)


def _password(content: bytes) -> bytes:
    """Of base64 of "user:password"; nothing of what is none."""
    try:
        return base64.b64decode(content, validate=True).partition(b":")[2]
    except ValueError:
        return b""


def _is_loopback(host: str) -> bool:
    name = host.rpartition(":")[0] if not host.endswith("]") and ":" in host else host
    name = name.strip("[]")
    try:
        return name.lower() == "localhost" or ip_address(name).is_loopback
    except ValueError:
        return False
