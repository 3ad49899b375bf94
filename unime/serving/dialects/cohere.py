"""``/v2/embed``: Cohere's."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from typing import Any

from unime.serving.contents import add_parts, picture
from unime.serving.requests import (
    Asked,
    Embedded,
    Given,
    RequestError,
    got,
    list_of,
    model_of,
    object_of,
    option,
    refuse,
    size_of,
    text_of,
)
from unime.serving.vectors import OUTPUTS, typed

SIZE = "output_dimension"
FORMS = ("texts", "images", "inputs")


class Cohere:
    """Cohere's dialect, version 2 of its API."""

    def read(self, body: Mapping[str, Any]) -> Asked:
        refuse(body, {"max_tokens": ()})
        present = [key for key in FORMS if body.get(key) is not None]
        if len(present) != 1:
            raise RequestError(f"expected one of {', '.join(FORMS)}; got {len(present)} of them")
        key = present[0]
        given = list_of(body, key)
        items = [_item(one, key, f"{key}[{number}]") for number, one in enumerate(given)]
        said = {"texts": given} if key == "texts" else {}
        cut = option(body, "truncate", ("NONE", "START", "END"), "END")
        size = size_of(body, SIZE)
        return Asked(items, model_of(body), size, _types(body), cut == "END", said, SIZE)

    def answer(self, asked: Asked, found: Sequence[Embedded], model: str) -> dict[str, Any]:
        images = sum(one.image_tokens for one in found)
        units = {"input_tokens": sum(one.tokens for one in found) - images}
        if any(one.image_tokens for one in found):
            units["image_tokens"] = images
        return {
            "id": str(uuid.uuid4()),
            "embeddings": {output: typed(found, asked, output) for output in asked.outputs},
            **asked.said,
            "meta": {"api_version": {"version": "2"}, "billed_units": units},
            "response_type": "embeddings_by_type",
        }

    def refusal(self, status: int, reason: str) -> dict[str, Any]:
        return {"id": str(uuid.uuid4()), "message": reason}


def _types(body: Mapping[str, Any]) -> tuple[str, ...]:
    if body.get("embedding_types") is None:
        return ("float",)
    given = list_of(body, "embedding_types")
    for one in given:
        if not isinstance(one, str) or one not in OUTPUTS:
            raise RequestError(
                f"embedding_types: {got(one)}, expected some of {', '.join(OUTPUTS)}"
            )
    return tuple(dict.fromkeys(given))


def _item(value: object, key: str, place: str) -> Given:
    if key == "texts":
        return Given(place, text_of(value, place))
    if key == "images":
        return Given(place, images=[picture(value, place)])
    item = Given(place)
    content = object_of(value, place, ("content",)).get("content")
    add_parts(item, content, f"{place}.content")
    return item
