"""Pictures from addresses: only of hosts that were allowed by name, only where these lie on the
open internet, and of bounded size and time."""

from __future__ import annotations

import http.client
import socket
import ssl
import threading
from collections.abc import Sequence
from contextlib import closing
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address
from urllib.parse import SplitResult, urljoin, urlsplit

from unime.serving.requests import RequestError

REDIRECTS = 3
PORTS = {"http": 80, "https": 443}
TRANSLATED = IPv6Network("64:ff9b::/96")  # NAT64
BLOCK = 1 << 16


def fetch(
    url: str, allowed_hosts: Sequence[str], most_bytes: int, seconds: float, place: str
) -> bytes:
    """What lies at an address.

    A name is resolved once and that very address is connected to, so that no second answer of the
    name's server counts; each redirect is looked at like the first address.

    Args:
        allowed_hosts: "host" at its usual ports, or "host:port".
        place: what messages call it.

    Raises:
        RequestError: the host is not allowed, or not public; what comes is no picture, too large or
            too slow.
    """
    with Deadline(seconds) as deadline:
        for _ in range(REDIRECTS + 1):
            parts = _checked(url, allowed_hosts, place)
            address = _resolved(parts, place)
            try:
                found = _get(parts, address, most_bytes, deadline)
            except (OSError, http.client.HTTPException, ValueError) as error:
                why = "too slow" if deadline.is_over else type(error).__name__
                raise RequestError(f"{place}: cannot fetch it: {why}") from None
            if isinstance(found, bytes):
                if len(found) > most_bytes:
                    raise RequestError(f"{place}: more than {most_bytes} bytes", 413)
                return found
            if isinstance(found, int):
                raise RequestError(f"{place}: cannot fetch it: status {found}")
            url = urljoin(url, found)
    raise RequestError(f"{place}: more than {REDIRECTS} redirects")


class Deadline:
    """Closes the socket it holds when the time is over: a server that sends a byte a second never
    runs into a socket's own timeout."""

    def __init__(self, seconds: float) -> None:
        self.seconds, self.is_over = seconds, False
        self._socket: socket.socket | None = None
        self._timer = threading.Timer(seconds, self._end)

    def __enter__(self) -> Deadline:
        self._timer.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._timer.cancel()

    def hold(self, connected: socket.socket) -> None:
        self._socket = connected
        if self.is_over:
            self._end()

    def _end(self) -> None:
        self.is_over = True
        if self._socket is not None:
            try:
                self._socket.shutdown(socket.SHUT_RDWR)
            except OSError:  # it is closed already
                pass


def _checked(url: str, allowed_hosts: Sequence[str], place: str) -> SplitResult:
    try:
        parts = urlsplit(url)
        host, port = (parts.hostname or "").lower().rstrip("."), parts.port
    except ValueError:
        raise RequestError(f"{place}: not an address") from None
    if parts.scheme not in PORTS or not host or "@" in parts.netloc:
        raise RequestError(f"{place}: expected an http or https address without a user")
    if any(ord(one) <= 32 or ord(one) > 126 for one in url):
        raise RequestError(f"{place}: not an address: spaces, or letters that are not escaped")
    names = {f"{host}:{port or PORTS[parts.scheme]}"}
    names |= {host} if port in (None, PORTS[parts.scheme]) else set()
    if names.isdisjoint(name.lower() for name in allowed_hosts):
        hint = "send it as a data URI, or start the service with the host in allowed_hosts"
        raise RequestError(f"{place}: pictures of {host} are not fetched; {hint}")
    return parts


def is_public(address: str) -> bool:
    """Whether an IP address is one of the open internet; those of IPv6 that carry one of IPv4 to a
    translator or a tunnel are not taken for one."""
    found: IPv4Address | IPv6Address = ip_address(address.partition("%")[0])
    if isinstance(found, IPv6Address):
        if found.ipv4_mapped is not None:
            return is_public(str(found.ipv4_mapped))
        carries = found.sixtofour or found.teredo or found in TRANSLATED or int(found) >> 32 == 0
        if carries or found.is_site_local:
            return False
    return found.is_global and not (
        found.is_multicast or found.is_reserved or found.is_unspecified or found.is_link_local
    )


def _resolved(parts: SplitResult, place: str) -> tuple[str, int]:
    """The one address to connect to; a name with an address that is not public has none."""
    port = parts.port or PORTS[parts.scheme]
    try:
        found = socket.getaddrinfo(parts.hostname, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        raise RequestError(f"{place}: no such host: {parts.hostname}") from None
    addresses = [str(entry[4][0]) for entry in found]
    if not addresses or not all(map(is_public, addresses)):
        raise RequestError(f"{place}: {parts.hostname} is no public address")
    return addresses[0], port


def _get(
    parts: SplitResult, address: tuple[str, int], most_bytes: int, deadline: Deadline
) -> bytes | str | int:
    """A picture's bytes (one more than `most_bytes` if there are more), where it was moved to, or a
    status that is neither."""
    connection = http.client.HTTPConnection(str(parts.hostname), address[1])
    with closing(connection):
        connected = socket.create_connection(address, deadline.seconds)
        deadline.hold(connected)
        if parts.scheme == "https":
            context = ssl.create_default_context()
            connected = context.wrap_socket(connected, server_hostname=parts.hostname)
            deadline.hold(connected)
        connection.sock = connected
        path = f"{parts.path or '/'}{'?' * bool(parts.query)}{parts.query}"
        host = parts.netloc
        headers = {"Host": host, "Accept": "image/*", "Accept-Encoding": "identity"}
        connection.putrequest("GET", path, skip_host=True, skip_accept_encoding=True)
        for name, value in headers.items():
            connection.putheader(name, value)
        connection.endheaders()
        response = connection.getresponse()
        if response.status in (301, 302, 303, 307, 308):
            return response.headers.get("Location", "")
        if response.status != 200:
            return response.status
        found = bytearray()
        while len(found) <= most_bytes and (block := response.read(BLOCK)):
            found += block
        if deadline.is_over:
            raise TimeoutError
        return bytes(found[: most_bytes + 1])
