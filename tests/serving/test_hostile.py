"""What strangers send is refused with a reason, reads nothing, and the service still answers:

./launch.sh test -m "use or not use" tests/serving/test_hostile.py
"""

from __future__ import annotations

import base64
import http.client
import io
import json
import socket
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any

import pytest
from PIL import Image

from tests.serving.services import Running, data_uri, in_base64, running
from unime.embedder import Embedder
from unime.serving import fetching
from unime.serving.access import KEY

OPENAI, COHERE, VOYAGE, WEAVIATE = (
    "/v1/embeddings", "/v2/embed", "/v1/multimodalembeddings", "/vectorize"
)  # fmt: skip
SECRET = "sesame-7391"


def png(width: int, height: int, form: str = "PNG", mode: str = "1") -> bytes:
    held = io.BytesIO()
    Image.new(mode, (width, height)).save(held, form)
    return held.getvalue()


def with_picture(value: Any) -> list[tuple[str, Any]]:
    """A picture of a stranger, by every way that there is."""
    part = [{"type": "image_url", "image_url": {"url": value}}]
    return [
        (OPENAI, {"input": [{"image": value}]}),
        (OPENAI, {"input": ["a cat", {"url": value, "text": "a"}]}),
        (OPENAI, {"messages": [{"role": "user", "content": part}]}),
        (COHERE, {"images": [value]}),
        (VOYAGE, {"inputs": [{"content": [{"type": "image_url", "image_url": value}]}]}),
        (WEAVIATE, {"images": [value]}),
    ]


WRONG: list[Any] = [None, 5, -1, 1.5, True, {}, [], [None], [[]], [[[]]], {"a": 1}, ["a", 5], [{}]]
ADDRESSES = [
    "file:///etc/passwd", "http://127.0.0.1/a.png", "http://localhost:22/a.png", "ftp://a.example/a",
    "http://169.254.169.254/latest/meta-data", "http://[::1]/a.png", "gopher://127.0.0.1:70/_",
    "http://[::ffff:127.0.0.1]/a", "http://0x7f000001/a", "http://2130706433/a", "http://0/a",
    "https://user@allowed.example/a", "http://allowed.example:22/a", "http://[64:ff9b::7f00:1]/",
    "http://allowed.example.evil.example/a", "//allowed.example/a", "HTTP://EVIL.example/a",
    "http://allowed.example\\@evil.example/a", "http://evil.example#@allowed.example/a",
    "http://allowed.example/a\r\nHost: b", "http:///a", "http://[::1", "data:text/html;base64,YQ==",
    "data:image/png,abc", "data:image/png;base64,", "data:image/png;base64,@@@", "javascript:1",
]  # fmt: skip
PATHS = [
    "/etc/passwd", "../../../../etc/passwd", "~/.ssh/id_rsa", "\\\\host\\share\\a.png",
    "picture.png", "/proc/self/environ", "/dev/zero", "a\0b.png", "picture 0123456789abcdef", "",
]  # fmt: skip


