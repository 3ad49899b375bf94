"""How large pictures and frames may get in a family's own processor, for the results."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

BUDGET = (  # what the processors of the families call their limits on pixels, tiles and patches
    *("size", "crop_size", "min_pixels", "max_pixels", "max_image_size", "image_grid_pinpoints"),
    *("min_patches", "max_patches", "num_crops", "do_image_splitting", "cap_pixels_per_frame"),
)


def pixel_budget(hf_processor: Any) -> dict[str, dict[str, Any]]:
    """How large an image or a frame may get in a processor, in its own words, for the results."""
    found: dict[str, dict[str, Any]] = {}
    for kind in ("image", "video"):
        part = getattr(hf_processor, f"{kind}_processor", None)
        limits = {name: _plain(getattr(part, name, None)) for name in BUDGET}
        found[kind] = {name: limit for name, limit in limits.items() if limit is not None}
    return {kind: limits for kind, limits in found.items() if limits}


def _plain(limit: Any) -> Any:
    """A limit as JSON value; sizes are small objects of transformers' own."""
    if limit is None or isinstance(limit, bool | int | list | tuple):
        return limit
    values = limit if isinstance(limit, Mapping) else vars(limit)
    return {name: value for name, value in values.items() if value is not None}
