"""An exported chat template says what prompts.render says.

pytest tests/export/test_chat_template.py
"""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from jinja2 import Environment, TemplateError
from jinja2.nodes import For, Name
from PIL import Image
from transformers import AutoProcessor

from tests.support.tiny.models import FAMILIES
from unime.backbones.families import BACKBONES
from unime.config import InputConfig
from unime.errors import ConfigError
from unime.export.chat_template import carrying_template
from unime.inputs.items import Item
from unime.inputs.presets import PRESETS
from unime.models.item_processor import ItemProcessor
from unime.models.prompts import render

ITEMS = [
    Item("a red bird"),
    Item("  indented\n\n"),
    Item(" white space ", ("a",)),
    Item("two\nlines, {text} {images} {{ 7 * 7 }} %} \"quoted\" 'so' äß鳥 \\n"),
    Item(images=("a",)),
    Item("Which is larger?", ("a", "b")),
    Item("Is it?", ("a",), instruction="Answer the question."),
    Item(instruction="Find what is shown.", images=("a",)),
]


def messages(item: Item) -> list[dict]:
    """As sentence-transformers makes them of a dict and a prompt; the text may come first."""
    content = [{"type": "image", "image": name} for name in item.images]
    if item.text:
        content.insert(0, {"type": "text", "text": item.text})
    system = [{"role": "system", "content": [{"type": "text", "text": item.instruction}]}]
    return system * bool(item.instruction) + [{"role": "user", "content": content}]


def say(processor, template: str, item: Item) -> str:
    return processor.apply_chat_template(messages(item), chat_template=template, tokenize=False)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("preset", PRESETS)
def test_it_says_what_render_says(family, preset, tiny_model):
    processor, backbone = AutoProcessor.from_pretrained(tiny_model(family)), BACKBONES[family]
    prepare = ItemProcessor(processor, backbone, InputConfig(prompt=preset))
    template = carrying_template(processor, backbone, preset, prepare.control_tokens)
    limits = dict(backbone.st_limits)
    for item in ITEMS:
        several = len(item.images) > 1 and "several images" in limits
        if several or (not item.images and "text" in limits):
            with pytest.raises(TemplateError, match="only unime embeds them with this model"):
                say(processor, template, item)
            continue
        assert say(processor, template, item) == render(item, processor, backbone, preset)
    text = "What does " + "".join(prepare.control_tokens) + " mean?"
    item = Item(text, ("a",), instruction=text)
    cleaned = replace(item, text=prepare.neutralise(text), instruction=prepare.neutralise(text))
    assert say(processor, template, item) == render(cleaned, processor, backbone, preset)
    if "text" in limits:
        return
    plain = [{"role": "user", "content": "a red bird"}]
    said = processor.apply_chat_template(plain, chat_template=template, tokenize=False)
    assert said == render(ITEMS[0], processor, backbone, preset)


PICTURE = Image.new("RGB", (60, 40), "red")
ASKED = Item("Is it?", ("a",), instruction="Answer the question.")


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("preset", ["unime", "vlm2vec", "instruct"])
def test_what_engines_make_of_it(family, preset, tiny_model):
    """An empty last turn of the assistant, to be continued or not, changes nothing; pictures come
    as parts to whoever looks for a loop over them, as vLLM and SGLang do."""
    processor, backbone = AutoProcessor.from_pretrained(tiny_model(family)), BACKBONES[family]
    prepare = ItemProcessor(processor, backbone, InputConfig(prompt=preset))
    template = carrying_template(processor, backbone, preset, prepare.control_tokens)
    loops = Environment(extensions=["jinja2.ext.loopcontrols"]).parse(template).find_all(For)
    assert any(isinstance(one.iter, Name) and one.iter.name == "content" for one in loops)
    expected = render(ASKED, processor, backbone, preset)
    for words in ("", [{"type": "text", "text": ""}]):
        asked = [*messages(ASKED), {"role": "assistant", "content": words}]
        for settings in ({}, {"add_generation_prompt": True}, {"continue_final_message": True}):
            said = processor.apply_chat_template(
                asked, chat_template=template, tokenize=False, **settings
            )
            assert said == expected, settings
    for item in (Item("a red bird"), ASKED):  # asked as vLLM asks: by the text and its pictures
        if not item.images and "text" in dict(backbone.st_limits):
            continue
        said = say(processor, template, item)
        trained = prepare(item, lambda path: PICTURE)["input_ids"]
        bos = processor.tokenizer.bos_token
        shown = [PICTURE] if item.images else None
        found = processor(
            text=[said],
            images=[shown] if shown and backbone.nested_images else shown,
            add_special_tokens=not (bos and said.startswith(bos)),  # docs/production.md
            return_tensors="pt",
        )
        assert torch.equal(found["input_ids"][0], trained)
    for wrong in (
        [{"role": "assistant", "content": ""}, *messages(ASKED)],
        [*messages(ASKED), {"role": "assistant", "content": "yes"}],
    ):
        with pytest.raises(TemplateError, match="has no answer"):
            processor.apply_chat_template(wrong, chat_template=template, tokenize=False)
    with pytest.raises(TemplateError, match="is continued"):  # what follows it would be cut off
        processor.apply_chat_template(
            messages(ASKED), chat_template=template, tokenize=False, continue_final_message=True
        )


def test_it_is_not_asked_twice(tiny_model):
    processor, backbone = AutoProcessor.from_pretrained(tiny_model("llava")), BACKBONES["llava"]
    prepare = ItemProcessor(processor, backbone, InputConfig())
    processor.chat_template = carrying_template(
        processor, backbone, "unime", prepare.control_tokens
    )
    again = carrying_template(processor, backbone, "chat", [])
    assert again == processor.chat_template
    asked = render(Item("a cat"), processor, backbone, "chat")
    assert asked == "USER: a cat\nSummary above sentence in one word: ASSISTANT:"
    with pytest.raises(ConfigError, match="inputs.prompt: got 'e5v', expected chat"):
        ItemProcessor(processor, backbone, InputConfig(prompt="e5v"))
