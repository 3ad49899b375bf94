"""The exact bytes that every family is asked with: a moved newline changes scores silently.

python -m pytest tests/models/test_prompts.py
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import pytest
from transformers import AutoProcessor

from tests.support.tiny.chat_templates import CHATML, PICTURE, SENTENCE, TOGETHER
from tests.support.tiny.tokenizers import build_tokenizer
from unime.backbones.families import BACKBONES
from unime.errors import ConfigError
from unime.inputs.items import Item
from unime.inputs.presets import PRESETS
from unime.models.prompts import render

TEXT = Item("a red bird")
IMAGE = Item(images=("a.png",))
BOTH = Item("Which animal is it?", ("a.png",))
TWO = Item("Which is larger?", ("a.png", "b.png"))
ITEMS = (TEXT, IMAGE, BOTH, TWO)

QWEN_IMAGE = "<|vision_start|><|image_pad|><|vision_end|>"
QWEN_SYSTEM = "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
GEMMA_END = "<end_of_turn>\n<start_of_turn>model\n"
LLAMA = "<|start_header_id|>user<|end_header_id|>\n\n"
LLAMA_END = "<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n"
LLAMA_SYSTEM = (  # of texts only, on a day that the prompt fixes
    "<|start_header_id|>system<|end_header_id|>\n\nCutting Knowledge Date: December 2023\n"
    "Today Date: 26 Jul 2024\n\n<|eot_id|>"
)
ASSISTANT = "<|im_end|>\n<|im_start|>assistant\n"


def goldens(before: str, image: str, after: str) -> list[str]:
    return [
        f"{before}a red bird\n{SENTENCE}{after}",
        f"{before}{image}{PICTURE}{after}",
        f"{before}{image}Which animal is it?\n{TOGETHER}{after}",
        f"{before}{image * 2}Which is larger?\n{TOGETHER}{after}",
    ]


GOLDEN = {
    "llava": goldens("USER: ", "<image>\n", " ASSISTANT:"),
    "llava_next": goldens("[INST] ", "<image>\n", " [/INST]"),
    "llava_onevision": [
        f"<|im_start|>user \na red bird\n{SENTENCE}{ASSISTANT}",
        f"<|im_start|>user <image>\n{PICTURE}{ASSISTANT}",
        f"<|im_start|>user <image>\nWhich animal is it?\n{TOGETHER}{ASSISTANT}",
        f"<|im_start|>user <image><image>\nWhich is larger?\n{TOGETHER}{ASSISTANT}",
    ],
    "qwen2_vl": goldens(f"{QWEN_SYSTEM}<|im_start|>user\n", QWEN_IMAGE, ASSISTANT),
    "qwen2_5_vl": goldens(f"{QWEN_SYSTEM}<|im_start|>user\n", QWEN_IMAGE, ASSISTANT),
    "qwen3_vl": goldens("<|im_start|>user\n", QWEN_IMAGE, ASSISTANT),
    "idefics3": goldens(
        "<|im_start|>User:", "<image>", "<end_of_utterance>\nAssistant:"
    ),
    "smolvlm": [
        f"<|im_start|>User: a red bird\n{SENTENCE}<end_of_utterance>\nAssistant:",
        *goldens("<|im_start|>User:", "<image>", "<end_of_utterance>\nAssistant:")[1:],
    ],
    "internvl": goldens("<|im_start|>user\n", "<IMG_CONTEXT>\n", ASSISTANT),
    "gemma3": goldens("<bos><start_of_turn>user\n", "<start_of_image>", GEMMA_END),
    "paligemma": [f"<bos>a red bird\n{SENTENCE}\n", *goldens("", "<image>", "")[1:]],
    "mllama": [
        f"<|begin_of_text|>{LLAMA_SYSTEM}{LLAMA}a red bird\n{SENTENCE}{LLAMA_END}",
        *goldens(f"<|begin_of_text|>{LLAMA}", "<|image|>", LLAMA_END)[1:],
    ],
    "phi4_multimodal": goldens("<|user|>", "<|image|>", "<|end|><|assistant|>"),
}  # fmt: skip


@pytest.fixture
def say(tiny_model):
    """``say("llava", "unime", item, …)``: their prompts, by the family's own processor."""

    def prompts(family, preset, *items, media=None):
        processor = AutoProcessor.from_pretrained(tiny_model(family))
        return [render(item, processor, BACKBONES[family], preset, media) for item in items]

    return prompts


def say_bare(family, preset, *items, template=None, **tokens):
    """By a tokenizer of such tokens, which has no template of its own."""
    bare = build_tokenizer(tokens)
    bare.chat_template = template
    return [render(item, bare, BACKBONES[family], preset) for item in items]


@pytest.mark.parametrize("family", GOLDEN)
def test_golden_prompts(family, say):
    assert say(family, "unime", *ITEMS) == GOLDEN[family]


