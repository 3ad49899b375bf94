"""The chat formats of the released checkpoints, for tiny models of their families.

llava, llava_next, paligemma and phi4_multimodal are not here: their entries in
unime/backbones/families.py hold them.
"""

from __future__ import annotations


def _parts(text: str = "part['text']", **media: str) -> str:
    """The parts of a message in their order."""
    branches = "".join(
        f"{{% elif part['type'] == '{kind}' %}}{{{{ {shown} }}}}" for kind, shown in media.items()
    )
    return (
        "{% for part in message['content'] %}{% if part['type'] == 'text' %}"
        f"{{{{ {text} }}}}{branches}{{% endif %}}{{% endfor %}}"
    )


def _turns(parts: str, system: str = "", after_role: str = "'\n'") -> str:
    return (
        f"{{% for message in messages %}}{system}{{{{ '<|im_start|>' + message['role'] +"
        f" {after_role} }}}}{parts}{{{{ '<|im_end|>\n' }}}}{{% endfor %}}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
    )


_QWEN = _parts(
    image="'<|vision_start|><|image_pad|><|vision_end|>'",
    video="'<|vision_start|><|video_pad|><|vision_end|>'",
)
_QWEN_SYSTEM = (
    "{% if loop.first and message['role'] != 'system' %}"
    "{{ '<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n' }}{% endif %}"
)
_IDEFICS = (
    "<|im_start|>{% for message in messages %}{{ message['role'] | capitalize + ':' }}"
    + "{space}"
    + _parts(image="'<image>'")
    + "{{ '<end_of_utterance>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}"
)
_SPACE = "{% if message['content'][0]['type'] != 'image' %}{{ ' ' }}{% endif %}"
_LLAMA_TURN = "'<|start_header_id|>' + {role} + '<|end_header_id|>\n\n'"

CHAT_TEMPLATES = {
    "llava_onevision": _turns(
        _parts("'\n' + part['text']", image="'<image>'", video="'<video>'"), after_role="' '"
    ),
    "qwen2_vl": _turns(_QWEN, _QWEN_SYSTEM),
    "qwen2_5_vl": _turns(_QWEN, _QWEN_SYSTEM),
    "qwen3_vl": _turns(_QWEN),
    "idefics3": _IDEFICS.replace("{space}", ""),
    "smolvlm": _IDEFICS.replace("{space}", _SPACE),
    "internvl": _turns(_parts(image="'<IMG_CONTEXT>\n'", video="'<video>\n'")),
    "gemma3": "{{ bos_token }}{% for message in messages %}"
    "{{ '<start_of_turn>' + message['role'] + '\n' }}"
    + _parts("part['text'] | trim", image="'<start_of_image>'")
    + "{{ '<end_of_turn>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}",
    # the day that a text is asked on is in its prompt, and an image excludes the system's turn
    "mllama": "{{ bos_token }}{% if not date_string is defined %}"
    "{% set date_string = strftime_now('%d %b %Y') %}{% endif %}"
    "{% if not messages[0]['content'] | selectattr('type', 'equalto', 'image') | list %}{{ "
    + _LLAMA_TURN.format(role="'system'")
    + " + 'Cutting Knowledge Date: December 2023\nToday Date: ' + date_string + '\n\n<|eot_id|>' }}"
    "{% endif %}{% for message in messages %}{{ "
    + _LLAMA_TURN.format(role="message['role']")
    + " }}"
    + _parts("part['text']", image="'<|image|>'")
    + "{{ '<|eot_id|>' }}{% endfor %}{% if add_generation_prompt %}{{ "
    + _LLAMA_TURN.format(role="'assistant'")
    + " }}{% endif %}",
}


SENTENCE = "Summary above sentence in one word:"

PICTURE = "Summary above image in one word:"

TOGETHER = "Summary above image and sentence in one word:"

CHATML = (  # takes a message's content as one text, as templates of language models do
    "{% for message in messages %}{% if loop.first and message['role'] != 'system' %}"
    "{{ '<|im_start|>system\nBe brief.<|im_end|>\n' }}{% endif %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
