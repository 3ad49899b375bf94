"""Every string that the model is asked with, in the chat format of its family.

The default preset is the paper's (UniME, section 3.2.2 and its published evaluation code): the
item, then "Summary above … in one word:", so that the last token's state sums the item up. Images
come first. The chat format is the processor's own template, or its backbone's where it has none.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from unime.config import ConfigError

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


PRESETS = {
    # Paper 3.2.2 and its published evaluation code. It never asked about a video: "video" is ours.
    "unime": Preset(
        text="{text}\nSummary above sentence in one word:",
        media="Summary above {media} in one word:",
        both="{text}\nSummary above {media} and sentence in one word:",
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

# E5-V on Llama-3, whose processor has no template of its own.
LLAMA3_TEMPLATE = (
    "{% for message in messages | selectattr('role', 'equalto', 'user') %}"
    "{{ '<|start_header_id|>user<|end_header_id|>\n\n' }}"
    "{% for part in message['content'] | selectattr('type', 'equalto', 'image') %}"
    "{{ '<image>\n' }}{% endfor %}"
    "{% for part in message['content'] | selectattr('type', 'equalto', 'text') %}"
    "{{ part['text'] }}{% endfor %}{{ '<|eot_id|>' }}{% endfor %}"
    "{% if add_generation_prompt %}"
    "{{ '<|start_header_id|>assistant<|end_header_id|>\n\n \n' }}{% endif %}"
)
CARRIES_PROMPT = "{#- unime: this template carries the prompt -#}"  # begins those of export.py

# Llama 3.2's template tells the model the date, by which an embedding would change from day to day;
# this is the one that the template falls back on.
TODAY = "26 Jul 2024"
_TEXT_GOES_HERE = "@@unime-item-text@@"
_SPACE = "\v"  # which a template has nowhere, and trims like any other


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
    frame = chat_frame(processor, template, tuple(media), system, bool(words) or not carries)
    words = words.lstrip() if frame.trims_left else words
    words = words.rstrip() if frame.trims_right else words
    return frame.before + words + frame.after


def preset_named(name: str) -> Preset:
    if name not in PRESETS:
        raise ConfigError(f"inputs.prompt: got {name!r}, expected one of {', '.join(PRESETS)}")
    return PRESETS[name]


def check_prompt(preset: str, processor: Any) -> None:
    """
    Raises:
        ConfigError: a model that unime exported, asked with another prompt than its own.
    """
    if carries_prompt(processor) and preset != "chat":
        raise ConfigError(
            f"inputs.prompt: got {preset!r}, expected chat (or null): the chat template of this"
            " exported model carries the prompt that it was trained with"
        )


def check_carries(processor: Any) -> None:
    """
    Raises:
        ConfigError: an exported model with a processor whose template does not carry its prompt.
    """
    if not carries_prompt(processor):
        raise ConfigError(
            "model.processor: its chat template does not carry the prompt that this exported model"
            " was trained with; leave it out, or name a prompt"
        )


def carries_prompt(processor: Any) -> bool:
    return str(_own_template(processor)).startswith(CARRIES_PROMPT)


def _own_template(processor: Any) -> str | None:
    """The processor's; that of its tokenizer, which may take no images, only if it is ours (Phi-4's
    processor loses the one that it was saved with)."""
    own = getattr(processor, "chat_template", None)
    if own is not None:
        if isinstance(own, dict) and "default" not in own:
            raise ConfigError(f"model.name: of its chat templates {list(own)}, none is the default")
        return own["default"] if isinstance(own, dict) else own
    own = getattr(getattr(processor, "tokenizer", None), "chat_template", None)
    return own if str(own).startswith(CARRIES_PROMPT) else None


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


def media_tokens(media: Sequence[str], processor: Any, backbone: Backbone) -> str:
    """The bare tokens that the processor replaces with each image or video, without a chat."""
    tokens = {"image": backbone.image_token or getattr(processor, "image_token", None)}
    tokens["video"] = getattr(processor, "video_token", None)
    for kind in media:
        if not tokens[kind]:
            raise ConfigError(f"inputs.prompt: no token for a {kind} known of {backbone.family!r}")
    # apart, or Qwen-VL would take two images for one
    return "\n".join(str(tokens[kind]).format(n=n + 1) for n, kind in enumerate(media))


def chat_template(processor: Any, backbone: Backbone) -> str:
    """The chat format of a model: its processor's, or what is known of its family.

    Raises:
        ConfigError: neither has one.
    """
    own = _own_template(processor)
    if own is not None:
        return own
    if "<|start_header_id|>" in getattr(processor, "tokenizer", processor).get_added_vocab():
        return LLAMA3_TEMPLATE
    if backbone.chat_template is None:
        raise ConfigError(
            f"model.name: the processor has no chat template, and {backbone.family!r} has none in"
            " unime/backbones.py"
        )
    return backbone.chat_template


@dataclass(frozen=True)
class Frame:
    """What a chat template puts around the user's text, and whether it trims that."""

    before: str
    after: str
    trims_left: bool = False
    trims_right: bool = False


@lru_cache(maxsize=256)
def chat_frame(
    processor: Any,
    template: str,
    media: tuple[str, ...],
    system: str | None = None,
    has_text: bool = True,
) -> Frame:
    """What a template puts around the user's text, beside such media and after a system turn.

    The template runs once per kind of item instead of once per item, and never sees the text.

    Raises:
        ConfigError: it fails, or does not show the text.
    """
    try:
        rendered = _rendered(processor, template, media, system, has_text)
    except Exception as error:  # jinja2's own, or raised by the template
        raise ConfigError(f"model.name: its chat template fails: {error}") from error
    if not has_text:
        return Frame(rendered, "")
    before, *rest = rendered.split(_TEXT_GOES_HERE)
    if len(rest) != 1:
        raise ConfigError(
            f"model.name: its chat template shows the user's text {len(rest)} times, not once"
        )
    left, right = before.endswith(_SPACE), rest[0].startswith(_SPACE)
    return Frame(before.removesuffix(_SPACE), rest[0].removeprefix(_SPACE), not left, not right)


@lru_cache(maxsize=256)
def shows_system(processor: Any, template: str, system: str) -> bool:
    """Whether a template says a system turn, to texts and to images alike: some drop it, some
    refuse it beside an image, and some show the Python list that it is."""
    try:
        said = [_rendered(processor, template, media, system) for media in ((), ("image",))]
    except Exception:  # see chat_frame, which would fail without a system turn too
        return False
    return all(system in words and "'type': 'text'" not in words for words in said)


def _rendered(
    processor: Any,
    template: str,
    media: tuple[str, ...],
    system: str | None,
    has_text: bool = True,
) -> str:
    content = [{"type": kind} for kind in media]
    if has_text:
        content.append({"type": "text", "text": f"{_SPACE}{_TEXT_GOES_HERE}{_SPACE}"})
    messages: list[dict[str, Any]] = [{"role": "user", "content": content}]
    if system is not None:
        messages.insert(0, {"role": "system", "content": [{"type": "text", "text": system}]})
    told: dict[str, Any] = {"date_string": TODAY} if "date_string" in template else {}
    if template.startswith(CARRIES_PROMPT):
        told["asked_by_unime"] = True  # see prompt_template.py
    return processor.apply_chat_template(
        messages,
        chat_template=template,  # also where it is the processor's own, which some replace
        tokenize=False,
        add_generation_prompt=True,
        **told,
    )
