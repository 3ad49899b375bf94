"""An OpenAI-compatible embeddings endpoint as teacher, by its address.

Asked for text by text of the configuration, a batch a request::

    POST {endpoint}   {"model": name, "input": [text, …], "encoding_format": "float"}
    {"data": [{"index": 0, "embedding": [0.1, …]}, …], "usage": {"prompt_tokens": 9}}

The key comes from an environment variable and is written nowhere. Nothing but the address that was
given is asked: a redirect is refused. What it cannot do now (429, 5xx, time-outs, broken
connections and answers that are cut) it is asked again, after the time that it says itself or
longer and longer ones.
"""

from __future__ import annotations

import json
import os
import time
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any

import httpx
import numpy as np

from data_prep.teachers.base import Teacher
from unime.config import TeacherConfig
from unime.data.embedding_store import StoredEmbeddings
from unime.data.stores.files import FACTS
from unime.data.teacher_store import TeacherMeta
from unime.data.texts import Texts
from unime.errors import ConfigError, DataError, RunError, require

AGAIN = (408, 425, 429, 500, 502, 503, 504, 529)
LONGEST_WAIT = 300.0  # seconds, whatever the endpoint asks for
FIRST_WAIT = 1.0
MOST_BYTES = 1 << 20  # of an answer, for each text
MOST_WORDS = 200  # characters of what an endpoint says of a mistake


class LaterError(Exception):
    """It may work later.

    Args:
        wait: seconds that the endpoint asked for.
    """

    def __init__(self, reason: str, wait: float | None = None) -> None:
        super().__init__(reason)
        self.wait = wait


def endpoint_teacher(config: TeacherConfig, found: Texts) -> Teacher:
    """The model that an endpoint serves; it is asked for one text, if its store does not know yet
    how wide its embeddings are.

    Raises:
        ConfigError: no such address, model or key, or the store has embeddings of another size.
        RunError: it does not answer.
    """
    endpoint = Endpoint(config)
    facts = Path(config.output_dir) / FACTS
    if facts.is_file():
        dimension = StoredEmbeddings.open(facts.parent).facts["dimension"]
        same = f"{dimension}, as {facts.parent} has them, or null"
        require(config.dimensions in (None, dimension), "dimensions", config.dimensions, same)
    else:
        dimension = endpoint(found.texts[:1]).shape[1]
    name = f"{config.name} at {config.endpoint}"
    meta = TeacherMeta(name, config.revision, config.prompt, dimension)

    def remarks() -> list[str]:
        counted = f"; it counted {endpoint.tokens:,} tokens" if endpoint.tokens else ""
        sent = f"{endpoint.requests} requests from here{counted}; "
        return [f"{sent}how much of a long text the endpoint reads is not known"]

    return Teacher(meta, endpoint, config.batch_size, remarks=remarks)


