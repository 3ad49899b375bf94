"""Pictures and their captions, searched in either direction: UniME's retrieval suite (paper, Table
2; the published code is deepglint/UniME, self_evaluate/).

``t2i``: a caption is the query, and its one picture is right among all pictures.
``i2t``: a picture is the query, and any of its own captions is right among all captions.

Recall@k as CLIP-like papers print it is hit@k in both: one right target among the first k. Two
pictures with the same caption keep one each, and of the two equal scores the one that comes first
in the data ranks first. No target and no query counts twice, however many processes encode them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import datasets
from omegaconf import MISSING

from eval.tasks.base import EvalTask, Relevance
from eval.tasks.sources import EvalSource
from unime.errors import ConfigError, DataError, require
from unime.inputs.items import Item
from unime.runtime.progress import progress_bar

DIRECTIONS = ("t2i", "i2t")


@dataclass(frozen=True)
class Captioned:
    name: str  # the source's number or id
    image: str  # absolute path
    captions: tuple[str, ...]  # at least one, none of them blank


@dataclass(frozen=True)
class CaptionRetrieval:
    """What every set of captioned pictures may set."""

    direction: str = MISSING  # t2i or i2t
    repository: str = MISSING
    revision: str | None = None
    image_instruction: str = ""  # what is asked of a picture, beside the prompt preset's words
    text_instruction: str = ""  # and of a caption

    def __post_init__(self) -> None:
        if self.direction not in DIRECTIONS:
            expected = " or ".join(DIRECTIONS)
            raise ConfigError(f"direction: got {self.direction!r}, expected {expected}")

    def task(
        self, name: str, pictures: list[Captioned], limit: int | None, left_out: list[str]
    ) -> EvalTask:
        """The task of searching these pictures, or their captions.

        Args:
            limit: first queries (captions in t2i, pictures in i2t); the targets stay whole.
        """
        images = [
            Item(images=(picture.image,), instruction=self.image_instruction)
            for picture in pictures
        ]  # (P)
        texts = [
            Item(caption, instruction=self.text_instruction)
            for picture in pictures
            for caption in picture.captions
        ]  # (C)
        owners = [place for place, one in enumerate(pictures) for _ in one.captions]  # (C)
        relevance: list[Relevance]
        if self.direction == "t2i":
            queries, targets = texts, images
            names = [picture.name for picture in pictures]
            relevance = [{picture: 1.0} for picture in owners]
        else:
            queries, targets = images, texts
            names = [
                f"{picture.name}.{number}"
                for picture in pictures
                for number in range(len(picture.captions))
            ]
            relevance = [{} for _ in pictures]
            for caption, picture in enumerate(owners):
                relevance[picture][caption] = 1.0
        return EvalTask(
            name,
            num_rows=len(queries),
            queries=queries[:limit],
            targets=targets,
            target_names=names,
            relevance=relevance[:limit],
            left_out=left_out,
        )


@dataclass(frozen=True)
class CaptionedRows(CaptionRetrieval):
    """``royokong/flickr30k_test`` and ``royokong/coco_test``: rows of a picture (``image``) and a
    list of captions (``text``), of which the first five count. A picture of COCO may have more:
    those are listed in `left_out`. One with fewer keeps what it has."""

    subset: str | None = None  # None: the default configuration
    split: str = "test"
    max_captions: int = 5

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.max_captions >= 1, "max_captions", self.max_captions, "1 or more")

    def read(self, name: str, source: EvalSource) -> EvalTask:
        table = source.rows(
            self.repository, self.subset, self.split, self.revision, ("image", "text")
        )
        rows = table.rows
        if isinstance(rows.features["image"], datasets.Image):
            rows = rows.cast_column("image", datasets.Image(decode=False))  # the bytes as they are
        pictures, left_out = [], []
        for number, row in enumerate(
            progress_bar(rows, total=len(rows), desc=f"reading {name}", unit="row")
        ):
            where = table.where(number)
            captions = self._captions(row["text"], where)
            pictures.append(Captioned(str(number), _keep(source, row["image"], where), captions))
            if (had := len(row["text"])) > (used := self.max_captions):
                left_out.append(f"{where}: the captions after the first {used} of {had}")
        return self.task(name, pictures, source.data.limit, left_out)

    def _captions(self, values: Any, where: str) -> tuple[str, ...]:
        if not isinstance(values, list) or not values:
            raise DataError(f"{where}, column 'text': got {values!r}, expected a list of captions")
        return tuple(
            check_caption(value, f"{where}, column 'text[{number}]'")
            for number, value in enumerate(values[: self.max_captions])
        )


def check_caption(value: Any, place: str) -> str:
    """A caption as it is.

    Raises:
        DataError: no text, or a blank one.
    """
    if not isinstance(value, str) or not value.strip():
        raise DataError(f"{place}: got {value!r}, expected a caption")
    return value


def find_image(find: Callable[[str], str], path: Any, place: str) -> str:
    """The picture's absolute path.

    Raises:
        DataError: names where the path stands, the path, and where it was looked for.
    """
    if not isinstance(path, str):
        raise DataError(f"{place}: got {path!r}, expected a picture's path")
    try:
        return find(path)
    except DataError as error:
        raise DataError(f"{place}: {path!r}: {error}") from None


def _keep(source: EvalSource, value: Any, where: str) -> str:
    try:
        return source.keep_image(value)
    except DataError as error:
        raise DataError(f"{where}, column 'image': {error}") from None
