"""Every string that the model is asked with, in the chat format of its family.

The default preset is the paper's (UniME, section 3.2.2 and its published evaluation code): the
item, then "Summary above … in one word:", so that the last token's state sums the item up. Images
come first. The chat format is the processor's own template, or its backbone's where it has none.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from unime.backbones.backbone import Backbone
from unime.inputs.items import Item
from unime.inputs.presets import preset_named
from unime.models.chat_format import (
    carries_prompt,
    chat_frame,
    chat_template,
    media_tokens,
    shows_system,
    takes_empty_system,
)


def render(
    item: Item,
    processor: Any,
    backbone: Backbone,
    preset: str,
    media: Sequence[str] | None = None,
) -> str:
    """The whole prompt of `item`, one placeholder for each of `media`, ready for `processor`.

    Args:
        media: "image" or "video" for everything that the processor gets beside the prompt; None:
            those of the item.

    Raises:
        ConfigError: unknown preset, or a chat template that cannot be used.
    """
    forms = preset_named(preset)
    if media is None:
        media = ("image",) * len(item.images) + ("video",) * bool(item.video)
    if forms.raw:
        return user_text(item, preset, media, media_tokens(media, processor, backbone))
    system = None
    carries = carries_prompt(processor)
    if carries:  # it takes the task as a system turn, whatever it makes of that
        system, item = item.instruction or None, replace(item, instruction="")
    elif forms.system is not None:
        system = item.instruction or forms.system
    words, template = user_text(item, preset, media), chat_template(processor, backbone)
    if system and not shows_system(processor, template, system):
        words, system = "\n".join(filter(None, (system, words))), None
    elif forms.silences and not carries and takes_empty_system(processor, template):
        system = ""
    frame = chat_frame(processor, template, tuple(media), system, bool(words) or not carries)
    words = words.lstrip() if frame.trims_left else words
    words = words.rstrip() if frame.trims_right else words
    return frame.before + words + frame.after


def user_text(item: Item, preset: str, media: Sequence[str], tokens: str = "") -> str:
    """What the user says: the item's text and the request that sums it up, and in a raw preset the
    image tokens, with the white space of the item's source if that is not the usual one."""
    forms = preset_named(preset)
    in_system = forms.system is not None
    text = "\n".join(filter(None, ("" if in_system else item.instruction, item.text)))
    shown = " and ".join(kind for kind in ("image", "video") if kind in media)
    if forms.raw and text and item.spacing is not None:
        between, after = item.spacing
        return (tokens + between if shown else "") + text + after
    form = forms.text if not shown else forms.both if text else forms.media
    form = form.replace("{media}", shown).replace("{images}", tokens)
    before, found, after = form.partition("{text}")  # text last: its own braces are only text
    return before + (text if found else "") + after
