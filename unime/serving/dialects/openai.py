"""``/v1/embeddings``: OpenAI's texts, vLLM's conversations, SGLang's and Jina's objects."""

from __future__ import annotations

import time
import uuid
from collections.abc import Mapping, Sequence
from typing import Any

from unime.serving.contents import TOKEN_IDS, conversation, element, is_message
from unime.serving.requests import (
    Asked,
    Embedded,
    Given,
    RequestError,
    got,
    list_of,
    model_of,
    option,
    refuse,
    size_of,
)
from unime.serving.vectors import typed

HARMLESS = {  # of keys that would change vectors, the values that do not
    "chat_template": (),
    "chat_template_kwargs": ({},),
    "mm_processor_kwargs": ({},),
    "truncate_prompt_tokens": (-1,),
    "late_chunking": (False,),
    "late_interaction": (False,),
    "return_multivector": (False,),
    "use_activation": (True,),
    "normalize": (True,),
    "normalized": (True,),
    "embed_dtype": ("float32",),
    "endianness": ("native", "little"),
    "output_dtype": ("float",),
    "output_dimension": (),  # Voyage's name of `dimensions`, at another address
}
FORMATS = {  # keys that say the type of vectors: OpenAI's, then Jina's, and LlamaIndex's for Jina's
    "encoding_format": ("float", "base64"),
    "embedding_type": ("float", "base64", "binary", "ubinary"),
    "encoding_type": ("float", "base64", "binary", "ubinary"),
}
TYPES = {401: "authentication_error", 404: "not_found_error", 429: "rate_limit_error"}


class OpenAI:
    """OpenAI's dialect, and what grew around it."""

    def read(self, body: Mapping[str, Any]) -> Asked:
        refuse(body, HARMLESS)
        dimensions = size_of(body, "dimensions")
        return Asked(_items(body), model_of(body), dimensions, (_output(body),))

    def answer(self, asked: Asked, found: Sequence[Embedded], model: str) -> dict[str, Any]:
        vectors = typed(found, asked, asked.outputs[0])
        tokens = sum(one.tokens for one in found)
        return {
            "id": f"embd-{uuid.uuid4().hex}",
            "object": "list",
            "created": int(time.time()),
            "model": model,
            "data": [
                {"object": "embedding", "index": number, "embedding": vector}
                for number, vector in enumerate(vectors)
            ],
            "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
        }

    def refusal(self, status: int, reason: str) -> dict[str, Any]:
        kind = TYPES.get(status, "invalid_request_error" if status < 500 else "server_error")
        error = {"message": reason, "type": kind, "param": None, "code": status}
        return {"error": error, "detail": reason}  # where Jina's clients look


def _output(body: Mapping[str, Any]) -> str:
    asked = {key: option(body, key, known, "") for key, known in FORMATS.items()}
    said = {key: value for key, value in asked.items() if value}
    if len(set(said.values())) > 1:
        raise RequestError(f"expected one type of vectors, got {said}")
    return next(iter(said.values()), "float")


def _items(body: Mapping[str, Any]) -> list[Given]:
    """One for each text, object or conversation of "input" or "messages"."""
    if (body.get("input") is None) == (body.get("messages") is None):
        raise RequestError("expected one of input and messages")
    key = "input" if body.get("input") is not None else "messages"
    if key == "input" and isinstance(body[key], str):
        return [element(body[key], key)]
    if key == "input" and isinstance(body[key], dict) and not is_message(body[key]):
        return [element(body[key], key)]
    given = list_of(body, key)
    if is_message(given[0]):
        return [conversation(given, key)]
    if isinstance(given[0], list):
        return [_conversation(one, f"{key}[{number}]") for number, one in enumerate(given)]
    if key == "messages":
        raise RequestError(f"messages[0]: {got(given[0])}, expected a message, or a list of them")
    return [element(one, f"{key}[{number}]") for number, one in enumerate(given)]


def _conversation(messages: object, place: str) -> Given:
    if not isinstance(messages, list) or not messages:
        raise RequestError(f"{place}: {got(messages)}, expected a conversation: a list of messages")
    if isinstance(messages[0], int):
        raise RequestError(f"{place}: {TOKEN_IDS}")
    return conversation(messages, place)
