"""The chat formats of processors that have none, as templates."""

from __future__ import annotations

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

_IMAGES = (
    "{{% for part in message['content'] | selectattr('type', 'equalto', 'image') %}}"
    "{{{{ {image} }}}}{{% endfor %}}"
)
_TEXTS = (
    "{{% for part in message['content'] | selectattr('type', 'equalto', 'text') %}}"
    "{{{{ {text} }}}}{{% endfor %}}"
)


def _message(image: str, text: str = "part['text']") -> str:
    return _IMAGES.format(image=image) + _TEXTS.format(text=text)


_USER = "{% for message in messages | selectattr('role', 'equalto', 'user') %}"  # no system turns
PHI4_TEMPLATE = (
    "{% for message in messages %}{{ '<|' + message['role'] + '|>' }}"
    + _message("'<|image|>'")
    + "{{ '<|end|>' }}{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)
LLAVA_NEXT_TEMPLATE = (
    _USER
    + "{{ '[INST] ' }}"
    + _message("'<image>\n'", "part['text'] + ' [/INST]'")
    + "{% endfor %}"
)
LLAVA_TEMPLATE = (
    _USER
    + "{{ 'USER: ' }}"
    + _message("'<image>\n'", "part['text'] + ' '")
    + "{% endfor %}{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"
)
PALIGEMMA_TEMPLATE = (  # its processor puts <bos> after images, and a newline at the end
    _USER + "{% set images = message['content'] | selectattr('type', 'equalto', 'image') | list %}"
    "{{ '' if images else bos_token }}" + _message("'<image>'") + "{{ '' if images else '\n' }}"
    "{% endfor %}"
)
