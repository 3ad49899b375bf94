"""Folders of real pictures, texts and PDF files, and an embedder that counts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from unime.embedder import Embedder, Prepared

COLOURS = {"red": (220, 30, 30), "green": (30, 180, 60), "blue": (30, 60, 220)}


class Counting(Embedder):
    """A tiny model that says how many items it embedded."""

    embedded = 0

    def embed(self, prepared: Sequence[Prepared], device: int = 0) -> Any:
        self.embedded += len(prepared)
        return super().embed(prepared, device)

    def since(self) -> int:
        count, self.embedded = self.embedded, 0
        return count


@pytest.fixture(scope="session")
def counting(tiny_model: Callable[..., Path]) -> Counting:
    return Counting(tiny_model("qwen2_vl"), device="cpu")


def drawing(seed: int) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    return Image.fromarray(pixels).resize((56, 56), Image.Resampling.NEAREST)


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Four pictures of four formats, a text of several passages, a PDF file of three pages, and
    what is none of them."""
    folder = tmp_path / "pictures"
    (folder / "below").mkdir(parents=True)
    for seed, name in enumerate(("a.png", "b.tif", "below/c.webp", "below/d.JPG")):
        drawing(seed).save(folder / name)
    text = "\n\n".join(f"Paragraph {n} says that {n * n} is a square." for n in range(40))
    (folder / "notes.md").write_text(text)
    pages = [drawing(10 + n) for n in range(3)]
    pages[0].save(folder / "pages.pdf", save_all=True, append_images=pages[1:])
    (folder / "film.mp4").write_bytes(b"no picture")
    (folder / ".hidden.png").write_bytes(b"no picture")
    return folder
