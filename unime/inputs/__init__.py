"""What is embedded: items, their pictures, and what a model is asked beside them."""

from unime.public import hand_on

__getattr__, __dir__, __all__ = hand_on(
    __name__,
    {
        "images": ["load_image"],
        "items": ["Item", "Pair", "video_frames"],
        "presets": ["PRESETS"],
        "resolution": ["Resolution"],
    },
)