def bodies() -> Iterator[tuple[str, Any]]:
    """Bodies in JSON."""
    for value in WRONG:
        yield OPENAI, {"input": value}
        yield OPENAI, {"messages": value}
        yield OPENAI, {"messages": [{"role": "user", "content": value}]}
        yield COHERE, {"texts": value}
        yield COHERE, {"inputs": [value]}
        yield VOYAGE, {"inputs": value}
        if value not in (None, []):
            yield WEAVIATE, {"texts": value}
            yield OPENAI, {"input": "a", "dimensions": value if value != 5 else "5"}
            yield OPENAI, {"input": "a", "encoding_format": value}
            yield OPENAI, {"input": "a", "model": value}
            yield COHERE, {"texts": ["a"], "embedding_types": value}
    for value in [*ADDRESSES, *PATHS]:
        yield from with_picture(value)[:3] if value in ADDRESSES else with_picture(value)
    bomb, good = png(12_000, 12_000), png(64, 64)
    for content in (
        bomb,
        png(9000, 9000, "GIF"),
        png(6000, 6000),
        good[:45],
        b"GIF89a",
        b"\0" * 99,
    ):
        yield from with_picture(data_uri(content))[:5]
    yield (
        OPENAI,
        {"input": [{"image": in_base64(png(4000, 4000))}] * 1 + ["a"] * 3, "dimensions": 0},
    )
    parts = [{"type": "image_base64", "image_base64": data_uri(png(2000, 2000))}] * 3
    yield VOYAGE, {"inputs": [{"content": parts}]}
    yield OPENAI, {"input": ["a"] * 100}
    yield OPENAI, {"input": "\ud800"}
    yield OPENAI, {"input": "a", "chat_template": "{% for x in range(10**9) %}{% endfor %}"}
    yield OPENAI, {"input": "a", "mm_processor_kwargs": {"max_pixels": 10**12}}
    yield OPENAI, {"input": [{"text": "a", "path": "/etc/passwd"}]}
    yield OPENAI, {"messages": [{"role": "tool", "content": "a"}]}


def raw() -> Iterator[tuple[str, bytes]]:
    """Whole requests as bytes."""

    def post(body: bytes, *lines: str, length: int | None = None) -> bytes:
        head = ["POST /v1/embeddings HTTP/1.1", "Host: localhost", *lines]
        head += [f"Content-Length: {len(body) if length is None else length}"]
        return "\r\n".join([*head, "", ""]).encode() + body

    good, kind = b'{"input":"a"}', "Content-Type: application/json"
    yield "nested", post(b'{"input":' + b"[" * 100_000 + b"]" * 100_000 + b"}", kind)
    yield "lists", post(b'{"input":[' + b"[]," * 250_000 + b"[]]}", kind)
    yield "digits", post(b'{"input":' + b"9" * 100_000 + b"}", kind)
    yield "cut JSON", post(b'{"input":"a', kind)
    yield "no JSON", post(b"input=a", kind)
    yield "no object", post(b'["a"]', kind)
    yield "no UTF-8", post(b'{"input":"\xff\xfe"}', kind)
    yield "empty", post(b"", kind)
    yield "too long", post(b" " * (1 << 20) + good, kind)
    yield "length", post(good, kind, length=1 << 40)
    yield "a form", post(good, "Content-Type: multipart/form-data; boundary=a")
    yield "a text", post(good, "Content-Type: text/plain")
    yield "packed", post(zlib.compress(good * 1000), kind, "Content-Encoding: deflate")
    yield "a page", post(good, kind, "Origin: https://evil.example")
    yield "rebound", post(good, kind).replace(b"Host: localhost", b"Host: evil.example")
    yield "negative", post(good, kind, length=-1)
    yield "two lengths", post(good, kind, "Content-Length: 5")
    yield "method", b"DELETE /v1/embeddings HTTP/1.1\r\nHost: localhost\r\n\r\n"
    yield "path", b"GET /../../etc/passwd HTTP/1.1\r\nHost: localhost\r\n\r\n"
    yield "path in percents", b"GET /%2e%2e/%2e%2e/etc/passwd HTTP/1.1\r\nHost: localhost\r\n\r\n"
    yield (
        "headers",
        b"GET /health HTTP/1.1\r\nHost: localhost\r\nA: " + b"a" * 200_000 + b"\r\n\r\n",
    )
    yield "no HTTP", b"\x16\x03\x01\x02\x00" * 100 + b"\r\n\r\n"
    chunks = b"".join(b"10000\r\n" + b" " * 65536 + b"\r\n" for _ in range(20)) + b"0\r\n\r\n"
    lines = f"POST /v1/embeddings HTTP/1.1\r\nHost: localhost\r\n{kind}\r\n".encode()
    yield "chunks", lines + b"Transfer-Encoding: chunked\r\n\r\n" + chunks
    yield "bad chunks", lines + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n"


