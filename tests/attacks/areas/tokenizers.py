"""Attacks on tokenizers and chat templates, which are programs of a stranger."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests.attacks.damage import (
    Deeds,
    changed,
    cut,
    flipped,
    no_json,
    not_a_file,
    payload_code,
    values,
    write,
)
from tests.attacks.harness import Area, Attack, Deed, each, nothing
from tests.attacks.victims import MODEL, build_model, encode, no_vectors, other_than

TOKENIZER, CONFIG = f"{MODEL}/tokenizer.json", f"{MODEL}/tokenizer_config.json"
TEMPLATE = f"{MODEL}/chat_template.jinja"
HUGE = 10**12
SLOW = {"Regex": "(((a|l|.)*)*)*x"}


def normalizer(**settings: Any) -> dict[str, Any]:
    return {"type": "Replace", "content": "", **settings}


def vocabulary(change: Any) -> Any:
    def act(content: Any) -> None:
        change(content["model"]["vocab"])

    return act


def own_code() -> None:
    content = json.loads(Path(CONFIG).read_text())
    content |= {"auto_map": {"AutoTokenizer": ["evil.Tok", "evil.Tok"]}, "tokenizer_class": "Tok"}
    write(CONFIG, json.dumps(content))
    write(f"{MODEL}/evil.py", payload_code())


DAMAGED: Deeds = {
    **no_json(TOKENIZER),
    **not_a_file(TOKENIZER),
    **cut(TOKENIZER, 6),
    **flipped(TOKENIZER, 10, at_once=20),
    **values(TOKENIZER, "version", "9.0", 7),
    **values(TOKENIZER, "model.type", "x", 7, "WordPiece"),
    **values(TOKENIZER, "model.vocab", {}, [], None, {"a": -1}, {"a": HUGE}, {"a": 2**31}),
    **values(TOKENIZER, "model.merges", ["x"], [["x", "y"]], 7, [["a", "b"]] * 1000),
    **values(TOKENIZER, "added_tokens", [], 7, [{"id": HUGE, "content": "x"}]),
    **values(TOKENIZER, "added_tokens.0.id", -1, HUGE, "x", 5),
    **values(TOKENIZER, "normalizer", normalizer(pattern=SLOW), 7, {"type": "x"}),
    **values(TOKENIZER, "normalizer", normalizer(pattern={"String": "e"}, content="e" * 10**7)),
    **values(TOKENIZER, "normalizer", normalizer(pattern={"Regex": "("})),
    **values(TOKENIZER, "normalizer", {"type": "Prepend", "prepend": "x" * 10**6}),
    **values(TOKENIZER, "pre_tokenizer", {"type": "Split", "pattern": SLOW, "behavior": "Isolated",
                                          "invert": False}, None, 7),
    **values(TOKENIZER, "post_processor", {"type": "TemplateProcessing", "single": [], "pair": [],
                                           "special_tokens": {}}, 7),
    **values(TOKENIZER, "truncation", {"direction": "Right", "max_length": 0, "strategy":
                                       "LongestFirst", "stride": 0}, 7),
    **values(TOKENIZER, "padding", {"strategy": {"Fixed": 10**7}, "direction": "Left",
                                    "pad_to_multiple_of": None, "pad_id": 0, "pad_type_id": 0,
                                    "pad_token": "<pad>"}),
    **changed(TOKENIZER, {
        "ids-shifted": vocabulary(lambda own: own.update({k: v + 10**6 for k, v in own.items()})),
        "ids-equal": vocabulary(lambda own: own.update(dict.fromkeys(own, 5))),
    }),
}  # fmt: skip
CONFIGS: Deeds = {
    **no_json(CONFIG),
    **not_a_file(CONFIG),
    **values(CONFIG, "tokenizer_class", "x", 7, "os.system", None),
    **values(CONFIG, "model_max_length", -1, 0, "x", None, HUGE),
    **values(CONFIG, "padding_side", "up", 7),
    **values(CONFIG, "extra_special_tokens", 7, [7], {"image_token": 7}, {}),
    **values(CONFIG, "pad_token", None, 7, "no such token"),
    **values(CONFIG, "eos_token", 7, {"content": 7}),
    **values(CONFIG, "image_token", 7, "", "no such token", None),
    **values(CONFIG, "chat_template", 7, {}, [], [{"name": "x"}], "{{ 1 "),
    "own-code": own_code,
}
SAID = (
    "{% for part in messages[-1]['content'] %}{% if part['type'] == 'image' %}"
    "<|vision_start|><|image_pad|><|vision_end|>{% else %}{{ part['text'] }}{% endif %}{% endfor %}"
)
MARK = "touch ../outside/pwned"
TEMPLATES: dict[str, str] = {
    "empty": "",
    "silent": "nothing of it",
    "twice": SAID + SAID,
    "control-of-templates": SAID,
    "upper": "{{ messages[-1]['content'][-1]['text'] | upper }}",
    "escaped": "{{ messages[-1]['content'][-1]['text'] | e }}",
    "syntax": "{% for %}",
    "unknown-filter": SAID + "{{ 1 | x }}",
    "unknown-name": SAID + "{{ a.b.c }}",
    "raises": "{{ raise_exception('no') }}",
    "raises-lines": "{{ raise_exception('no\\n' * 1000) }}",
    "deep": "{{ " + "(" * 20_000 + "1" + ")" * 20_000 + " }}",
    "deep-blocks": "{% if 1 %}" * 3_000 + SAID + "{% endif %}" * 3_000,
    "loops": SAID
    + "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
    "loop-of-a-text": SAID + "{% for a in range(9999) %}{{ 'a' * 99999 }}{% endfor %}",
    "macro": "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
    "macro-tree": "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}"
    "{{ f(40) }}" + SAID,
    "recursive-loop": "{% for a in [[1]] recursive %}{{ loop([[1]]) }}{% endfor %}",
    "range": SAID + "{{ range(10**9) | list }}",
    "times": SAID + "{{ 'a' * 10**10 }}",
    "list-times": SAID + "{{ ([0] * 10**9) | length }}",
    "doubling": SAID + "{% set x = namespace(s='aa') %}{% for a in range(60) %}"
    "{% set x.s = x.s ~ x.s %}{% endfor %}",
    "power": SAID + "{{ 9 ** (9 ** 9) }}",
    "power-of-variables": SAID + "{% set n = 99999999 %}{{ n ** n > 1 }}",
    "format": SAID + "{{ '%1000000000d' % 1 }}",
    "center": SAID + "{{ 'a' | center(10**10) }}",
    "indent": SAID + "{{ 'a\\nb' | indent(10**10) }}",
    "ljust": SAID + "{{ 'a'.ljust(10**10) }}",
    "replace": SAID + "{% set a = 'a' * 99999 %}{{ a.replace('a', a) }}",
    "join": SAID + "{{ range(99999) | map('string') | join('a' * 99999) }}",
    "class": SAID + "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "globals": SAID + "{{ cycler.__init__.__globals__.os.system('" + MARK + "') }}",
    "lipsum": SAID + "{{ lipsum.__globals__['os'].popen('" + MARK + "').read() }}",
    "self": SAID + "{{ self.__init__.__globals__ }}",
    "attr": SAID + "{{ cycler | attr('__init__') | attr('__globals__') }}",
    "format-map": SAID + "{{ '{0.__class__.__init__.__globals__}'.format(cycler) }}",
    "namespace": SAID + "{{ namespace.__init__.__globals__['os'].system('" + MARK + "') }}",
    "exception": SAID + "{{ raise_exception.__globals__['os'].system('" + MARK + "') }}",
    "strftime": SAID + "{{ strftime_now.__globals__['os'].environ }}",
    "tojson": SAID + "{{ messages | tojson(indent=10**9) }}",
    "include": SAID + "{% include '../outside/secret.txt' %}",
    "import": SAID + "{% import '../outside/secret.txt' as x %}",
    "changes-messages": "{{ messages.clear() }}" + SAID,
    "long": "{# " + "x" * 30_000_000 + " #}" + SAID,
    "unime-says": "{#- unime: this template carries the prompt -#}{{ 1 / 0 }}",
    "byte-order-mark": "\ufeff" + SAID,
}


def template(content: str) -> Deed:
    return lambda: write(TEMPLATE, content)


NAMES = (MODEL, "model.", "inputs.prompt", "the processor")


def attacks() -> list[Attack]:
    templates = {
        name if "control" in name else f"template-{name}": template(content)
        for name, content in TEMPLATES.items()
    }
    templates |= not_a_file(TEMPLATE)
    templates["template-latin-1"] = lambda: write(TEMPLATE, b"\xe9" + SAID.encode())
    return [
        *each({"control": nothing}, encode, NAMES, other_than("truth.npy")),
        *each(DAMAGED | CONFIGS | templates, encode, NAMES, no_vectors),
    ]


AREA = Area("tokenizers", build_model, attacks, ("template-globals", "tokenizer.json-cut-3"))
