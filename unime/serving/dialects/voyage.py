"""``/v1/multimodalembeddings``: Voyage's, which MongoDB Atlas speaks, too."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from unime.serving.contents import add_parts
from unime.serving.requests import (
    Asked,
    Embedded,
    Given,
    flag,
    list_of,
    model_of,
    object_of,
    option,
    size_of,
)
from unime.serving.vectors import typed

SIZE = "output_dimension"
TYPES = ("float", "int8", "uint8", "binary", "ubinary")


class Voyage:
    """Voyage's dialect."""

    def read(self, body: Mapping[str, Any]) -> Asked:
        items = []
        for number, one in enumerate(list_of(body, "inputs")):
            item = Given(f"inputs[{number}]")
            content = object_of(one, item.place, ("content",)).get("content")
            add_parts(item, content, f"{item.place}.content")
            items.append(item)
        output = option(body, "output_dtype", TYPES, "float")
        said = {"in_base64": option(body, "encoding_format", ("base64",), "") == "base64"}
        size, may_cut = size_of(body, SIZE), flag(body, "truncation", True)
        return Asked(items, model_of(body), size, (output,), may_cut, said, SIZE)

    def answer(self, asked: Asked, found: Sequence[Embedded], model: str) -> dict[str, Any]:
        images, tokens = (
            sum(getattr(one, name) for one in found) for name in ("image_tokens", "tokens")
        )
        vectors = typed(found, asked, asked.outputs[0], asked.said["in_base64"])
        return {
            "object": "list",
            "data": [
                {"object": "embedding", "embedding": vector, "index": number}
                for number, vector in enumerate(vectors)
            ],
            "model": model,
            "usage": {
                "text_tokens": tokens - images,
                "image_pixels": sum(one.pixels for one in found),
                "video_pixels": 0,
                "total_tokens": tokens,
            },
        }

    def refusal(self, status: int, reason: str) -> dict[str, Any]:
        return {"detail": reason}
