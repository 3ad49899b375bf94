"""Every string that the model is asked with, in the chat format of its family.

The default preset is the paper's (UniME, section 3.2.2 and its published evaluation code): the
item, then "Summary above … in one word:", so that the last token's state sums the item up. Images
come first. The chat format is the processor's own template, or its backbone's where it has none.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from unime.config import ConfigError

if TYPE_CHECKING:
    from unime.backbones import Backbone
    from unime.items import Item


@dataclass(frozen=True)
class Preset:
    """What follows the images of an item, by its kind; ``{text}`` is the item's own text."""

    text: str
    image: str
    both: str


PRESETS = {
    "unime": Preset(
        text="{text}\nSummary above sentence in one word:",
        image="Summary above image in one word:",
        both="{text}\nSummary above image and sentence in one word:",
    ),
}

# Llama 3.2's template tells the model the date, by which an embedding would change from day to day;
# this is the one that the template falls back on.
TODAY = "26 Jul 2024"
_TEXT_GOES_HERE = "@@unime-item-text@@"


def render(item: Item, processor: Any, backbone: Backbone, preset: str) -> str:
    """The whole prompt of `item`, one image placeholder per image, ready for `processor`.

    Raises:
        ConfigError: unknown preset, or a chat template that cannot be used.
    """
    text = user_text(item, preset)
    before, after = chat_frame(processor, backbone, len(item.images))
    return before + text + after


def preset_named(name: str) -> Preset:
    if name not in PRESETS:
        raise ConfigError(f"inputs.prompt: got {name!r}, expected one of {', '.join(PRESETS)}")
    return PRESETS[name]


def user_text(item: Item, preset: str) -> str:
    """What the user says in the chat: the item's text and the request that sums it up."""
    forms = preset_named(preset)
    if not item.images:
        return forms.text.format(text=item.text)
    return forms.both.format(text=item.text) if item.text else forms.image


@lru_cache(maxsize=64)
def chat_frame(processor: Any, backbone: Backbone, num_images: int) -> tuple[str, str]:
    """What the chat template puts before and after the user's text, for so many images.

    The template runs once per number of images instead of once per item, and never sees the text.
    """
    own = getattr(processor, "chat_template", None)
    if own is None and backbone.chat_template is None:
        raise ConfigError(
            f"model.name: the processor has no chat template, and {backbone.family!r} has none in"
            " unime/backbones.py"
        )
    content: list[dict[str, str]] = [{"type": "image"} for _ in range(num_images)]
    content.append({"type": "text", "text": _TEXT_GOES_HERE})
    template = own or backbone.chat_template
    rendered = processor.apply_chat_template(
        [{"role": "user", "content": content}],
        chat_template=None if own else backbone.chat_template,
        tokenize=False,
        add_generation_prompt=True,
        **({"date_string": TODAY} if "date_string" in str(template) else {}),
    )
    parts = rendered.split(_TEXT_GOES_HERE)
    if len(parts) != 2:
        raise ConfigError(
            f"model.name: its chat template shows the user's text {len(parts) - 1} times, not once"
        )
    return parts[0], parts[1]
