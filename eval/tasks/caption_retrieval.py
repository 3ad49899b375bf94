"""Pictures and their captions, searched in either direction: UniME's retrieval suite (paper, Table
2; the published code is deepglint/UniME, self_evaluate/).

A row of ``royokong/flickr30k_test``::

    image  {"bytes": …}
    text   ["Two dogs run on a beach.", …]  (its captions: five, or more)

``t2i``: a caption is the query, and its one picture is right among all pictures.
``i2t``: a picture is the query, and any of its own captions is right among all captions.

Recall@k as CLIP-like papers print it is hit@k in both: one right target among the first k. Two
pictures with the same caption keep one each, and of the two equal scores the one that comes first
in the data ranks first. No target and no query counts twice, however many processes encode them.
"""

from __future__ import annotations

from dataclasses import dataclass

from omegaconf import MISSING

from eval.tasks.base import EvalTask
from eval.tasks.sources import READ_AT_ONCE, EvalSource
from unime.errors import require
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
        known = self.direction in DIRECTIONS
        require(known, "direction", self.direction, " or ".join(DIRECTIONS))

    def task(
        self, name: str, pictures: list[Captioned], limit: int | None, left_out: list[str]
    ) -> EvalTask:
        """The task of searching these pictures, or their captions.

        Args:
            limit: first queries (captions in t2i, pictures in i2t); the targets stay whole.
        """
        task = EvalTask(name, left_out=left_out)
        for one in pictures:
            picture = Item(images=(one.image,), instruction=self.image_instruction)
            captions = [Item(text, instruction=self.text_instruction) for text in one.captions]
            if self.direction == "t2i":
                place = task.place(one.name, picture)
                for caption in captions:
                    task.ask(caption, [place])
            else:
                named = ((f"{one.name}.{n}", caption) for n, caption in enumerate(captions))
                task.ask(picture, [task.place(*caption) for caption in named])
        task.num_rows = len(task.queries)
        task.queries, task.relevance = task.queries[:limit], task.relevance[:limit]
        return task


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
        rows = progress_bar(
            table.read(at_once=READ_AT_ONCE), total=len(table), desc=f"reading {name}", unit="row"
        )
        pictures, left_out = [], []
        for number, row in enumerate(rows):
            captions = tuple(row.texts("text", self.max_captions))
            with row.naming("image"):
                image = source.keep_image(row["image"])
            pictures.append(Captioned(str(number), image, captions))
            if (had := len(row["text"])) > (used := self.max_captions):
                left_out.append(f"{row.where}: the captions after the first {used} of {had}")
        return self.task(name, pictures, source.data.limit, left_out)