def exchanged(port: int, content: bytes, wait: float = 20) -> bytes:
    """What comes back for bytes that are sent."""
    with socket.create_connection(("127.0.0.1", port), wait) as sent:
        try:
            sent.sendall(content)
        except OSError:  # it has answered and closed already
            pass
        found = b""
        try:
            while b"\r\n\r\n" not in found and (block := sent.recv(1 << 16)):
                found += block
        except OSError:
            pass
    return found


@pytest.fixture
def strict(embedder: Embedder, monkeypatch: pytest.MonkeyPatch) -> Iterator[Running]:
    """A service with small limits, which may fetch of one host, that leads to this machine."""
    monkeypatch.setenv("UNIME_TEST_SECRET", SECRET)
    connected: list[Any] = []
    monkeypatch.setattr(fetching.socket, "getaddrinfo", rebound("127.0.0.1"))
    monkeypatch.setattr(fetching, "_get", lambda *words: connected.append(words))
    limits = {"max_body_mib": 1, "max_items": 16, "max_pixels": 10_000_000, "body_seconds": 1.0}
    with running(embedder, allowed_hosts=["allowed.example", "127.0.0.1"], **limits) as found:
        yield found
    assert connected == []


REAL = socket.getaddrinfo


def rebound(*addresses: str) -> Callable[..., Any]:
    """A name's server that answers with another address each time."""
    left = list(addresses)

    def find(host: str, port: Any, *words: Any, **named: Any) -> Any:
        if host == "localhost":
            return REAL(host, port, *words, **named)
        address = left.pop(0) if len(left) > 1 else left[0]
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port))]

    return find


def answers(served: Running) -> bool:
    return served.ask(OPENAI, {"input": "a cat"})[0] == 200


def test_a_few_hostile_requests(strict: Running) -> None:
    refused(strict, list(bodies())[::15], list(raw()))


@pytest.mark.use
def test_hostile_requests(strict: Running) -> None:
    given = list(bodies())
    assert len(given) + len(list(raw())) >= 200
    refused(strict, given, [])


def refused(served: Running, given: list[tuple[str, Any]], sent: list[tuple[str, bytes]]) -> None:
    for path, body in given:
        status, answer, _ = served.ask(path, json.dumps(body).encode())
        said = json.dumps(answer)
        assert 400 <= status < 500 and len(said) > 30, (status, path, str(body)[:200], answer)
        assert SECRET not in said and "root:" not in said and "Traceback" not in said
    for name, content in sent:
        found = exchanged(served.port, content)
        assert found.startswith(b"HTTP/1.1 4"), (name, found[:200])
    assert answers(served)


def test_a_picture_larger_than_any_that_is_opened_is_too_large(strict: Running) -> None:
    status, answer, _ = strict.ask(
        OPENAI, json.dumps({"input": [{"image": in_base64(png(20_000, 20_000))}]}).encode()
    )
    assert status == 413 and "of at most 10000000" in json.dumps(answer)


def test_slow_bodies_and_headers_are_not_waited_for(strict: Running) -> None:
    head = b"POST /v1/embeddings HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    started = time.monotonic()
    assert b" 408 " in exchanged(strict.port, head + b'Content-Length: 50\r\n\r\n{"input')
    assert exchanged(strict.port, head) == b""  # closed: there was no request
    assert exchanged(strict.port, b"") == b""
    assert time.monotonic() - started < 10
    assert answers(strict)


