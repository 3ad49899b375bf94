"""Every string that the model is asked with, in the chat format of its family.

The default preset is the paper's (UniME, section 3.2.2 and its published evaluation code): the
item, then "Summary above … in one word:", so that the last token's state sums the item up. Images
come first. The chat format is the processor's own template, or its backbone's where it has none.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from unime.chat_format import (
    carries_prompt,
    chat_frame,
    chat_template,
    media_tokens,
    shows_system,
    takes_empty_system,
)
from unime.errors import ConfigError

if TYPE_CHECKING:
    from unime.backbones import Backbone
    from unime.items import Item


@dataclass(frozen=True)
class Preset:
    """What the user says, by the kind of the item: ``{text}`` is its own text after its task
    instruction, ``{media}`` is "image", "video" or "image and video"."""

    text: str
    media: str
    both: str
    raw: bool = False  # no chat format; ``{images}`` are the image tokens
    system: str | None = None  # system turn where the item has no instruction; None: it has no turn
    silences: bool = False  # leaves out a system turn that the chat template would put in by itself


PRESETS = {
    # Paper 3.2.2 and its published evaluation code. It never asked about a video: "video" is ours.
    "unime": Preset(
        text="{text}\nSummary above sentence in one word:",
        media="Summary above {media} in one word:",
        both="{text}\nSummary above {media} and sentence in one word:",
    ),
    # The same without the default system turn of a template, half of the tokens of a short text.
    "unime-silent": Preset(
        text="{text}\nSummary above sentence in one word:",
        media="Summary above {media} in one word:",
        both="{text}\nSummary above {media} and sentence in one word:",
        silences=True,
    ),
    # UniME-V2's published demo, without a chat format; rows with image and text are MMEB's.
    "unime-v2": Preset(
        text="{text}",
        media="{images} Find an image caption describing the given {media}.",
        both="{images}\n{text}\n",
        raw=True,
    ),
    # VLM2Vec was trained on the very strings of MMEB's rows. This is the white space of most. Items
    # of the others hold what their row has between image and text and at the end, and no more: see
    # unime/mmeb_rows.py, _spacing, for the rows whose string is another one here.
    "vlm2vec": Preset(
        text="{text}",
        media="{images}\nRepresent the given {media}.\n",
        both="{images}\n{text}\n",
        raw=True,
    ),
    # E5-V's README and retrieval.py, its space at the end and its spelling: what it was trained on.
    "e5v": Preset(
        text="{text}\nSummary above sentence in one word: ",
        media="Summary above {media} in one word: ",
        both='Modify this {media} with "{text}", desribe modified {media} in one word: ',
    ),
    # The item alone, its task in the system turn (Qwen3-VL-Embedding's form and default).
    "instruct": Preset("{text}", "", "{text}", system="Represent the user's input."),
    # Nothing of ours: the chat template says it all, as that of a model that unime exported does.
    "chat": Preset("{text}", "", "{text}"),
}


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


def preset_named(name: str) -> Preset:
    if name not in PRESETS:
        raise ConfigError(f"inputs.prompt: got {name!r}, expected one of {', '.join(PRESETS)}")
    return PRESETS[name]


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
