"""The chat formats of processors that have none, as templates."""

from __future__ import annotations

_USERS = "{% for message in messages | selectattr('role', 'equalto', 'user') %}"  # no system turns


def _template(
    begin: str,
    image: str,
    end: str = "''",
    reply: str = "''",
    text: str = "part['text']",
    turns: str = _USERS,
) -> str:
    """Each turn with its images and then its texts, all of them expressions of jinja2; `reply`
    comes last, where the model is to answer."""
    parts = "{{% for part in message['content'] | selectattr('type', 'equalto', '{}') %}}"
    return (
        f"{turns}{{{{ {begin} }}}}"
        f"{parts.format('image')}{{{{ {image} }}}}{{% endfor %}}"
        f"{parts.format('text')}{{{{ {text} }}}}{{% endfor %}}"
        f"{{{{ {end} }}}}{{% endfor %}}"
        f"{{% if add_generation_prompt %}}{{{{ {reply} }}}}{{% endif %}}"
    )


LLAMA3_TEMPLATE = _template(  # E5-V on Llama-3, whose processor has no template of its own
    begin="'<|start_header_id|>user<|end_header_id|>\n\n'",
    image="'<image>\n'",
    end="'<|eot_id|>'",
    reply="'<|start_header_id|>assistant<|end_header_id|>\n\n \n'",
)
LLAVA_TEMPLATE = _template(
    "'USER: '", "'<image>\n'", text="part['text'] + ' '", reply="'ASSISTANT:'"
)
LLAVA_NEXT_TEMPLATE = _template("'[INST] '", "'<image>\n'", text="part['text'] + ' [/INST]'")
PALIGEMMA_TEMPLATE = _template(  # its processor puts <bos> after images, and a newline at the end
    begin="'' if images else bos_token",
    image="'<image>'",
    end="'' if images else '\n'",
    turns=_USERS
    + "{% set images = message['content'] | selectattr('type', 'equalto', 'image') | list %}",
)
PHI3_TEMPLATE = _template(  # whose tokenizer's own takes plain strings only
    begin="'<|user|>\n'",
    image="'<|image_' ~ loop.index ~ '|>\n'",
    end="'<|end|>\n'",
    reply="'<|assistant|>\n'",
)
PHI4_TEMPLATE = _template(
    begin="'<|' + message['role'] + '|>'",
    image="'<|image|>'",
    end="'<|end|>'",
    reply="'<|assistant|>'",
    turns="{% for message in messages %}",
)
