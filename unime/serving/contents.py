"""Texts, pictures and conversations as the dialects write them."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Mapping, Sequence
from typing import Any

from unime.serving.requests import Address, Given, RequestError, got, object_of, text_of

DATA = re.compile(r"data:image/[\w.+-]+((?:;[\w-]+=[\w.+-]+)*);base64,", re.IGNORECASE | re.ASCII)
SCHEME = re.compile(r"([a-z][a-z0-9+.-]*):", re.IGNORECASE | re.ASCII)
TOKEN_IDS = (
    "got token ids, expected texts: the model's own tokenizer makes its ids"
    " (LangChain's OpenAIEmbeddings: check_embedding_ctx_length=False)"
)


def picture(value: object, place: str, bare: bool = False) -> bytes | Address:
    """A picture's content, or where it lies.

    Args:
        bare: base64 without "data:…;base64," before it is one, too.

    Raises:
        RequestError: it is neither.
    """
    text = text_of(value, place)
    if found := DATA.match(text):
        return decoded(text[found.end() :], place)
    scheme = SCHEME.match(text)
    if scheme and scheme[1].lower() in ("http", "https"):
        return Address(text)
    if scheme or not bare:
        known = "a data URI of a picture in base64 (data:image/png;base64,…) or an https address"
        raise RequestError(f"{place}: {_begin(text)}, expected {known}")
    return decoded(text, place)


def _begin(text: str) -> str:
    shown = text if len(text) <= 30 else f"{text[:30]}…"
    return f"got {shown!r}"


def decoded(text: str, place: str) -> bytes:
    """Raises:
    RequestError: no base64, or nothing in it.
    """
    try:
        content = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise RequestError(f"{place}: no base64: {error}") from None
    if not content:
        raise RequestError(f"{place}: an empty picture")
    return content


def add_parts(item: Given, content: object, place: str) -> None:
    """Add a turn's content to an item: a text, or parts of several types. Its texts are joined by
    new lines; pictures come first in the prompt, as the model was trained.

    Raises:
        RequestError: something that is no content.
    """
    if isinstance(content, str):
        content = [{"type": "text", "text": content}]
    if not isinstance(content, list):
        raise RequestError(f"{place}: {got(content)}, expected a text or a list of parts")
    texts = [item.text] if item.text else []
    for number, part in enumerate(content):
        here = f"{place}[{number}]"
        if not isinstance(part, dict):
            raise RequestError(f"{here}: {got(part)}, expected an object with its type")
        kind = part.get("type")
        if kind == "text":
            texts.append(text_of(part.get("text"), f"{here}.text"))
        elif kind in ("image_url", "image_base64"):
            value = part.get(kind)
            if isinstance(value, dict) and kind == "image_url":
                value = value.get("url")
            item.images.append(picture(value, f"{here}.{kind}"))
        elif isinstance(kind, str) and kind.startswith("video_"):
            raise RequestError(f"{here}: videos are not served; send some of its frames as images")
        else:
            expected = "text, image_url or image_base64"
            raise RequestError(f"{here}.type: {got(kind)}, expected {expected}")
    item.text = "\n".join(filter(None, texts))


def conversation(messages: Sequence[Any], place: str) -> Given:
    """A conversation as one item: what its system turn says is the instruction, what its user turns
    say and show the item, and an empty last assistant turn is where the model's own prompt ends.

    Raises:
        RequestError: a turn that is none of these.
    """
    item = Given(place)
    for number, message in enumerate(messages):
        here = f"{place}[{number}]"
        if not is_message(message):
            raise RequestError(f"{here}: {got(message)}, expected a message with its role")
        turn, is_last = Given(here), number + 1 == len(messages)
        role = message["role"]
        if message.get("content") is not None or role != "assistant":
            add_parts(turn, message.get("content"), f"{here}.content")
        if role == "user":
            item.text = "\n".join(filter(None, (item.text, turn.text)))
            item.images += turn.images
        elif role in ("system", "developer") and not turn.images:
            item.instruction = "\n".join(filter(None, (item.instruction, turn.text)))
        elif role == "assistant" and is_last and not turn.text and not turn.images:
            continue
        else:
            expected = "system (texts), user, and at the end an empty assistant turn"
            raise RequestError(f"{here}: {got(role)}, expected {expected}")
    return item


def is_message(value: object) -> bool:
    """An object with a role is a message, as vLLM tells them from other objects."""
    return isinstance(value, dict) and isinstance(value.get("role"), str)


def element(value: object, place: str) -> Given:
    """An element of "input": a text, or an object as SGLang and Jina write them, or with an
    "instruction".

    Raises:
        RequestError: it is neither.
    """
    if isinstance(value, str):
        return Given(place, text_of(value, place))
    if isinstance(value, int):
        raise RequestError(f"{place}: {TOKEN_IDS}")
    keys = ("text", "image", "url", "bytes", "instruction")
    found: Mapping[str, Any] = object_of(value, place, keys)
    item = Given(place)
    if found.get("text") is not None:
        item.text = text_of(found["text"], f"{place}.text")
    if found.get("instruction") is not None:
        item.instruction = text_of(found["instruction"], f"{place}.instruction")
    for key in ("image", "url", "bytes"):
        if found.get(key) is not None:
            item.images.append(picture(found[key], f"{place}.{key}", bare=True))
    return item
