"""Pictures are fetched of allowed hosts on the open internet alone:

./launch.sh test tests/serving/test_fetching.py
"""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.serving.test_hostile import rebound
from tests.support.serving import Running, running
from unime.embedder import Embedder
from unime.serving import fetching
from unime.serving.fetching import fetch, is_public
from unime.serving.requests import RequestError

PRIVATE = [
    "127.0.0.1", "10.0.0.1", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1",
    "0.0.0.0", "224.0.0.1", "255.255.255.255", "240.0.0.1", "192.0.2.1", "198.18.0.1",
    "::1", "::", "fe80::1",
    "fe80::1%eth0", "fc00::1", "ff02::1", "::ffff:127.0.0.1", "::ffff:10.0.0.1", "::127.0.0.1",
    "64:ff9b::7f00:1", "64:ff9b::a00:1", "64:ff9b:1::1", "2002:7f00:1::", "2001:db8::1",
    "2001:0:7f00:1::", "fec0::1",
]  # fmt: skip
PUBLIC = ["93.184.216.34", "2606:2800:220:1::1", "::ffff:93.184.216.34"]


@pytest.mark.parametrize("address", PRIVATE)
def test_private_addresses(address: str) -> None:
    assert not is_public(address)


@pytest.mark.parametrize("address", PUBLIC)
def test_public_addresses(address: str) -> None:
    assert is_public(address)


@contextmanager
def host(answer: Callable[[str], bytes], pause: float = 0) -> Iterator[int]:
    """A web server: what it is sent of a request's first line, a byte at a time if it pauses."""
    listening = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        while True:
            try:
                accepted, _ = listening.accept()
            except OSError:
                return
            with accepted:
                asked = accepted.recv(4096).decode()
                content = answer(asked)
                try:
                    for place in range(0, len(content), 1 if pause else len(content)):
                        accepted.sendall(content[place : place + 1] if pause else content)
                        time.sleep(pause)
                except OSError:
                    pass

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield listening.getsockname()[1]
    finally:
        listening.shutdown(socket.SHUT_RDWR)
        listening.close()


@pytest.fixture
def as_if_public(monkeypatch: pytest.MonkeyPatch) -> None:
    """This machine stands for one of the open internet, under the name a.example."""
    monkeypatch.setattr(fetching.socket, "getaddrinfo", rebound("127.0.0.1"))
    monkeypatch.setattr(fetching, "is_public", lambda address: address == "127.0.0.1")


def ok(content: bytes) -> bytes:
    return b"HTTP/1.0 200 OK\r\nContent-Type: image/png\r\n\r\n" + content


def got(port: int, most: int = 1000, seconds: float = 5, hosts: tuple[str, ...] = ()) -> bytes:
    allowed = hosts or (f"a.example:{port}",)
    return fetch(f"http://a.example:{port}/a.png?b=1", allowed, most, seconds, "input")


def test_what_an_allowed_host_has(as_if_public: None) -> None:
    asked: list[str] = []
    with host(lambda line: asked.append(line) or ok(b"picture")) as port:
        assert got(port) == b"picture"
        assert asked[0].startswith("GET /a.png?b=1 HTTP/1.1\r\n")
        assert f"Host: a.example:{port}\r\n" in asked[0]
        with pytest.raises(RequestError, match="are not fetched"):
            got(port, hosts=("a.example",))  # at another port


def test_what_is_too_large_slow_or_not_there(as_if_public: None) -> None:
    with host(lambda _: ok(bytes(5000))) as port, pytest.raises(RequestError, match="more than"):
        got(port)
    started = time.monotonic()
    with host(lambda _: ok(bytes(500)), pause=0.1) as port:
        with pytest.raises(RequestError, match="too slow"):
            got(port, seconds=1)
    assert time.monotonic() - started < 5
    with host(lambda _: b"HTTP/1.0 404 No\r\n\r\n") as port:
        with pytest.raises(RequestError, match="status 404"):
            got(port)
    with host(lambda _: b"no HTTP") as port, pytest.raises(RequestError, match="cannot fetch"):
        got(port)


@pytest.mark.parametrize(
    ("location", "said"),
    [
        ("http://b.example/a.png", "b.example are not fetched"),
        ("http://169.254.169.254/", "169.254.169.254 are not fetched"),
        ("file:///etc/passwd", "expected an http or https"),
        ("http://user:word@a.example/", "without a user"),
        ("/again", "redirects"),
    ],
)
def test_each_redirect_is_looked_at(as_if_public: None, location: str, said: str) -> None:
    moved = f"HTTP/1.0 302 Found\r\nLocation: {location}\r\n\r\n".encode()
    with host(lambda _: moved) as port, pytest.raises(RequestError, match=said):
        got(port)


def test_a_redirect_to_a_host_that_has_become_private(monkeypatch: pytest.MonkeyPatch) -> None:
    """DNS rebinding: the second answer of the name's server is this machine."""
    monkeypatch.setattr(fetching.socket, "getaddrinfo", rebound("93.184.216.34", "127.0.0.1"))
    asked: list[Any] = []

    def get(parts: Any, address: Any, *words: Any) -> str:
        asked.append(address)
        return "/again"

    monkeypatch.setattr(fetching, "_get", get)
    with pytest.raises(RequestError, match="no public address"):
        fetch("http://a.example/a", ["a.example"], 1000, 5, "input")
    assert asked == [("93.184.216.34", 80)]  # the address that was looked at, not the name


def test_a_name_with_one_private_address_is_private(monkeypatch: pytest.MonkeyPatch) -> None:
    both = [
        (socket.AF_INET, socket.SOCK_STREAM, 6, "", (one, 80))
        for one in ("93.184.216.34", "10.0.0.1")
    ]
    monkeypatch.setattr(fetching.socket, "getaddrinfo", lambda *words, **named: both)
    with pytest.raises(RequestError, match="no public address"):
        fetch("http://a.example/a", ["a.example"], 1000, 5, "input")


def test_a_request_with_an_address(
    as_if_public: None, embedder: Embedder, pictures: list[str]
) -> None:
    content = Path(pictures[1]).read_bytes()
    with host(lambda _: ok(content)) as port:
        with running(embedder, allowed_hosts=[f"a.example:{port}"]) as served:
            found = vector(served, f"http://a.example:{port}/a.png")
    assert np.abs(found - embedder.encode([{"image": pictures[1]}])[0]).max() < 1e-5


def vector(served: Running, url: str) -> np.ndarray:
    status, answer, _ = served.ask("/v1/embeddings", {"input": [{"image": url}]})
    assert status == 200, answer
    return np.array(answer["data"][0]["embedding"], np.float32)
