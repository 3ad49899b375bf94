"""A chat template that carries the whole prompt, for programs that know nothing of presets.

Sentence-transformers, vLLM and others hand a model's template the messages and take what it says.
So an exported model's template first makes of them what prompts.render makes of an item, and then
goes on with the model's own template, word for word.
"""

from __future__ import annotations

import re
from typing import Any

from unime.backbones.backbone import Backbone
from unime.export.templates import rendered
from unime.inputs.presets import preset_named
from unime.models.chat_format import (
    CARRIES_PROMPT,
    TODAY,
    chat_template,
    media_tokens,
    shows_system,
    takes_empty_system,
)

# What transformers puts at the end of a last turn that is to be continued, and cuts off from there:
# clients of Qwen3-VL-Embedding send an empty assistant turn, to be continued.
CONTINUED = "CONTINUE_FINAL_MESSAGE_TAG "
MANY_TOKENS = 400  # Gemma has 6,000 unused ones, which nobody writes


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
    in_turn = forms.system is not None and shows_system(processor, own, forms.system)
    silenced = forms.system is None and forms.silences and takes_empty_system(processor, own)
    return CARRIES_PROMPT + rendered(
        "chat_template.jinja",
        forms=forms,
        own=own.removesuffix("\n"),  # as Jinja reads it
        continued=CONTINUED,
        tokens=tokens,
        limits=backbone.st_limits,
        in_turn=in_turn,
        silenced=silenced,
        today=TODAY,
        image=media_tokens(["image"], processor, backbone) if forms.raw else "",
        video=media_tokens(["video"], processor, backbone) if forms.raw and backbone.video else "",
    )
