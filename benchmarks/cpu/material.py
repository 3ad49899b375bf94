"""Pairs of pictures and captions in the files that stage 2 reads, made without a download.

Pictures are Tux Paint's stamps where they are installed (`apt-get install
tuxpaint-stamps-default`), else drawn; captions are theirs, brought to a length with drawn words.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from benchmarks.gpu.models import WORDS
from benchmarks.stamps.data import PACKAGE, stamps, write
from eval.miniatures.mmeb import picture
from unime.inputs.images import load_image
from unime.inputs.picture_files import open_picture

COLUMNS = ("qry", "qry_image_path", "pos_text", "pos_image_path")
SHOWN = "<|image_1|>\n"
Row = tuple[str, str, str, str]

# Of a rank's 128 rows of one subset, which is what a batch holds (data.mixing), in MMEB-train's
# proportions with at most 50,000 rows a subset: classification 20 %, questions 25 %, retrieval and
# grounding 55 %. docs/performance.md says where the rates come from.
LABELS = 100  # drawn from 100, 128 rows have 71 labels: the mean of the five subsets, by rows
ANSWERS_AGAIN = 24  # of 128 answers so many are there already
PICTURES_AGAIN = 1  # questions about a picture that another one is about


@dataclass
class Material:
    """Rows below a folder, of which `size` at a time are a batch."""

    root: Path
    size: int
    pictures: str  # what they are
    rows: list[Row] = field(default_factory=list)

    def save(self) -> Material:
        path = self.root / "train/Pairs/original-00000-of-00001.parquet"
        write(path, COLUMNS, tuple(map(list, zip(*self.rows, strict=True))))
        return self

    @property
    def settings(self) -> list[str]:
        """How stage 2 is told of them."""
        return [
            f"data.root={self.root / 'train'}",
            f"data.image_root={self.root}",
            "data.sources.Pairs.rows=null",
            "data.verify_images=false",
            f"optim.batch_size_per_device={self.size}",
        ]


MOST_PIXELS = 10**8
OWN = (64, 330)  # pixels of the longer side


class Gallery:
    """Pictures and their captions, one after the other, each once.

    Args:
        root: the folder that they are written to.
        real: take the stamps if there are any.
    """

    def __init__(self, root: Path, real: bool = True) -> None:
        self.root, self.number = root, 0
        self.random = random.Random(0)
        self.found = stamps(Path(PACKAGE)) if real and Path(PACKAGE).is_dir() else []
        self.random.shuffle(self.found)
        self.what = "Tux Paint's stamps" if self.found else "drawn"

    def picture(self, side: int | None) -> tuple[str, str]:
        """The next one, opaque: its path below the root, and its caption.

        Args:
            side: of a square; None: as it is, its longer side of `OWN` pixels.
        """
        number, path = self.number, Path(f"pictures/{self.number}.png")
        self.number += 1
        found = self._own if side is None else self.found
        if number < len(found):
            name, caption = found[number]
            image = load_image(str(Path(PACKAGE) / name), MOST_PIXELS)
        else:  # the stamps are over
            image, caption = picture(number, side or self.random.randint(*OWN)), ""
        (self.root / path).parent.mkdir(parents=True, exist_ok=True)
        size = image.size if side is None else (side, side)
        image.resize(size).save(self.root / path)
        return str(path), caption

    @cached_property
    def _own(self) -> list[tuple[str, str]]:
        """The stamps of `OWN` pixels."""
        kept = []
        for name, caption in self.found:
            with open_picture(Path(PACKAGE) / name) as image:
                if OWN[0] <= max(image.size) <= OWN[1]:
                    kept.append((name, caption))
        return kept

    def words(self, count: int, begin: str = "") -> str:
        """So many words, of which no two are alike in a row of calls."""
        own = begin.split()[:count]
        more = self.random.choices(WORDS, k=max(0, count - len(own)))
        return " ".join([*own, *more])

    def captioned(self, count: int, side: int | None, words: tuple[int, int]) -> Iterator[Row]:
        """Pictures with captions, of so many words at least and at most."""
        for _ in range(count):
            path, caption = self.picture(side)
            text = self.words(self.random.randint(*words), f"{self.number} {caption}")
            yield (SHOWN, path, text, "")


def even(root: Path, size: int) -> Material:
    """Pictures of 64 pixels, captions of about 7 words."""
    gallery = Gallery(root)
    return Material(root, size, gallery.what, [*gallery.captioned(size, 64, (6, 8))]).save()


def mixed(root: Path, size: int) -> Material:
    """Captions of 4 to 90 words, pictures of 64 to 330 pixels in sizes and shapes of their own."""
    gallery = Gallery(root)
    return Material(root, size, gallery.what, [*gallery.captioned(size, None, (4, 90))]).save()


def duplicated(root: Path, size: int) -> Material:
    """Four batches with MMEB's rates of equal labels, answers and pictures."""
    gallery, draw = Gallery(root), random.Random(1)
    share = size / 128
    kinds = [gallery.words(draw.randint(1, 3), f"label{number}") for number in range(LABELS)]
    kinds = kinds[: max(2, round(LABELS * share))]
    rows: list[Row] = []
    for _ in range(size):
        path, _ = gallery.picture(64)
        question = f"{SHOWN}Represent the given image for classification.\n"
        rows.append((question, path, draw.choice(kinds), ""))
    answers = [f"answer {number}" for number in range(size)]
    again = max(1, round(ANSWERS_AGAIN * share))
    answers[:again] = draw.choices(answers[again:], k=again)
    shown = [gallery.picture(64)[0] for _ in range(size)]
    shown[:PICTURES_AGAIN] = shown[PICTURES_AGAIN : 2 * PICTURES_AGAIN]
    for path, answer in zip(shown, answers, strict=True):
        question = gallery.words(draw.randint(4, 10), answer.split()[-1])
        asked = f"{SHOWN}Represent the given image with the following question: {question}\n"
        rows.append((asked, path, answer, ""))
    ask = "Find an image caption describing the given everyday image."
    found = [*gallery.captioned(2 * size, 64, (7, 14))]
    rows += [(f"{SHOWN}{ask}\n", path, text, "") for _, path, text, _ in found[:size]]
    ask, own = (
        "Find me an everyday image that matches the given caption:",
        "Represent the given image.",
    )
    rows += [(f"{ask} {text}\n", "", f"{SHOWN}{own}\n", path) for _, path, text, _ in found[size:]]
    return Material(root, size, gallery.what, rows).save()
