"""Conversations to tensors: chat tokens with loss on answers only, drawn images as patches.

Batches hold one image size and similar lengths, padded on the right.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import PreTrainedTokenizerFast, Qwen2VLForConditionalGeneration

from data_prep.demo.emoji import IMAGE_SIZE, render, sample_rendering, scene
from data_prep.demo_base.conversations import Conversation, Tasks
from data_prep.demo_base.fast_forward import IMAGE_START, hidden_states, make_patches
from data_prep.demo_base.model import BOS, EOS, MERGE, PATCH, VISION_TOKENS

IGNORE = -100
IMAGE_TOKENS = (IMAGE_SIZE // (PATCH * MERGE)) ** 2
# Images per batch of each kind: about equal work.
BATCH_SIZES = {"name": 128, "image": 96, "scene": 56, "concept_text": 128, "word_text": 160}


@dataclass
class TokenBatch:
    """Conversations of one kind; labels are shifted: `labels[:, i]` is what follows position i."""

    kind: str
    input_ids: Tensor  # (B, L)
    labels: Tensor  # (B, L), IGNORE off the answers
    answer: Tensor  # (B, L): number of the turn that the label answers, -1 off the answers
    patches: Tensor | None
    size: tuple[int, int] | None
    conversations: list[Conversation]


class ConversationTokens:
    """Tokenises conversations piece by piece with a cache; equals the chat template's output."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast) -> None:
        self.tokenizer = tokenizer
        self.cache: dict[str, list[int]] = {}
        image = VISION_TOKENS["image_token"]
        start, end = VISION_TOKENS["vision_start_token"], VISION_TOKENS["vision_end_token"]
        self.opening = self.encode(f"{BOS}user\n")
        self.images = {n: self.encode(start + image * IMAGE_TOKENS * n + end) for n in (1, 2, 3)}
        self.turn_end = self.encode(f"{EOS}\n{BOS}user\n")
        self.asked = self.encode(f"{EOS}\n{BOS}assistant\n")
        self.answered = self.encode(EOS)
        if len(self.opening) + 1 != IMAGE_START:
            raise ValueError(f"the opening must be {IMAGE_START - 1} tokens, got {self.opening}")

    def encode(self, text: str) -> list[int]:
        if text not in self.cache:
            if len(self.cache) > 200_000:
                self.cache.clear()
            self.cache[text] = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        return self.cache[text]

    def __call__(self, conversation: Conversation) -> tuple[list[int], list[int]]:
        """Token ids, and for each token the number of the turn it answers (-1: given)."""
        ids = list(self.opening)
        if conversation.objects:
            ids += self.images[len(conversation.objects)]
        owner = [-1] * len(ids)
        for number, (question, answer) in enumerate(conversation.turns):
            given = [*(self.turn_end[1:] if number else ()), *self.encode(question), *self.asked]
            said = [*self.encode(answer), *self.answered]
            ids += given + said
            owner += [-1] * len(given) + [number] * len(said)
        return ids, owner


def draw(conversation: Conversation, rng: random.Random) -> np.ndarray:
    """The conversation's image, (64, 64 * objects, 3) uint8."""
    if len(conversation.objects) == 1:
        concept, style = conversation.objects[0]
        drawn = sample_rendering(rng, concept, conversation.background, conversation.effect)
        return render(concept, style, drawn)
    return scene(conversation.objects, conversation.background, rng, conversation.effect).image


def collate(
    conversations: list[Conversation], tokens: ConversationTokens, rng: random.Random
) -> TokenBatch:
    """Pad on the right to a multiple of four and shift the labels."""
    encoded = [tokens(conversation) for conversation in conversations]
    length = -(-max(len(ids) for ids, _ in encoded) // 4) * 4
    pad = tokens.tokenizer.pad_token_id
    ids = torch.full((len(conversations), length), pad)
    owner = torch.full((len(conversations), length), -1)
    for row, (own, turns) in enumerate(encoded):
        ids[row, : len(own)] = torch.tensor(own)
        owner[row, : len(own) - 1] = torch.tensor(turns[1:])
    labels = torch.where(owner >= 0, F.pad(ids[:, 1:], (0, 1), value=pad), IGNORE)
    patches, size = None, None
    if conversations[0].objects:
        images = np.stack([draw(conversation, rng) for conversation in conversations])
        patches, size = make_patches(images), images.shape[1:3]
    return TokenBatch(conversations[0].kind, ids, labels, owner, patches, size, conversations)


def answer_logits(
    model: Qwen2VLForConditionalGeneration, batch: TokenBatch
) -> tuple[Tensor, Tensor]:
    """Logits and labels at answer positions only: the head is the dearest part elsewhere."""
    hidden = hidden_states(model, batch.input_ids, batch.patches, batch.size)
    wanted = batch.labels != IGNORE
    return model.lm_head(hidden[wanted]), batch.labels[wanted]


def answer_loss(model: Qwen2VLForConditionalGeneration, batch: TokenBatch) -> Tensor:
    """Mean cross-entropy over answer tokens."""
    logits, labels = answer_logits(model, batch)
    return F.cross_entropy(logits.float(), labels)


def stream(
    tasks: Tasks, tokens: ConversationTokens, mixture: dict[str, float], rng: random.Random
) -> Iterator[TokenBatch]:
    """Endless batches; each kind has a pool sorted by length, so that padding stays small."""
    pools: dict[str, list[list[Conversation]]] = {kind: [] for kind in mixture}
    kinds, weights = list(mixture), list(mixture.values())
    while True:
        kind = rng.choices(kinds, weights)[0]
        if not pools[kind]:
            pools[kind] = _fill(tasks, tokens, kind, rng)
        yield collate(pools[kind].pop(), tokens, rng)


def _fill(
    tasks: Tasks, tokens: ConversationTokens, kind: str, rng: random.Random
) -> list[list[Conversation]]:
    size = BATCH_SIZES[kind]
    conversations = [tasks.kinds[kind](rng) for _ in range(size * 10)]
    by_image: dict[int, list[Conversation]] = {}
    for conversation in conversations:
        by_image.setdefault(len(conversation.objects), []).append(conversation)
    batches = []
    for group in by_image.values():
        group.sort(key=lambda conversation: len(tokens(conversation)[0]))
        batches += [group[i : i + size] for i in range(0, len(group), size)]
    batches = [batch for batch in batches if len(batch) > size // 3]
    rng.shuffle(batches)
    return batches