def test_phi3_numbers_images():
    numbered = "<|image_1|>\n<|image_2|>\nWhich is larger?\n"
    framed = f"<|user|>\n{numbered}{TOGETHER}<|end|>\n<|assistant|>\n"
    assert say_bare("phi3_v", "unime", TWO) == [framed]
    assert say_bare("phi3_v", "vlm2vec", TWO) == [numbered]


FRAMED = {  # families' chats, around what a preset says
    "llava_next": ("[INST] ", "<image>\n", " [/INST]"),
    "qwen2_vl": (f"{QWEN_SYSTEM}<|im_start|>user\n", QWEN_IMAGE, ASSISTANT),
}
SAID = {
    "e5v": [
        "a red bird\nSummary above sentence in one word: ",
        "Summary above image in one word: ",
        'Modify this image with "Which animal is it?", desribe modified image in one word: ',
        'Modify this image with "Which is larger?", desribe modified image in one word: ',
    ],
    "chat": ["a red bird", "", "Which animal is it?", "Which is larger?"],
}


@pytest.mark.parametrize("family", FRAMED)
@pytest.mark.parametrize("preset", SAID)
def test_other_presets_in_the_familys_chat(family, preset, say):
    before, image, after = FRAMED[family]
    counts = (0, 1, 1, 2)
    assert say(family, preset, *ITEMS) == [
        before + image * count + said + after
        for count, said in zip(counts, SAID[preset], strict=True)
    ]


@pytest.mark.parametrize(
    "family, token", [("llava_next", "<image>"), ("qwen2_vl", "<|image_pad|>")]
)
def test_presets_without_a_chat(family, token, say):
    """As TIGER-AI-Lab/VLM2Vec's rows and UniME-V2's demo have them: the bare image token."""
    for preset, image in {
        "vlm2vec": f"{token}\nRepresent the given image.\n",
        "unime-v2": f"{token} Find an image caption describing the given image.",
    }.items():
        assert say(family, preset, *ITEMS) == [
            "a red bird",
            image,
            f"{token}\nWhich animal is it?\n",
            f"{token}\n{token}\nWhich is larger?\n",
        ]


def test_white_space_of_the_source_without_a_chat(say):
    """VLM2Vec's prompts are its rows to the last byte, which is what its last token stands for; a
    chat has white space of its own."""
    items = [
        replace(TEXT, spacing=("\n", "\n\n")),
        replace(IMAGE, spacing=("\n", "\n")),  # no text: the preset's
        replace(BOTH, spacing=("\n", "")),
        replace(TWO, spacing=(" ", "\n")),
    ]
    assert say("qwen2_vl", "vlm2vec", *items) == [
        "a red bird\n\n",
        "<|image_pad|>\nRepresent the given image.\n",
        "<|image_pad|>\nWhich animal is it?",
        "<|image_pad|>\n<|image_pad|> Which is larger?\n",
    ]
    assert say("qwen2_vl", "unime-v2", items[2]) == ["<|image_pad|>\nWhich animal is it?"]
    for preset in set(PRESETS) - {"vlm2vec", "unime-v2"}:
        assert say("qwen2_vl", preset, *items) == say("qwen2_vl", preset, *ITEMS)


def test_the_task_stands_in_the_system_turn(say):
    """Qwen3-VL-Embedding's form."""
    default = "<|im_start|>system\nRepresent the user's input.<|im_end|>\n<|im_start|>user\n"
    said = ["a red bird", QWEN_IMAGE, f"{QWEN_IMAGE}Which animal is it?"]
    found = say("qwen3_vl", "instruct", *ITEMS[:3])
    assert found == [default + words + ASSISTANT for words in said]
    item = replace(BOTH, instruction="Answer the question.")
    asked = default.replace("Represent the user's input.", "Answer the question.")
    assert say("qwen3_vl", "instruct", item) == [asked + said[2] + ASSISTANT]
    # a family without system turns, and presets without one, say it before the text
    words = "USER: <image>\nAnswer the question.\nWhich animal is it?"
    assert say("llava", "instruct", item) == [f"{words} ASSISTANT:"]
    assert say("llava", "unime", item) == [f"{words}\n{TOGETHER} ASSISTANT:"]


def test_a_video(say):
    item, frame = Item(video=("0.png", "1.png")), f"{QWEN_SYSTEM}<|im_start|>user\n"
    pad = "<|vision_start|><|video_pad|><|vision_end|>"
    shown = f"{frame}{pad}Summary above video in one word:{ASSISTANT}"
    assert say("qwen2_vl", "unime", item) == [shown]
    both = replace(item, text="What happens?")
    shown = f"{frame}{QWEN_IMAGE * 2}What happens?\n{TOGETHER}{ASSISTANT}"
    assert say("qwen2_vl", "unime", both, media=["image", "image"]) == [shown]


