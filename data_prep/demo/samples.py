"""A few of the demo's held-out drawings, for who has not run it: named by what they show."""

from __future__ import annotations

import io
import random
from pathlib import Path

from PIL import Image

from data_prep.demo.emoji import load_concepts
from data_prep.demo.tasks import caption_of, draw
from unime.runtime.files import write_aside

COUNT = 120


def draw_samples(folder: Path, count: int = COUNT) -> list[str]:
    """Write drawings, "a bat on a pink background.png", that are not there yet; always the same.

    Returns:
        What they show.

    Raises:
        ConfigError: a package with the drawings is missing.
    """
    rng = random.Random(0)
    concepts = [one for one in load_concepts() if one.split == "test" and not one.is_flag]
    folder.mkdir(parents=True, exist_ok=True)
    captions = []
    for concept in rng.sample(concepts, min(count, len(concepts))):
        pixels, background = draw(rng, concept)
        captions.append(caption_of(concept, background))
        held = io.BytesIO()
        Image.fromarray(pixels).save(held, "PNG")
        write_aside(folder / f"{captions[-1]}.png", held.getvalue())
    return captions
