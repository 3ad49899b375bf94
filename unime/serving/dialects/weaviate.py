"""``/vectorize``: what Weaviate asks of the container of its module multi2vec-clip."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from unime.serving.contents import picture
from unime.serving.requests import Asked, Embedded, Given, RequestError, got, text_of
from unime.serving.vectors import typed


class Weaviate:
    """Weaviate's dialect: texts and pictures, each a vector of its own."""

    def read(self, body: Mapping[str, Any]) -> Asked:
        texts, images = (_list(body, key) for key in ("texts", "images"))
        items = [
            Given(place, text_of(one, place))
            for place, one in ((f"texts[{n}]", one) for n, one in enumerate(texts))
        ]
        items += [
            Given(place, images=[picture(one, place, bare=True)])
            for place, one in ((f"images[{n}]", one) for n, one in enumerate(images))
        ]
        return Asked(items, said={"texts": len(texts)})

    def answer(self, asked: Asked, found: Sequence[Embedded], model: str) -> dict[str, Any]:
        vectors = typed(found, asked, "float") if found else []
        count = asked.said["texts"]
        return {"textVectors": vectors[:count], "imageVectors": vectors[count:]}

    def refusal(self, status: int, reason: str) -> dict[str, Any]:
        return {"error": reason}


def _list(body: Mapping[str, Any], key: str) -> list[Any]:
    value = body.get(key)
    if value is not None and not isinstance(value, list):
        raise RequestError(f"{key}: {got(value)}, expected a list")
    return value or []
