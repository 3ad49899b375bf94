"""A picture of what a model finds: each text query with the images nearest to it."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from accelerate import Accelerator
from PIL import Image, ImageDraw, ImageFont

from unime.config import InputConfig
from unime.inputs.images import load_image
from unime.inputs.items import Item
from unime.models.encoder import Encoder
from unime.retrieval.encoding import encode_items
from unime.retrieval.ranking import rank_targets
from unime.retrieval.unime_embedder import UnimeEmbedder
from unime.runtime.files import write_aside

TILE, GAP, MARGIN, HEADING = 112, 12, 20, 34
RIGHT, WRONG, INK = (34, 139, 84), (205, 205, 205), (25, 25, 25)


@dataclass(frozen=True)
class Answer:
    """One query and the images found for it, best first."""

    query: str
    images: list[str]
    right: list[bool]


def answer_queries(
    encoder: Encoder,
    queries: Sequence[Item],
    titles: Sequence[str],
    gallery: Sequence[Item],
    is_right: Callable[[int, int], bool],
    count: int = 6,
    batch_size: int = 64,
) -> list[Answer]:
    """Search `gallery` (images) for every query.

    Args:
        titles: how each query is shown.
        is_right: whether image number j answers query number i.
    """
    accelerator = Accelerator(cpu=next(encoder.parameters()).device.type == "cpu")
    embedder = UnimeEmbedder(encoder)
    asked = encode_items(accelerator, embedder, queries, batch_size)  # (Q, D)
    shown = encode_items(accelerator, embedder, gallery, batch_size)  # (N, D)
    found = rank_targets(asked, shown, depth=count).targets.tolist()  # (Q, count)
    return [
        Answer(title, [gallery[j].images[0] for j in row], [is_right(i, j) for j in row])
        for i, (title, row) in enumerate(zip(titles, found, strict=True))
    ]


def draw_sheet(answers: Sequence[Answer], path: Path) -> None:
    """One row a query; right images have a green frame. Written aside, then renamed."""
    columns = max(len(answer.images) for answer in answers)
    row_height = HEADING + TILE + GAP
    width = 2 * MARGIN + columns * (TILE + GAP) - GAP
    height = 2 * MARGIN + len(answers) * row_height - GAP
    sheet = Image.new("RGB", (width, height), "white")
    pen = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(size=18)
    for number, answer in enumerate(answers):
        top = MARGIN + number * row_height
        pen.text((MARGIN, top), f"“{answer.query}”", fill=INK, font=font)
        for place, (image, right) in enumerate(zip(answer.images, answer.right, strict=True)):
            corner = (MARGIN + place * (TILE + GAP), top + HEADING)
            picture = load_image(image, InputConfig().max_image_pixels)
            sheet.paste(picture.resize((TILE, TILE), Image.Resampling.LANCZOS), corner)
            box = (corner[0] - 4, corner[1] - 4, corner[0] + TILE + 3, corner[1] + TILE + 3)
            pen.rectangle(box, outline=RIGHT if right else WRONG, width=4 if right else 1)
    held = io.BytesIO()
    sheet.save(held, format="PNG")
    write_aside(path, held.getvalue())
