"""What a request asks for, whichever dialect it is in, and how it is told that it cannot be had."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

MOST_BRACKETS = 200_000  # of a body: Python takes some 60 bytes for each "[]"
SHOWN = 60  # characters of a value that an answer quotes


class RequestError(Exception):
    """A request that is refused, with its HTTP status and the reason."""

    def __init__(self, message: str, status: int = 400, headers: Mapping[str, str] = {}) -> None:
        super().__init__(message)
        self.status, self.headers = status, dict(headers)


@dataclass(frozen=True)
class Address:
    """Where a picture lies that has to be fetched."""

    url: str


@dataclass
class Given:
    """One item of a request.

    Attributes:
        place: in the request, for messages: "input[3]".
        images: files' contents, or where they are fetched from.
    """

    place: str
    text: str = ""
    images: list[bytes | Address] = field(default_factory=list)
    instruction: str = ""

    def as_input(self) -> dict[str, Any]:
        """As `Embedder` takes it, once its pictures are here: bytes alone, so no path is read."""
        images = [one for one in self.images if isinstance(one, bytes)]
        return {"text": self.text, "images": images, "instruction": self.instruction}


@dataclass
class Asked:
    """A request, read.

    Attributes:
        outputs: types of vectors, as the dialect calls them.
        size_key: what it calls `dimensions`.
        may_cut: whether a text that is longer than the model is shown may be cut.
        said: what the answer repeats of it.
    """

    items: list[Given]
    model: str | None = None
    dimensions: int | None = None
    outputs: tuple[str, ...] = ("float",)
    may_cut: bool = True
    said: dict[str, Any] = field(default_factory=dict)
    size_key: str = "dimensions"


@dataclass(frozen=True)
class Embedded:
    """An item's vector (D,), and what it took."""

    vector: NDArray[np.float32]
    tokens: int
    image_tokens: int
    pixels: int
    is_cut: bool


class Dialect(Protocol):
    """How one API asks, answers and refuses."""

    def read(self, body: Mapping[str, Any]) -> Asked:
        """What a body asks for.

        Raises:
            RequestError: it is not in this dialect, or asks for what there is not.
        """

    def answer(self, asked: Asked, found: Sequence[Embedded], model: str) -> dict[str, Any]:
        """The answer's JSON."""

    def refusal(self, status: int, reason: str) -> dict[str, Any]:
        """The JSON of an error."""


def parse(content: bytes) -> dict[str, Any]:
    """The JSON object of a body.

    Raises:
        RequestError: it is none, or would take far more memory than the body itself.
    """
    if content.count(b"[") + content.count(b"{") > MOST_BRACKETS:
        raise RequestError(f"the body has more than {MOST_BRACKETS} lists and objects", 413)
    try:
        found = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise RequestError(f"the body is no JSON: {error}") from None
    if not isinstance(found, dict):
        raise RequestError(f"the body: {got(found)}, expected an object")
    return found


def got(value: object) -> str:
    """ "got 5", of any value, in a few characters."""
    if isinstance(value, list | dict):
        return f"got {'a list' if isinstance(value, list) else 'an object'} of {len(value)}"
    if isinstance(value, str) and len(value) > SHOWN:
        return f"got a text of {len(value)} characters"
    text = repr(value) if not isinstance(value, int) or abs(value) < 10**SHOWN else "a large number"
    return f"got {text}"


def text_of(value: object, place: str) -> str:
    """A text that can be encoded.

    Raises:
        RequestError: no text, or one with half a character (a lone surrogate).
    """
    if not isinstance(value, str):
        raise RequestError(f"{place}: {got(value)}, expected a text")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise RequestError(f"{place}: half a character (a lone surrogate)") from None
    return value


def list_of(body: Mapping[str, Any], key: str) -> list[Any]:
    """A list of at least one.

    Raises:
        RequestError: no list, or an empty one.
    """
    value = body.get(key)
    if not isinstance(value, list) or not value:
        raise RequestError(f"{key}: {got(value)}, expected a list of at least one")
    return value


def object_of(value: object, place: str, keys: Sequence[str]) -> dict[str, Any]:
    """An object of known keys.

    Raises:
        RequestError: no object, or one with other keys.
    """
    if not isinstance(value, dict):
        raise RequestError(f"{place}: {got(value)}, expected an object")
    if unknown := [key for key in value if key not in keys]:
        raise RequestError(f"{place}: {got(unknown[0])}, expected some of {', '.join(keys)}")
    return value


def option(body: Mapping[str, Any], key: str, values: Sequence[str], default: str) -> str:
    """One of a few texts; null is the default.

    Raises:
        RequestError: another value.
    """
    value = body.get(key)
    if value is None:
        return default
    if value not in values or not isinstance(value, str):
        raise RequestError(f"{key}: {got(value)}, expected one of {', '.join(values)}")
    return value


def size_of(body: Mapping[str, Any], key: str) -> int | None:
    """A positive whole number, or null.

    Raises:
        RequestError: no positive whole number, or null.
    """
    value = body.get(key)
    if value is None:
        return None
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise RequestError(f"{key}: {got(value)}, expected a positive whole number")
    return value


def flag(body: Mapping[str, Any], key: str, default: bool) -> bool:
    """True or false; null is the default.

    Raises:
        RequestError: neither true, false nor null.
    """
    value = body.get(key)
    if value is not None and not isinstance(value, bool):
        raise RequestError(f"{key}: {got(value)}, expected true or false")
    return default if value is None else value


def model_of(body: Mapping[str, Any]) -> str | None:
    value = body.get("model")
    return None if value is None else text_of(value, "model")


def refuse(body: Mapping[str, Any], harmless: Mapping[str, Sequence[Any]]) -> None:
    """Refuse keys that would change vectors, unless they ask for what is done anyway.

    Raises:
        RequestError: one of them.
    """
    for key, values in harmless.items():
        value = body.get(key)
        if value is not None and value not in values:
            raise RequestError(
                f"{key}: {got(value)}; items are embedded as the model was trained to, with its"
                " prompt and limits, which a request cannot change"
            )
