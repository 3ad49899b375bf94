"""The exact bytes that every family is asked with: a moved newline changes scores silently.

python -m pytest tests/test_prompts.py
"""

from __future__ import annotations

import pytest
from transformers import AutoProcessor

from tests.tiny_models import build_tokenizer
from unime.backbones import BACKBONES
from unime.config import ConfigError
from unime.items import Item
from unime.prompts import PRESETS, render

TEXT = Item("a red bird")
IMAGE = Item(images=("a.png",))
BOTH = Item("Which animal is it?", ("a.png",))
TWO = Item("Which is larger?", ("a.png", "b.png"))

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
SENTENCE = "Summary above sentence in one word:"
PICTURE = "Summary above image in one word:"
TOGETHER = "Summary above image and sentence in one word:"


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
    "paligemma": goldens("", "<image>", ""),
    "mllama": [
        f"<|begin_of_text|>{LLAMA_SYSTEM}{LLAMA}a red bird\n{SENTENCE}{LLAMA_END}",
        *goldens(f"<|begin_of_text|>{LLAMA}", "<|image|>", LLAMA_END)[1:],
    ],
    "phi4_multimodal": goldens("<|user|>", "<|image|>", "<|end|><|assistant|>"),
}  # fmt: skip


@pytest.mark.parametrize("family", GOLDEN)
def test_golden_prompts(family, tiny_model):
    processor = AutoProcessor.from_pretrained(tiny_model(family))
    backbone = BACKBONES[family]
    assert [render(item, processor, backbone, "unime") for item in (TEXT, IMAGE, BOTH, TWO)] == (
        GOLDEN[family]
    )


def test_published_prompts():
    """The prompts of the published evaluation code, where the processor has no template."""
    bare = build_tokenizer({})
    phi, llava = BACKBONES["phi3_v"], BACKBONES["llava_next"]
    assert render(IMAGE, bare, phi, "unime") == (
        "<|user|>\n<|image_1|>\nSummary above image in one word:<|end|>\n<|assistant|>\n"
    )
    assert render(Item("<sent>"), bare, phi, "unime") == (
        "<|user|>\n<sent>\nSummary above sentence in one word:<|end|>\n<|assistant|>\n"
    )
    assert "<|image_1|>\n<|image_2|>\nWhich" in render(TWO, bare, phi, "unime")
    assert render(IMAGE, bare, llava, "unime") == (
        "[INST] <image>\nSummary above image in one word: [/INST]"
    )
    assert render(Item("<sent>"), bare, llava, "unime") == (
        "[INST] <sent>\nSummary above sentence in one word: [/INST]"
    )


def test_text_is_never_read_as_a_template(tiny_model):
    processor = AutoProcessor.from_pretrained(tiny_model("qwen3_vl"))
    text = "{{ 7 * 7 }} {text} {% endfor %} {0} \\n %s"
    prompt = render(Item(text), processor, BACKBONES["qwen3_vl"], "unime")
    assert prompt == f"<|im_start|>user\n{text}\n{SENTENCE}{ASSISTANT}"


def test_unknown_preset():
    with pytest.raises(ConfigError, match=f"inputs.prompt: got 'e5v', .* {', '.join(PRESETS)}"):
        render(TEXT, build_tokenizer({}), BACKBONES["phi3_v"], "e5v")


def test_no_chat_template_anywhere():
    with pytest.raises(ConfigError, match="no chat template, and 'qwen2_vl' has none"):
        render(TEXT, build_tokenizer({}), BACKBONES["qwen2_vl"], "unime")


def test_template_that_drops_the_text():
    class Silent:
        chat_template = "fixed"

        def apply_chat_template(self, messages, **options):
            return "fixed"

    with pytest.raises(ConfigError, match="shows the user's text 0 times"):
        render(TEXT, Silent(), BACKBONES["qwen2_vl"], "unime")
