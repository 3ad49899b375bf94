"""At how many tokens a sentence-transformers model cuts a text, and which texts that concerns."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import nn
from transformers import PreTrainedTokenizerBase

from unime.errors import require

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

UNLIMITED = 10**9  # tokenizers say "no limit" by an enormous number
AT_ONCE = 1000  # texts that are tokenised at a time
SPARE = 2  # tokens that a tokenizer may put before a text of its own accord


def set_text_limit(model: SentenceTransformer, max_tokens: int | None) -> int | None:
    """Let the model read texts of at most so many tokens (None: as it does); returns at how many
    it cuts them (None: it reads all).

    Raises:
        ConfigError: it has no such limit, or not so many positions.
    """
    if max_tokens is not None:
        key, positions = "max_text_tokens", own_positions(model)
        limited = isinstance(model.tokenizer, PreTrainedTokenizerBase)
        require(limited, key, max_tokens, "null: this model has no limit that could be set")
        within = positions is None or max_tokens <= positions
        require(within, key, max_tokens, f"at most {positions}, the model's positions")
        model.max_seq_length = max_tokens
    limit = model.max_seq_length
    return limit if limit is not None and limit < UNLIMITED else None


def own_positions(model: SentenceTransformer) -> int | None:
    """The tokens that the model has positions for; None: it does not say."""
    for name, module in model[0].named_modules():
        if name.endswith("position_embeddings") and isinstance(module, nn.Embedding):
            padding = module.padding_idx  # RoBERTa's positions begin after it
            return module.num_embeddings - (0 if padding is None else padding + 1)
    config = getattr(getattr(model[0], "model", None), "config", None)
    positions = getattr(config and config.get_text_config(), "max_position_embeddings", None)
    return positions if isinstance(positions, int) else None


def longer_than(
    model: SentenceTransformer, texts: list[str], prompt: str, limit: int | None
) -> list[int]:
    """The places of the texts that have more tokens than this, with the prompt and the special
    tokens that come with every text."""
    tokenizer = model.tokenizer
    if limit is None or not isinstance(tokenizer, PreTrainedTokenizerBase):
        return []
    short = limit - tokenizer.num_special_tokens_to_add() - SPARE
    # no tokenizer makes more tokens than bytes
    long = [n for n, text in enumerate(texts) if len((prompt + text).encode()) > short]
    found = []
    for start in range(0, len(long), AT_ONCE):
        places = long[start : start + AT_ONCE]
        tokens = tokenizer([prompt + texts[n] for n in places], verbose=False)["input_ids"]
        found += [n for n, ids in zip(places, tokens, strict=True) if len(ids) > limit]
    return found
