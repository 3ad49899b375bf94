"""A chat template that carries the whole prompt, for programs that know nothing of presets.

Sentence-transformers, vLLM and others hand a model's template the messages and take what it says.
So an exported model's template first makes of them what prompts.render makes of an item, and then
goes on with the model's own template, word for word.
"""

from __future__ import annotations

import json
import re
from typing import Any

from unime.backbones.backbone import Backbone
from unime.inputs.presets import preset_named
from unime.models.chat_format import (
    CARRIES_PROMPT,
    TODAY,
    chat_template,
    media_tokens,
    shows_system,
    takes_empty_system,
)

MANY_TOKENS = 400  # Gemma has 6,000 unused ones, which nobody writes

# The first block collects what the messages hold, the second says it; whitespace stays inside tags.
_COLLECT = """\
{%- set item = namespace(text='', instruction='', images=0, videos=0) -%}
{%- for message in messages -%}
{%- set content = message['content'] -%}
{%- for part in ([{'type': 'text', 'text': content}] if content is string else content) -%}
{%- if part['type'] == 'image' -%}{%- set item.images = item.images + 1 -%}
{%- elif part['type'] == 'video' -%}{%- set item.videos = item.videos + 1 -%}
{%- elif part['type'] == 'text' and message['role'] == 'system' -%}
{%- set item.instruction = [item.instruction, part['text']] | select | join('\\n') -%}
{%- elif part['type'] == 'text' and message['role'] == 'user' -%}
{%- set item.text = [item.text, part['text']] | select | join('\\n') -%}
{%- elif part['type'] == 'text' -%}{{- raise_exception('an item to embed has no answer') -}}
{%- endif -%}{%- endfor -%}{%- endfor -%}
{%- for token in CONTROL_TOKENS -%}
{%- set apart = token[:1] ~ ' ' ~ token[1:] -%}
{%- set item.text = item.text | replace(token, apart) -%}
{%- set item.instruction = item.instruction | replace(token, apart) -%}
{%- endfor -%}"""
_REFUSE = """\
{%- if asked_by_unime is not defined and CONDITION -%}
{{- raise_exception('WHAT: only unime embeds them with this model: WHY') -}}
{%- endif -%}"""
_CONDITIONS = {
    "text": "item.images == 0 and item.videos == 0",
    "several images": "item.images > 1",
    "video": "item.videos > 0",
}
_SAY = """\
{%- set text = [INSTRUCTION, item.text] | select | join('\\n') -%}
{%- set shown = (['image'] * (item.images > 0) + ['video'] * (item.videos > 0)) | join(' and ') -%}
{%- set form = (TEXT_FORM if not shown else BOTH_FORM if text else MEDIA_FORM) -%}
{%- set form = form | replace('{media}', shown) | replace('{images}', IMAGE_TOKENS) -%}
{%- set form = form.partition('{text}') -%}
{%- set words = form[0] ~ (text if form[1] else '') ~ form[2] -%}"""
_CHAT = """\
{%- set media = [{'type': 'image'}] * item.images + [{'type': 'video'}] * item.videos -%}
{%- set user = {'role': 'user', 'content': media + [{'type': 'text', 'text': words}]} -%}
{%- set messages = SYSTEM_TURN + [user] -%}
{%- set add_generation_prompt = true %}"""
_SYSTEM_TURN = (
    "[{'role': 'system', 'content': [{'type': 'text', 'text': item.instruction or DEFAULT}]}]"
)


_EMPTY_TURN = "[{'role': 'system', 'content': [{'type': 'text', 'text': ''}]}]"


def carrying_template(processor: Any, backbone: Backbone, preset: str, tokens: list[str]) -> str:
    """The template of a model trained with `preset`, which says what prompts.render says.

    Args:
        tokens: control tokens, which a text may not hold (``ItemProcessor.control_tokens``).

    Raises:
        ConfigError: the model has no chat template.
    """
    forms = preset_named(preset)
    own = "" if forms.raw else chat_template(processor, backbone)
    if own.startswith(CARRIES_PROMPT):  # exported before
        return own
    if len(tokens) > MANY_TOKENS:
        tokens = [token for token in tokens if not re.search("unused|reserved", token)]
    collect = _COLLECT.replace("CONTROL_TOKENS", json.dumps(tokens))
    for kind, why in backbone.st_limits:
        if kind in _CONDITIONS:
            refuse = _REFUSE.replace("CONDITION", _CONDITIONS[kind]).replace("WHAT", kind)
            collect += "\n" + refuse.replace("WHY", why)
    in_system = forms.system is not None
    in_turn = forms.system is not None and shows_system(processor, own, forms.system)
    instruction, system_turn, image_tokens = "item.instruction", "[]", "''"
    if in_system:
        default = json.dumps(forms.system)
        instruction = "''" if in_turn else f"(item.instruction or {default})"
        system_turn = _SYSTEM_TURN.replace("DEFAULT", default) if in_turn else "[]"
    elif forms.silences and takes_empty_system(processor, own):
        system_turn = _EMPTY_TURN
    if forms.raw:
        image = media_tokens(["image"], processor, backbone)
        video = media_tokens(["video"], processor, backbone) if backbone.video else ""
        both = f"[{json.dumps(image)}] * item.images + [{json.dumps(video)}] * item.videos"
        image_tokens = f"(({both}) | join('\\n'))"
    say = (
        _SAY.replace("INSTRUCTION", instruction)
        .replace("TEXT_FORM", json.dumps(forms.text))
        .replace("BOTH_FORM", json.dumps(forms.both))
        .replace("MEDIA_FORM", json.dumps(forms.media))
        .replace("IMAGE_TOKENS", image_tokens)
    )
    if forms.raw:
        return CARRIES_PROMPT + collect + say + "{{- words -}}"
    chat = _CHAT.replace("SYSTEM_TURN", system_turn)
    if "date_string" in own:
        chat = f"{{%- set date_string = {json.dumps(TODAY)} -%}}\n{chat}"
    return CARRIES_PROMPT + collect + say + chat + own