class Endpoint:
    """Sends texts, and looks at what comes back.

    Attributes:
        requests: how many it was sent.
        tokens: by its own count; 0: it tells none.

    Raises:
        ConfigError: the key is not there, or would be read on its way.
    """

    def __init__(self, config: TeacherConfig) -> None:
        assert config.endpoint is not None
        self.config = config
        self.address = httpx.URL(config.endpoint)
        self.requests = self.tokens = 0
        self._key = self._read_key(config.api_key_variable)
        headers = {"Authorization": f"Bearer {self._key}"} if self._key else {}
        self._client = httpx.Client(headers=headers, timeout=config.timeout, follow_redirects=False)

    def __reduce__(self) -> tuple[type, tuple[TeacherConfig]]:
        return Endpoint, (self.config,)  # elsewhere the key is that of the environment there

    def __call__(self, texts: list[str]) -> np.ndarray:
        """The embeddings (n, T) of some texts.

        Raises:
            ConfigError: the request is refused.
            DataError: the answer is not what was asked for.
            RunError: it could not be had, however often it was asked.
        """
        attempt = 0
        while True:
            try:
                return self._checked(self._ask(texts), len(texts))
            except LaterError as error:
                if attempt == self.config.retries:
                    raise RunError(
                        f"{self._said(error)}, {attempt + 1} times; what was embedded is kept, and"
                        " the same command goes on from it"
                    ) from None
                wait = FIRST_WAIT * 2**attempt if error.wait is None else error.wait
                time.sleep(min(wait, LONGEST_WAIT))
                attempt += 1

    def _read_key(self, variable: str | None) -> str | None:
        if variable is None:
            return None
        key = os.environ.get(variable, "").strip()
        if not key:
            raise ConfigError(f"api_key_variable: the environment has no {variable}")
        local = self.address.host in ("localhost", "127.0.0.1", "::1")
        safe = self.address.scheme == "https" or local
        require(safe, "endpoint", self.config.endpoint, "https, where a key is sent")
        require(key.isascii() and key.isprintable(), "api_key_variable", variable, "one with a key")
        return key

    def _ask(self, texts: list[str]) -> dict[str, Any]:
        body: dict[str, Any] = {
            "model": self.config.name,
            "input": [self.config.prompt + text for text in texts],
            "encoding_format": "float",
        }
        if self.config.dimensions is not None:
            body["dimensions"] = self.config.dimensions
        self.requests += 1
        try:
            with self._client.stream("POST", self.address, json=body) as answer:
                content = self._read(answer, len(texts))
        except (httpx.TransportError, httpx.DecodingError) as error:
            raise LaterError(f"{type(error).__name__}: {error}") from None
        status = answer.status_code
        if status in AGAIN:
            raise LaterError(f"status {status}", _wait_of(answer.headers.get("retry-after")))
        if answer.is_redirect:
            where = answer.headers.get("location", "")
            raise ConfigError(
                self._said(f"redirects to {where[:MOST_WORDS]!r}, which is not asked")
            )
        if status != 200:
            words = " ".join(content.decode("utf-8", "replace").split())[:MOST_WORDS]
            raise ConfigError(self._said(f"status {status}: {words}"))
        try:
            return dict(json.loads(content))
        except (ValueError, TypeError, RecursionError):
            raise LaterError("an answer that is no JSON object") from None

    def _read(self, answer: httpx.Response, count: int) -> bytes:
        content = bytearray()
        for part in answer.iter_bytes():
            content += part
            if len(content) > MOST_BYTES * (count + 1):
                raise DataError(self._said(f"more than {MOST_BYTES:,} bytes for a text"))
        return bytes(content)

    def _checked(self, answer: dict[str, Any], count: int) -> np.ndarray:
        """The embeddings of an answer, in the order of what was asked."""
        rows = answer.get("data")
        if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
            raise DataError(self._said(f"no list of embeddings: {str(answer)[:MOST_WORDS]}"))
        places = [row.get("index") for row in rows]
        if any(type(place) is not int for place in places) or sorted(places) != [*range(count)]:
            raise DataError(self._said(f"embeddings {str(places)[:MOST_WORDS]} of {count} texts"))
        by_place = sorted(rows, key=lambda row: row["index"])
        try:
            vectors = np.array([row.get("embedding") for row in by_place], dtype=np.float32)
        except (ValueError, TypeError, OverflowError):
            raise DataError(self._said("embeddings that are no rows of numbers")) from None
        wanted = self.config.dimensions or (vectors.shape[1] if vectors.ndim == 2 else 0)
        if vectors.shape != (count, wanted) or not wanted:
            raise DataError(
                self._said(f"embeddings of shape {vectors.shape}, not {(count, wanted)}")
            )
        bad = ~(np.isfinite(vectors).all(axis=1) & vectors.any(axis=1))
        if bad.any():
            raise DataError(self._said(f"embedding {bad.argmax()} is zero or not finite"))
        usage = answer.get("usage")
        tokens = usage.get("prompt_tokens") if isinstance(usage, dict) else None
        self.tokens += tokens if type(tokens) is int else 0
        return vectors

    def _said(self, reason: object) -> str:
        words = f"endpoint: {self.config.endpoint}: {reason}"
        return words.replace(self._key, "…") if self._key else words


def _wait_of(header: str | None) -> float | None:
    """The seconds of a Retry-After header: a number of them, or a date."""
    if header is None:
        return None
    try:
        return max(0.0, float(header))
    except ValueError:
        pass
    try:
        until = parsedate_to_datetime(header)
    except ValueError:
        return None
    return max(0.0, (until - datetime.now(until.tzinfo and UTC)).total_seconds())
