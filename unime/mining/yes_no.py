"""A multimodal LLM that is asked, of a query and a candidate, whether the one answers the other.

UniME-V2's judge (arXiv 2510.13515, MLLM-as-a-Judge): the score is the probability of "Yes" against
that of "No" as the next token.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from hashlib import blake2b

import torch
from accelerate import Accelerator
from torch import Tensor

from unime.config import JudgeConfig
from unime.errors import ConfigError, DataError
from unime.inputs.items import Item
from unime.models.encoder import Encoder, Parts
from unime.models.features.frozen import Media
from unime.retrieval.embedder import ItemEmbedder
from unime.retrieval.stored import StoredModel
from unime.retrieval.unime_embedder import UnimeEmbedder


def question_of(query: Item, candidate: Item, question: str) -> Item:
    """Both in one item, which the model is asked about; the query's pictures come first.

    Raises:
        DataError: a video, of which a conversation has one at most.
    """
    if query.video or candidate.video:
        raise DataError("videos are not judged by this kind of judge")
    shown = len(query.images)
    words = [
        question,
        f"Query: {_in_words(query, 1)}",
        f"Candidate: {_in_words(candidate, 1 + shown)}",
    ]
    return Item("\n".join(words), (*query.images, *candidate.images))


def _in_words(item: Item, first: int) -> str:
    pictures = [f"[picture {first + number}]" for number in range(len(item.images))]
    return " ".join(filter(None, (item.instruction, *pictures, item.text)))


class YesNoEmbedder(UnimeEmbedder):
    """Gives p(Yes) as a direction, (p, √(1 - p²)), so that stores keep it as they keep all others.

    Raises:
        ConfigError: a model without a vocabulary, or one that cannot tell the answers apart.
    """

    def __init__(self, encoder: Encoder, answers: Sequence[str]) -> None:
        super().__init__(encoder)
        self.dimension = 2
        head = encoder.base.get_output_embeddings()
        if head is None:
            raise ConfigError("model.name: it has no vocabulary head, so it answers nothing")
        tokenizer = encoder.processor.tokenizer
        first = [tokenizer(word, add_special_tokens=False)["input_ids"][0] for word in answers]
        if first[0] == first[1]:
            raise ConfigError(f"judge: {' and '.join(answers)} begin with one token")
        with torch.no_grad():
            rows = head.weight[first].float().cpu()  # (2, D)
            self.difference = rows[0] - rows[1]
            bias = getattr(head, "bias", None)
            self.bias = 0.0 if bias is None else float(bias[first[0]] - bias[first[1]])

    def embed(self, inputs: tuple[Parts, Media | None]) -> Tensor:
        hidden = self.encoder.last_hidden(*inputs)  # (B, D)
        share = (hidden @ self.difference + self.bias).double().sigmoid()
        return torch.stack([share, (1 - share.square()).sqrt()], dim=1).float()


class YesNoModel(StoredModel):
    """Whom a configuration asks, with the store of the answers."""

    def __init__(self, config: JudgeConfig, accelerator: Accelerator) -> None:
        super().__init__(config, accelerator)
        self._judge = config.judge

    @cached_property
    def vectors(self) -> str:
        asked = (self._judge.question, self._judge.yes, self._judge.no)
        return blake2b(repr((super().vectors, *asked)).encode(), digest_size=16).hexdigest()

    @cached_property
    def embedder(self) -> ItemEmbedder:
        encoder = Encoder.load(self.config.model, self.inputs, device=self.accelerator.device)
        return YesNoEmbedder(encoder, (self._judge.yes, self._judge.no))
