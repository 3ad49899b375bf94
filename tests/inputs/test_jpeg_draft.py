"""JPEGs far above the resolution are decoded smaller if that is asked for, and nothing else is.

python -m pytest tests/inputs/test_jpeg_draft.py
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from unime.config import InputConfig
from unime.errors import ConfigError, DataError
from unime.inputs import picture_files
from unime.inputs.images import load_image
from unime.inputs.items import Item
from unime.inputs.media import MediaReader
from unime.inputs.resolution import Resolution

MOST = 50_000_000
SMOOTH = Image.linear_gradient("L").convert("RGB").rotate(20)


def saved(path: Path, size: tuple[int, int], **options: object) -> str:
    SMOOTH.resize(size).save(path, **options)
    return str(path)


@pytest.mark.parametrize(
    ("size", "resolution", "read"),
    [
        ((1600, 1200), "100x100", (400, 300)),  # a quarter: an eighth has less than 200 x 200
        ((1600, 1200), "100x160", (800, 600)),
        ((1600, 1200), "1000..30000", (400, 300)),  # 200 x 150 is what it becomes
        ((300, 300), "200x200", (300, 300)),
    ],
)
def test_it_keeps_twice_the_resolution(
    size: tuple[int, int], resolution: str, read: tuple[int, int], tmp_path: Path
) -> None:
    path, wanted = saved(tmp_path / "a.jpg", size), Resolution.parse(resolution)
    assert load_image(path, MOST, wanted).size == read
    shown = wanted.apply(load_image(path, MOST, wanted))
    whole = wanted.apply(load_image(path, MOST))
    assert shown.size == whole.size
    assert np.abs(np.asarray(shown, float) - np.asarray(whole, float)).mean() < 2


def test_a_turned_one_keeps_it_too(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[274] = 6
    path = saved(tmp_path / "a.jpg", (1600, 1200), exif=exif)
    assert load_image(path, MOST, Resolution.parse("100x140")).size == (300, 400)


def test_other_files_are_as_they_were(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.png", (1600, 1200))
    small = load_image(path, MOST, Resolution.parse("50x50"))
    assert small.tobytes() == load_image(path, MOST).tobytes()


def test_a_slow_one_is_refused_by_its_own_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = saved(tmp_path / "a.jpg", (1600, 1200), progressive=True)
    monkeypatch.setattr(picture_files, "PIXELS_OF_SCANS", 1600 * 1200)
    with pytest.raises(DataError, match="scans of 1600 x 1200 pixels"):
        load_image(path, MOST, Resolution.parse("50x50"))


def test_only_where_it_is_asked_for(tmp_path: Path, load_tiny) -> None:
    item = Item(images=(saved(tmp_path / "a.jpg", (1600, 1200), quality=30),))
    size = Resolution.parse("60x60")
    (whole,), _ = MediaReader(1, MOST, size, size)(item)
    (drafted,), _ = MediaReader(1, MOST, size, size, jpeg_draft=True)(item)
    assert whole.size == drafted.size and whole.tobytes() != drafted.tobytes()
    encoder = load_tiny("qwen2_vl", inputs=InputConfig(resolution="1000..4000", jpeg_draft=True))
    assert encoder.processor.read_media.jpeg_draft
    (seen,), _ = encoder.processor.read_media(item)
    assert seen.size == (200, 150)  # its processor brings that into the range


def test_it_belongs_to_a_resolution_and_to_what_a_model_was_trained_with() -> None:
    with pytest.raises(ConfigError, match="inputs.jpeg_draft: got True, expected false where"):
        InputConfig(jpeg_draft=True).filled()
    trained = {"resolution": "336x336", "jpeg_draft": True}
    assert InputConfig().filled(trained).jpeg_draft
    assert not InputConfig(jpeg_draft=False).filled(trained).jpeg_draft
