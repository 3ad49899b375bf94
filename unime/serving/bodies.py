"""Bodies of requests: bounded in bytes, time and what all of them hold together."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import suppress

from fastapi import Request
from starlette.requests import ClientDisconnect

from unime.serving.requests import RequestError

MIB = 1 << 20
DRAINED = 256 * MIB  # of a refused body, which are read and thrown away
CLOSE = {"Connection": "close"}  # what is left of the body after that is not read


class Held:
    """Bytes of all requests in memory.

    Args:
        most: that there may be.
    """

    def __init__(self, most: int) -> None:
        self.most, self.now = most, 0

    def add(self, size: int) -> None:
        """Count bytes that have come.

        Raises:
            RequestError: they would be too many.
        """
        if self.now + size > self.most:
            reason = f"requests of {self.now / MIB:.0f} MiB are in hand, of {self.most / MIB:.0f}"
            raise RequestError(reason, 429, CLOSE | {"Retry-After": "1"})
        self.now += size


class Hold:
    """What one request holds of them, given back at its end."""

    def __init__(self, held: Held) -> None:
        self._held, self._size = held, 0

    def __enter__(self) -> Hold:
        return self

    def __exit__(self, *_: object) -> None:
        self._held.now -= self._size

    def add(self, size: int) -> None:
        self._held.add(size)
        self._size += size


async def read_body(
    request: Request, admit: Callable[[Request], None], hold: Hold, most: int, seconds: float
) -> bytes:
    """All of a body, with a length or in chunks.

    Args:
        admit: refuses whoever may not ask (a RequestError), before anything is read.

    Raises:
        RequestError: not admitted, no JSON by its type, too long, too slow, cut, or no room for it.
    """
    chunks = request.stream()
    try:
        async with asyncio.timeout(seconds) as until:
            admit(request)
            return await _read(request, chunks, hold, most)
    except RequestError:
        await _drain(request, chunks, until.when())
        raise
    except TimeoutError:
        raise RequestError(f"the body took more than {seconds:g} seconds", 408, CLOSE) from None
    except ClientDisconnect:
        raise RequestError("the body ends early", 400, CLOSE) from None


async def _drain(
    request: Request, chunks: AsyncGenerator[bytes, None], until: float | None
) -> None:
    """Throw away what comes of a refused body, for a while: many clients read no answer before they
    have sent all of it, and a connection that closes before is reset."""
    length = request.headers.get("content-length", "")
    if "expect" in request.headers or (length.isdecimal() and int(length) > DRAINED):
        return  # it waits to be told to send, or will not end in time
    left = DRAINED
    with suppress(TimeoutError, ClientDisconnect):
        async with asyncio.timeout_at(until):
            async for chunk in chunks:
                left -= len(chunk)
                if left < 0:
                    return


async def _read(
    request: Request, chunks: AsyncGenerator[bytes, None], hold: Hold, most: int
) -> bytes:
    given = request.headers.get("content-type") or "application/json"  # Weaviate sends none
    kind = given.partition(";")[0].strip().lower()
    if kind != "application/json":
        raise RequestError(
            f"content-type: got {kind[:60]!r}, expected application/json", 415, CLOSE
        )
    if request.headers.get("content-encoding", "identity").lower() != "identity":
        raise RequestError("content-encoding: expected none", 415, CLOSE)
    length = request.headers.get("content-length", "")
    if length.isdecimal() and int(length) > most:
        raise RequestError(f"the body has {length} bytes, of at most {most}", 413, CLOSE)
    body = bytearray()
    async for chunk in chunks:
        hold.add(len(chunk))
        body += chunk
        if len(body) > most:
            raise RequestError(f"the body has more than {most} bytes", 413, CLOSE)
    return bytes(body)
