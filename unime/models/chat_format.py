"""What a family's chat template puts around the words of a prompt, and where that template is.

A template runs once per kind of item, not once per item, and never sees the text.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from unime.backbones.backbone import Backbone
from unime.backbones.chat_templates import LLAMA3_TEMPLATE
from unime.errors import ConfigError
from unime.runtime.bounded import OutOfBoundsError, WorkError, bounded

CARRIES_PROMPT = "{#- unime: this template carries the prompt -#}"  # begins those of export.py

# Llama 3.2's template tells the model the date, by which an embedding would change from day to day;
# this is the one that the template falls back on.
TODAY = "26 Jul 2024"
# Goes before a template that takes a message's content as one text.
FLAT = """\
{%- set flat = namespace(messages=[]) -%}
{%- for message in messages -%}
{%- set said = namespace(text='') -%}
{%- for part in ([message['content']] if message['content'] is string else message['content']) -%}
{%- if part is string -%}{%- set said.text = said.text ~ part -%}
{%- elif part['type'] == 'image' -%}{%- set said.text = said.text ~ IMAGE -%}
{%- elif part['type'] == 'text' -%}{%- set said.text = said.text ~ part['text'] -%}
{%- endif -%}{%- endfor -%}
{%- set turn = {'role': message['role'], 'content': said.text} -%}
{%- set flat.messages = flat.messages + [turn] -%}
{%- endfor -%}
{%- set messages = flat.messages -%}
"""
_TEXT_GOES_HERE = "@@unime-item-text@@"
_SPACE = "\v"  # which a template has nowhere, and trims like any other


def check_prompt(preset: str, processor: Any) -> None:
    """Refuse to ask an exported model in another way than its chat template does."""
    if carries_prompt(processor) and preset != "chat":
        raise ConfigError(
            f"inputs.prompt: got {preset!r}, expected chat (or null): the chat template of this"
            " exported model carries the prompt that it was trained with"
        )


def check_carries(processor: Any) -> None:
    """Refuse an exported model's processor whose template does not carry the prompt."""
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
    own = _default(getattr(processor, "chat_template", None))
    if own is not None:
        return own
    own = _default(getattr(getattr(processor, "tokenizer", None), "chat_template", None))
    return own if str(own).startswith(CARRIES_PROMPT) else None


def _default(templates: Any) -> str | None:
    if isinstance(templates, dict) and "default" not in templates:
        found = list(templates)
        raise ConfigError(f"model.name: of its chat templates {found}, none is the default")
    return templates["default"] if isinstance(templates, dict) else templates


def _tokenizers_template(processor: Any, backbone: Backbone) -> str | None:
    """That of the tokenizer of a processor that has none, where the family's language model may be
    any: its own words are then better than the family's."""
    own = _default(getattr(getattr(processor, "tokenizer", None), "chat_template", None))
    if own is None or not (backbone.any_language_model or backbone.chat_template is None):
        return None
    return _taking_parts(processor, own, backbone, needs_token=True)


@lru_cache(maxsize=16)
def _taking_parts(
    processor: Any, template: str, backbone: Backbone, needs_token: bool = False
) -> str | None:
    """A template that takes a message as a list of parts: as it is, or, if it takes texts only (as
    those of language models do), with the images' tokens put into them; None: neither.

    Args:
        needs_token: it has to say the image's token, whatever else it may say for it.
    """
    token = backbone.image_token or getattr(processor, "image_token", None)
    flat = FLAT.replace("IMAGE", json.dumps(f"{token}\n")) + template
    for tried in (template, flat) if token else (template,):
        try:
            said = _rendered(processor, tried, ("image",))
        except WorkError:  # it takes texts only, or fails with them too (see chat_frame)
            continue
        told = said.count(_TEXT_GOES_HERE) == 1 and "'type'" not in said
        if told and (said.count(str(token)) == 1 or not (needs_token or tried is flat)):
            return tried
    return None


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
    """The chat format of a model: its processor's, its tokenizer's where that may be any, or what
    is known of its family."""
    own = _own_template(processor)
    if own is not None:
        carries = own.startswith(CARRIES_PROMPT)
        return own if carries else _taking_parts(processor, own, backbone) or own
    if (tokenizers := _tokenizers_template(processor, backbone)) is not None:
        return tokenizers
    if "<|start_header_id|>" in getattr(processor, "tokenizer", processor).get_added_vocab():
        return LLAMA3_TEMPLATE
    if backbone.chat_template is None:
        raise ConfigError(
            f"model.name: the processor has no chat template, and {backbone.family!r} has none in"
            " unime/backbones/families.py"
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

    Raises:
        ConfigError: it fails, does not end, or does not show the text.
    """
    try:
        rendered = _rendered(processor, template, media, system, has_text)
    except WorkError as error:  # jinja2's own, or raised by the template
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


def shows_system(processor: Any, template: str, system: str) -> bool:
    """Whether a template says a system turn, to texts and to images alike: some drop it, some
    refuse it beside an image, and some show the Python list that it is."""
    said = _said_after(processor, template, system)
    return bool(said) and all(system in words and "'type': 'text'" not in words for words in said)


def takes_empty_system(processor: Any, template: str) -> bool:
    """Whether an empty system turn leaves out one that a template would put in by itself."""
    empty, own = (_said_after(processor, template, system) for system in ("", None))
    pairs = [(len(one), len(other)) for one, other in zip(empty, own, strict=False)]
    return all(one <= other for one, other in pairs) and any(one < other for one, other in pairs)


@lru_cache(maxsize=256)
def _said_after(processor: Any, template: str, system: str | None) -> tuple[str, ...]:
    """What a template says to a text and to an image after a system turn; nothing where it fails
    (see chat_frame, which would fail without one too)."""
    kinds: tuple[tuple[str, ...], ...] = ((), ("image",))
    try:
        return tuple(_rendered(processor, template, media, system) for media in kinds)
    except WorkError:
        return ()


def _rendered(
    processor: Any,
    template: str,
    media: tuple[str, ...],
    system: str | None = None,
    has_text: bool = True,
) -> str:
    """What a template says, which may be a stranger's program of loops within loops.

    Raises:
        WorkError: it fails.
        ConfigError: it does not end.
    """
    content = [{"type": kind} for kind in media]
    if has_text:
        content.append({"type": "text", "text": f"{_SPACE}{_TEXT_GOES_HERE}{_SPACE}"})
    messages: list[dict[str, Any]] = [{"role": "user", "content": content}]
    if system is not None:
        messages.insert(0, {"role": "system", "content": [{"type": "text", "text": system}]})
    told: dict[str, Any] = {"date_string": TODAY} if "date_string" in template else {}
    if "asked_by_unime" in template:
        told["asked_by_unime"] = True  # see unime/export/chat_template.jinja

    def work() -> str:
        said: str = processor.apply_chat_template(
            messages,
            chat_template=template,  # also where it is the processor's own, which some replace
            tokenize=False,
            add_generation_prompt=True,
            **told,
        )
        return said

    try:
        return str(bounded(work))
    except OutOfBoundsError as error:
        raise ConfigError(f"model.name: its chat template {error}") from None