@pytest.mark.parametrize("chunked", [False, True])
def test_a_client_that_sends_all_before_it_reads_is_told(strict: Running, chunked: bool) -> None:
    """Not reset, although the body is refused before it has come."""
    block = b" " * (1 << 20)
    head = {"Content-Type": "application/json", "Connection": "close"}
    head |= {"Transfer-Encoding": "chunked"} if chunked else {"Content-Length": str(9 << 20)}
    for _ in range(3):
        asked = http.client.HTTPConnection("127.0.0.1", strict.port, timeout=20)
        with closing(asked):
            body = (block for _ in range(9))
            asked.request("POST", OPENAI, body, head, encode_chunked=chunked)
            assert asked.getresponse().status == 413
    assert strict.service.held.now == 0


def test_a_client_without_the_key_that_sends_all_before_it_reads_is_told(
    embedder: Embedder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(KEY, SECRET)
    with running(embedder) as served:
        for host, status in (("localhost", 401), ("elsewhere.example", 403)):
            asked = http.client.HTTPConnection("127.0.0.1", served.port, timeout=20)
            with closing(asked):
                head = {"Host": host, "Content-Length": str(64 << 20), "Connection": "close"}
                asked.request("POST", OPENAI, (b" " * (1 << 20) for _ in range(64)), head)
                assert asked.getresponse().status == status
        assert served.service.held.now == 0


def test_an_endless_body_is_cut_off(strict: Running) -> None:
    lines = ["POST /v1/embeddings HTTP/1.1", "Host: localhost", "Transfer-Encoding: chunked"]
    chunk = b"10000\r\n" + b" " * 65536 + b"\r\n"
    started = time.monotonic()
    with socket.create_connection(("127.0.0.1", strict.port), 20) as sent:
        sent.sendall("\r\n".join([*lines, "", ""]).encode())
        with pytest.raises(OSError):
            while time.monotonic() < started + 20:
                sent.sendall(chunk)
    assert time.monotonic() - started < 15
    assert answers(strict)


def test_a_body_that_ends_early_leaves_nothing_behind(strict: Running) -> None:
    head = b"POST /v1/embeddings HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5000\r\n\r\n"
    for _ in range(20):
        with socket.create_connection(("127.0.0.1", strict.port)) as sent:
            sent.sendall(head + b'{"input": "')
    assert answers(strict)
    until = time.monotonic() + 5
    while strict.service.held.now and time.monotonic() < until:
        time.sleep(0.02)
    assert strict.service.held.now == 0


def test_requests_in_hand_are_bounded(embedder: Embedder) -> None:
    head = b"POST /v1/embeddings HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000000\r\n\r\n"
    with running(embedder, max_body_mib=1, held_mib=1) as served:
        with socket.create_connection(("127.0.0.1", served.port)) as sent:
            sent.sendall(head + b" " * 900_000)
            until = time.monotonic() + 5
            while served.service.held.now < 800_000 and time.monotonic() < until:
                time.sleep(0.02)
            status, answer, headers = served.ask(OPENAI, b" " * 300_000 + b'{"input":"a"}')
        assert status == 429 and headers["retry-after"] == "1" and "MiB" in str(answer)


def test_the_key(embedder: Embedder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(KEY, SECRET)
    with running(embedder) as served:
        wrong = ["", "Bearer x", f"Basic {SECRET}", "Bearer \xff", f"Bearer {SECRET}x"]
        for given in ({}, *({"authorization": one} for one in wrong)):
            for path, body in ((OPENAI, {"input": "a"}), ("/metrics", None), ("/v1/models", None)):
                status, answer, _ = served.ask(path, body, given)
                assert status == 401 and SECRET not in str(answer)
        asked = served.ask(OPENAI, {"input": "a"}, {"authorization": f"bearer {SECRET}"})
        assert asked[0] == 200 and served.ask("/health")[0] == 200


def test_a_picture_s_text_is_no_path(strict: Running, pictures: list[str]) -> None:
    """Base64 of letters that are a path, too, is a picture's content and nothing else."""
    for value in (pictures[0], base64.b64encode(pictures[0].encode()).decode()):
        for path, body in with_picture(value):
            assert strict.ask(path, body)[0] == 400