ASKED = "Find an image caption describing the given image."
PHI = ("<|user|>\n", "<|image_1|>\n", "<|end|>\n<|assistant|>\n")
MISTRAL = ("[INST] ", "<image>\n", " [/INST]")
LLAMA3 = (
    "<|start_header_id|>user<|end_header_id|>\n\n",
    "<image>\n",
    "<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n \n",
)


@pytest.mark.parametrize(
    ("family", "chat", "preset", "space"),
    [
        ("phi3_v", PHI, "unime", ""),
        ("llava_next", MISTRAL, "unime", ""),
        ("llava_next", LLAMA3, "e5v", " "),
    ],
)
def test_prompts_of_the_retrieval_suite(family, chat, preset, space):
    """A caption and a picture as UniME's and E5-V's retrieval scripts ask about them. The two have
    the same strings, with E5-V's space at the end on Llama-3 only; VLM2Vec's and UniME-V2's scripts
    know no chat, and tell a picture what is asked of it."""
    before, image, after = chat
    token = image.strip()
    header = {"header": "<|start_header_id|>", "end": "<|end_header_id|>"}
    tokens = {"image_token": token} | (header if chat is LLAMA3 else {})
    caption, asked = Item("Two dogs play."), replace(IMAGE, instruction=ASKED)
    said = partial(say_bare, family, **tokens)
    assert said(preset, caption, IMAGE) == [
        f"{before}Two dogs play.\nSummary above sentence in one word:{space}{after}",
        f"{before}{image}Summary above image in one word:{space}{after}",
    ]
    assert said("vlm2vec", caption, IMAGE, asked) == [
        "Two dogs play.",
        f"{token}\nRepresent the given image.\n",
        f"{token}\n{ASKED}\n",  # configs/suites/retrieval_instruct.yaml, laid out as MMEB's rows
    ]
    assert said("unime-v2", caption, IMAGE) == ["Two dogs play.", f"{token} {ASKED}"]


def test_text_is_never_read_as_a_template(say):
    text = "{{ 7 * 7 }} {text} {% endfor %} {0} \\n %s {images} {media}"
    framed = f"<|im_start|>user\n{text}\n{SENTENCE}{ASSISTANT}"
    assert say("qwen3_vl", "unime", Item(text)) == [framed]
    assert say("qwen3_vl", "vlm2vec", Item(text)) == [text]


@pytest.mark.parametrize(
    ("template", "preset", "message"),
    [
        (None, "haiku", f"inputs.prompt: got 'haiku', .* {', '.join(PRESETS)}"),
        (None, "unime", "no chat template, and 'qwen2_vl' has none"),
        ("fixed", "unime", "shows the user's text 0 times"),
    ],
)
def test_prompts_that_cannot_be(template, preset, message):
    with pytest.raises(ConfigError, match=message):
        say_bare("qwen2_vl", preset, TEXT, template=template)


CHATML_OF_PARTS = CHATML.replace(
    "message['content']",
    "(message['content'] | map(attribute='text', default='<image>\n') | join)",
)


@pytest.mark.parametrize("template", [CHATML, CHATML_OF_PARTS], ids=["texts", "parts"])
@pytest.mark.parametrize("family", ["llava", "llava_next"])
def test_a_tokenizers_own_template(family, template, tiny_model):
    """A LLaVA of any language model is asked in that one's format; others as they were."""
    processor, backbone = AutoProcessor.from_pretrained(tiny_model(family)), BACKBONES[family]
    processor.tokenizer.chat_template = template
    found = [render(item, processor, backbone, "unime") for item in ITEMS]
    brief = "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\n"
    own = goldens(brief, "<image>\n", ASSISTANT)
    assert found == (own if family == "llava" else GOLDEN[family])
    processor.chat_template = "{% for m in messages %}{{ m['content'][-1]['text'] }}{% endfor %}"
    assert render(TEXT, processor, backbone, "chat") == "a red bird"  # the processor's goes first
    processor.chat_template = template  # saved beside it, a tokenizer's becomes the processor's
    assert [render(item, processor, backbone, "unime") for item in ITEMS] == own


def test_a_default_system_turn_can_be_left_out(say):
    turn = "<|im_start|>system\n<|im_end|>\n<|im_start|>user\n"
    for family, expected in {
        "qwen2_vl": goldens(turn, QWEN_IMAGE, ASSISTANT),
        "qwen3_vl": GOLDEN["qwen3_vl"],  # whose template puts in none
        "llava": GOLDEN["llava"],  # and whose knows none
        "gemma3": GOLDEN["gemma3"],  # and whose would put it into the user's
    }.items():
        assert say(family, "unime-silent", *ITEMS) == expected
