"""A language model out of a GGUF file, as transformers' own classes, and whether it was read right.

GGUF is llama.cpp's format: numbers, a vocabulary and a chat template, no code. What its quantised
bits stand for is kept in float32, so that nothing is lost before bitsandbytes quantises it anew.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from unime.errors import DataError, require_package

# Plain English, which any language model of use finds likely, and its words backwards not.
SENTENCES = (
    "The capital of France is Paris, and the capital of Italy is Rome.",
    "Water boils at one hundred degrees, and it freezes at zero degrees.",
    "She opened the door, walked into the kitchen and made herself a cup of tea.",
    "The heart pumps blood through the body, and the lungs take in oxygen from the air.",
)
PROMPTS = ("The capital of France is", "Water is made of hydrogen and", "A dog is an")
NEW_TOKENS = 12
# Python, figures, blanks at the ends, other scripts: comes back from the tokenizer as it was
SPELLED = "  def f(x):\n\treturn 1234.5  # naïve, «Übung», Ж, 漢字, 🙂 "


@dataclass(frozen=True)
class LanguageModel:
    """A causal language model and its tokenizer."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerFast

    def logits(self, text: str) -> torch.Tensor:
        """What the model makes of a text: (tokens, vocabulary)."""
        return text_logits(self.model, self.tokenizer, text)


def read_gguf(path: Path) -> LanguageModel:
    """The model and the tokenizer in a GGUF file, in float32.

    Raises:
        ConfigError: the package `gguf` is not installed.
        DataError: the file cannot be read, or its tokenizer was not read as the file has it.
    """
    require_package("gguf", "real-llm", "gguf")
    where: dict[str, Any] = {"gguf_file": path.name, "local_files_only": True}
    try:
        tokenizer: Any = AutoTokenizer.from_pretrained(path.parent, **where)
        model = AutoModelForCausalLM.from_pretrained(
            path.parent, dtype=torch.float32, use_safetensors=True, **where
        ).eval()
    except (ValueError, OSError, KeyError, RuntimeError) as error:
        raise DataError(f"{path}: transformers does not read it: {error!r:.300}") from error
    model.hf_quantizer.remove_quantization_config(model)  # it no longer is
    tokenizer.model_max_length = model.config.max_position_embeddings  # GGUF has it there alone
    model.config._name_or_path = ""
    check_tokenizer(tokenizer, path)
    return LanguageModel(model, tokenizer)


def check_tokenizer(tokenizer: PreTrainedTokenizerFast, path: Path) -> None:
    """Compare a tokenizer with the file that it was made of: every token, the special ones, the
    chat template; and whether a text comes back as it was.

    Raises:
        DataError: it differs.
    """
    from gguf import GGUFReader

    fields = GGUFReader(path).fields

    def of_file(name: str) -> Any:
        key = name if name.startswith("tokenizer.") else f"tokenizer.ggml.{name}"
        return fields[key].contents() if key in fields else None

    tokens = of_file("tokens")
    same = {
        "tokens": tokenizer.convert_ids_to_tokens(list(range(len(tokens)))) == tokens,
        "number of tokens": len(tokenizer) == len(tokens),
        "chat_template": tokenizer.chat_template == of_file("tokenizer.chat_template"),
        "spelling": tokenizer.decode(tokenizer(SPELLED, add_special_tokens=False).input_ids)
        == SPELLED,
    }
    for name in ("bos", "eos", "unknown", "padding"):
        key = {"unknown": "unk", "padding": "pad"}.get(name, name)
        number = of_file(f"{name}_token_id")
        ours = getattr(tokenizer, f"{key}_token_id")
        same[f"{name}_token_id"] = number is None or number == ours
        whole = number is None or tokenizer(tokens[number], add_special_tokens=False).input_ids
        same[f"{name} token in a text"] = number is None or whole == [number]
    different = [name for name, is_same in same.items() if not is_same]
    if different:
        raise DataError(f"{path}: the tokenizer differs from it: {', '.join(different)}")


def perplexity(language_model: LanguageModel, sentences: tuple[str, ...] = SENTENCES) -> float:
    """How many tokens a model has in mind, on the average, for each of these sentences' after the
    first."""
    losses = []
    for sentence in sentences:
        wanted = language_model.tokenizer(sentence, return_tensors="pt").input_ids[0, 1:]
        found = language_model.logits(sentence)[:-1].log_softmax(-1)
        losses += (-found[torch.arange(len(wanted)), wanted]).tolist()
    return math.exp(sum(losses) / len(losses))


def backwards(sentences: tuple[str, ...] = SENTENCES) -> tuple[str, ...]:
    """The sentences' words the other way round."""
    return tuple(" ".join(reversed(sentence.split())) for sentence in sentences)


@torch.inference_mode()
def text_logits(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, text: str
) -> torch.Tensor:
    """A model's logits of a text (tokens, vocabulary)."""
    inputs = tokenizer(text, return_tensors="pt")
    return model(**inputs).logits[0].float()


@torch.inference_mode()
def continuation(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, prompt: str) -> str:
    """What a model finds most likely to follow a prompt, a token at a time."""
    ids: torch.Tensor = tokenizer(prompt, return_tensors="pt").input_ids
    length = ids.shape[1]
    for _ in range(NEW_TOKENS):
        best = model(input_ids=ids, logits_to_keep=1).logits[0, -1].argmax()
        ids = torch.cat([ids, best.view(1, 1)], dim=1)
    return str(tokenizer.decode(ids[0, length:]))
