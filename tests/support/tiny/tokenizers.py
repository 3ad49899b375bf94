"""Tokenizers of tiny models: byte-level BPE with few merges."""

from __future__ import annotations

from collections.abc import Sequence

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

_SENTENCES = [
    "Summary above image and sentence in one word: Summary above sentence in one word:",
    "You are a helpful assistant. USER: user assistant ASSISTANT: [INST] [/INST]",
    "a photo of a cat on a chair, the dog in the garden, two red birds over the sea",
] * 3


def build_tokenizer(special: dict[str, str], begin: str | None = None) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer with few merges: every text has tokens, none is unknown. With
    `begin` it puts that token before a text, unless asked not to."""
    always = ["<pad>", "<unk>", "<|im_start|>", "<|im_end|>"]
    begins = [begin] if begin else []
    return PreTrainedTokenizerFast(
        tokenizer_object=byte_level(_SENTENCES, 400, [*always, *begins], begins),
        pad_token="<pad>",
        unk_token="<unk>",
        bos_token=begin,
        eos_token="<|im_end|>",
        additional_special_tokens=["<|im_start|>"],
        padding_side="left",
        extra_special_tokens=special,
    )


def byte_level(
    sentences: list[str],
    size: int,
    special: Sequence[str],
    begins: Sequence[str] = (),
    ends: Sequence[str] = (),
) -> Tokenizer:
    """Byte-level BPE that puts tokens before and after a text."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=list(special),
        show_progress=False,
    )
    tokenizer.train_from_iterator(sentences, trainer)
    if begins or ends:
        tokenizer.post_processor = processors.TemplateProcessing(
            single=" ".join([*begins, "$A", *ends]),
            special_tokens=[(token, tokenizer.token_to_id(token)) for token in (*begins, *ends)],
        )
    return tokenizer
