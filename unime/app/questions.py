"""What the page asks, as dialects of the service: read within its limits, and embedded as every
request is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from uuid import UUID

import numpy as np
from numpy.typing import NDArray

from unime.config.searching import KINDS
from unime.embedder import label_texts
from unime.errors import DataError, RunError
from unime.runtime.files import regular
from unime.search.index import Index
from unime.search.outcome import Hit
from unime.search.terminal import thumbnail
from unime.serving.contents import picture
from unime.serving.requests import (
    Asked,
    Embedded,
    Given,
    RequestError,
    got,
    list_of,
    object_of,
    option,
    size_of,
    text_of,
)

MOST_HITS = 200
LONGEST_TEXT = 2000  # characters of a passage that an answer has
LONGEST_NAME = 60
PAGE_SIDE = 1024  # pixels of a PDF page that others are to be like
MIB = 1 << 20
ANY = "any"


class Question:
    """What all of them have in common: JSON errors, and one model."""

    def refusal(self, status: int, reason: str) -> dict[str, Any]:
        return {"error": reason}


class Search(Question):
    """What is like a text, a picture (sent, or one of the index), or both.

    Args:
        index: that is searched.
        most_mib: size of a file of the index that others are to be like.
    """

    def __init__(self, index: Index, most_mib: int) -> None:
        self._index, self._most = index, most_mib

    def read(self, body: Mapping[str, Any]) -> Asked:
        object_of(body, "the body", ("text", "image", "like", "instruction", "limit", "kind"))
        item = Given("what is looked for")
        for key in ("text", "instruction"):
            if body.get(key) is not None:
                setattr(item, key, text_of(body[key], key).strip())
        if body.get("image") is not None:
            item.images.append(picture(body["image"], "image"))
        if body.get("like") is not None:
            self._add(item, found_in(self._index, body["like"]))
        if not item.text and not item.images:
            raise RequestError("nothing to look for: write something, or add a picture")
        limit = size_of(body, "limit") or 24
        if limit > MOST_HITS:
            raise RequestError(f"limit: {got(limit)}, expected at most {MOST_HITS}")
        kind = option(body, "kind", (ANY, *KINDS), ANY)
        return Asked([item], said={"limit": limit, "kind": None if kind == ANY else kind})

    def answer(self, asked: Asked, found: Sequence[Embedded], model: str) -> dict[str, Any]:
        limit, kind = asked.said["limit"], asked.said["kind"]
        try:
            (hits,) = self._index.nearest(stacked(found), limit, kind=kind)
        except RunError as error:  # a server that has the vectors
            raise RequestError(str(error), 503) from error
        return {"hits": [shown(hit) for hit in hits], "cut": found[0].is_cut}

    def _add(self, item: Given, like: Hit) -> None:
        """Add something of the index to what is looked for."""
        if like.kind == "text":
            item.text = "\n".join(filter(None, (like.text, item.text)))
            return
        content: bytes | None = None
        try:
            if like.kind == "page":
                content = thumbnail(like.path, like.kind, like.place, PAGE_SIDE)
            elif regular(Path(like.path)).stat().st_size <= self._most * MIB:
                content = Path(like.path).read_bytes()
        except (OSError, DataError):
            content = None
        if not content:
            reason = "it cannot be read any more, or is too large"
            raise RequestError(f"{Path(like.path).name}: {reason}", 404)
        item.images.append(content)


class Classify(Question):
    """How well each of the user's labels fits each picture."""

    def __init__(self, index: Index) -> None:
        self._embedder = index.embedder

    def read(self, body: Mapping[str, Any]) -> Asked:
        object_of(body, "the body", ("images", "labels", "templates"))
        images = []
        for number, one in enumerate(list_of(body, "images")):
            place = f"images[{number}]"
            given = object_of(one, place, ("image", "name"))
            images.append(Given(_called(given, place), images=[picture(given.get("image"), place)]))
        words = {
            key: [text_of(one, f"{key}[{n}]").strip() for n, one in enumerate(list_of(body, key))]
            for key in ("labels", "templates")
        }
        labels = list(dict.fromkeys(filter(None, words["labels"])))
        templates = list(filter(None, words["templates"]))
        if not labels:
            raise RequestError("labels: none, expected at least one")
        if not templates or any("{}" not in one for one in templates):
            raise RequestError("templates: each needs {} where the label goes")
        texts = [Given(f"{one!r:.60}", one) for one in label_texts(labels, templates)]
        return Asked([*images, *texts], said={"labels": labels, "images": len(images)})

    def answer(self, asked: Asked, found: Sequence[Embedded], model: str) -> dict[str, Any]:
        vectors, count = stacked(found), asked.said["images"]
        scores = self._embedder.label_scores(vectors[:count], vectors[count:], asked.said["labels"])
        return {"pictures": [list(of_one.items()) for of_one in scores]}


class Compare(Question):
    """The cosine of each picture and sentence with each."""

    def __init__(self, index: Index) -> None:
        self._embedder = index.embedder

    def read(self, body: Mapping[str, Any]) -> Asked:
        object_of(body, "the body", ("items",))
        items = []
        for number, one in enumerate(list_of(body, "items")):
            place = f"items[{number}]"
            given = object_of(one, place, ("text", "image", "name"))
            item = Given(_called(given, place))
            if given.get("text") is not None:
                item.text = text_of(given["text"], f"{place}.text").strip()
            if given.get("image") is not None:
                item.images.append(picture(given["image"], f"{place}.image"))
            if not item.text and not item.images:
                raise RequestError(f"{place}: nothing in it, expected a text or a picture")
            items.append(item)
        return Asked(items)

    def answer(self, asked: Asked, found: Sequence[Embedded], model: str) -> dict[str, Any]:
        vectors = stacked(found)
        return {"cosines": self._embedder.similarity(vectors, vectors).tolist()}


def _called(given: Mapping[str, Any], place: str) -> str:
    """What reasons call a picture: its file's name, where the page gives it."""
    name = given.get("name")
    return place if name is None else text_of(name, f"{place}.name")[:LONGEST_NAME]


def found_in(index: Index, point: object) -> Hit:
    """What is in the index under an id.

    Raises:
        RequestError: nothing, or it is no id; or nobody can say.
    """
    try:
        found = index.part(str(UUID(text_of(point, "id"))))
    except ValueError:
        found = None
    except RunError as error:
        raise RequestError(str(error), 503) from error
    if found is None:
        raise RequestError("there is no such thing in the index", 404)
    return found


def shown(hit: Hit) -> dict[str, Any]:
    """A hit as the page has it."""
    path, text = Path(hit.path), hit.text
    return {
        "id": hit.id,
        "score": hit.score,
        "kind": hit.kind,
        "name": path.name,
        "folder": str(path.parent),
        "place": hit.place,
        "line": hit.line,
        "is_there": path.exists(),
        "text": text if len(text) <= LONGEST_TEXT else f"{text[:LONGEST_TEXT]} …",
    }


def stacked(found: Sequence[Embedded]) -> NDArray[np.float32]:
    """Vectors (N, D)."""
    return np.stack([one.vector for one in found])
