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
        limits = {name: getattr(part, name, None) for name in BUDGET}
        found[kind] = {
            name: dict(limit) if isinstance(limit, Mapping) else limit
            for name, limit in limits.items()
            if isinstance(limit, Mapping | bool | int | list | tuple)
        }
    return {kind: limits for kind, limits in found.items() if limits}
