"""A Qdrant server: a client of it without the client's own warnings, and in one line what it does
not do."""

from __future__ import annotations

import json
import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import ip_address
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from unime.errors import SHOWN, ConfigError, in_a_line

if TYPE_CHECKING:
    from qdrant_client import QdrantClient

KEY = "QDRANT_API_KEY"
SECONDS = 60  # that a server is waited for


def open_server(url: str) -> QdrantClient:
    """A client of the server at an address; a key that all can read on the way is remarked on."""
    from qdrant_client import QdrantClient

    key, parts = os.environ.get(KEY), urlsplit(url)
    if key and parts.scheme == "http" and not _is_here(parts.hostname or ""):
        logging.getLogger("unime").warning("%s goes to %s unencrypted", KEY, url)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        return QdrantClient(url=url, api_key=key, timeout=SECONDS, check_compatibility=False)


def _is_here(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


@contextmanager
def told(url: str, kind: type[Exception], key: str) -> Iterator[None]:
    """What a server does not do as an error of one kind, in one line that begins with `key`."""
    try:
        yield
    except (ConfigError, MemoryError):
        raise
    except Exception as error:  # whatever httpx, urllib3, JSON and pydantic raise
        raise kind(f"{key}{url} does not do what it is asked: {_reason(error)}") from error


def _reason(error: Exception) -> str:
    from pydantic import ValidationError
    from qdrant_client.http.exceptions import ResponseHandlingException, UnexpectedResponse

    cause = error.source if isinstance(error, ResponseHandlingException) else error
    if isinstance(cause, json.JSONDecodeError | UnicodeDecodeError | ValidationError):
        return "its answer is none of Qdrant's"
    if isinstance(cause, UnexpectedResponse):
        said = [f"{cause.status_code} {cause.reason_phrase}".strip(), _said(cause.content)]
        return ": ".join(filter(None, said))
    return _short(str(cause) or type(cause).__name__)


def _said(body: bytes) -> str:
    """Qdrant's own words in the body of an answer, else its begin."""
    text = body.decode(errors="replace")
    try:
        return _short(json.loads(text)["status"]["error"])
    except (ValueError, LookupError, TypeError):
        return _short(text)


def _short(text: object) -> str:
    line = in_a_line(" ".join(str(text).split()))
    return line if len(line) <= SHOWN else f"{line[:SHOWN]} …"
