"""The chat formats of the released checkpoints, for tiny models of their families.

llava and llava_next are not here: their entries in unime/backbones.py hold them.
"""

from __future__ import annotations

_PARTS = (
    "{% for part in message['content'] | selectattr('type', 'equalto', 'image') %}"
    "{{ IMAGE }}{% endfor %}"
    "{% for part in message['content'] | selectattr('type', 'equalto', 'video') %}"
    "{{ VIDEO }}{% endfor %}"
    "{% for part in message['content'] | selectattr('type', 'equalto', 'text') %}"
    "{{ TEXT }}{% endfor %}"
)
_TURNS = (
    "{% for message in messages %}SYSTEM{{ '<|im_start|>' + message['role'] + AFTER_ROLE }}"
    + _PARTS
    + "{{ '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
_QWEN = _TURNS.replace("AFTER_ROLE", "'\n'").replace("TEXT", "part['text']")
_QWEN = _QWEN.replace("IMAGE", "'<|vision_start|><|image_pad|><|vision_end|>'")
_QWEN = _QWEN.replace("VIDEO", "'<|vision_start|><|video_pad|><|vision_end|>'")
_QWEN_SYSTEM = "{{ '<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n' }}"

CHAT_TEMPLATES = {
    "llava_onevision": _TURNS.replace("SYSTEM", "")
    .replace("AFTER_ROLE", "' '")
    .replace("IMAGE", "'<image>'")
    .replace("VIDEO", "'<video>'")
    .replace("TEXT", "'\n' + part['text']"),
    "qwen2_vl": _QWEN.replace("SYSTEM", _QWEN_SYSTEM),
    "qwen2_5_vl": _QWEN.replace("SYSTEM", _QWEN_SYSTEM),
    "qwen3_vl": _QWEN.replace("SYSTEM", ""),
    "idefics3": "<|im_start|>{% for message in messages %}{{ message['role'] | capitalize + ':' }}"
    + _PARTS.replace("IMAGE", "'<image>'").replace("VIDEO", "''").replace("TEXT", "part['text']")
    + "{{ '<end_of_utterance>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}",
}
