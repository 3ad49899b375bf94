"""Conversations to tensors: images drawn, chat tokens with loss on answers only.

Batches hold one image size and similar lengths, padded on the right.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor
from transformers import Qwen2VLForConditionalGeneration, Qwen2VLProcessor

from data_prep.demo.emoji import render, sample_rendering, scene
from data_prep.demo_base.conversations import Conversation, Tasks
from data_prep.demo_base.model import CHAT_TEMPLATE

IGNORE = -100
ANSWER = "{{ message['content'] }}"  # the base's template, which says where answers are
MARKED = CHAT_TEMPLATE.replace(ANSWER, f"{{% generation %}}{ANSWER}{{% endgeneration %}}")
# Images per batch of each kind: about equal work.
BATCH_SIZES = {"name": 128, "image": 96, "scene": 56, "concept_text": 128, "word_text": 160}


@dataclass
class TokenBatch:
    """Conversations of one kind; labels are shifted: `labels[:, i]` is what follows position i."""

    kind: str
    inputs: dict[str, Tensor]  # of the model
    labels: Tensor  # (B, L), IGNORE off the answers
    conversations: list[Conversation]


def draw(conversation: Conversation, rng: random.Random) -> np.ndarray:
    """The conversation's image, (64, 64 * objects, 3) uint8."""
    if len(conversation.objects) == 1:
        concept, style = conversation.objects[0]
        drawn = sample_rendering(rng, concept, conversation.background, conversation.effect)
        return render(concept, style, drawn)
    return scene(conversation.objects, conversation.background, rng, conversation.effect).image


def chat(conversation: Conversation, rng: random.Random) -> list[dict[str, Any]]:
    """The conversation as a chat, its image before the first question."""
    messages: list[dict[str, Any]] = []
    for question, answer in conversation.turns:
        asked = [{"type": "text", "text": question}]
        messages += [{"role": "user", "content": asked}, {"role": "assistant", "content": answer}]
    if conversation.objects:
        image = Image.fromarray(draw(conversation, rng))
        messages[0]["content"].insert(0, {"type": "image", "image": image})
    return messages


def collate(
    conversations: list[Conversation], processor: Qwen2VLProcessor, rng: random.Random
) -> TokenBatch:
    """The model's inputs, and as labels each answer and the token that ends it."""
    inputs: Any = processor.apply_chat_template(
        [chat(conversation, rng) for conversation in conversations],
        chat_template=MARKED,
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
        return_assistant_tokens_mask=True,
        processor_kwargs={"padding": True, "padding_side": "right"},
    )
    answer = F.pad(inputs.pop("assistant_masks").bool(), (0, 1))  # (B, L + 1)
    following = F.pad(inputs["input_ids"][:, 1:], (0, 1))
    labels = torch.where(answer[:, 1:] | answer[:, :-1], following, IGNORE)
    return TokenBatch(conversations[0].kind, dict(inputs), labels, conversations)


def answer_logits(
    model: Qwen2VLForConditionalGeneration, batch: TokenBatch
) -> tuple[Tensor, Tensor]:
    """Logits and labels at answer positions only: the head is the dearest part elsewhere."""
    hidden = model.model(**batch.inputs, use_cache=False).last_hidden_state
    wanted = batch.labels != IGNORE
    return model.lm_head(hidden[wanted]), batch.labels[wanted]


def answer_loss(model: Qwen2VLForConditionalGeneration, batch: TokenBatch) -> Tensor:
    """Mean cross-entropy over answer tokens."""
    logits, labels = answer_logits(model, batch)
    return F.cross_entropy(logits.float(), labels)


def stream(
    tasks: Tasks, processor: Qwen2VLProcessor, mixture: dict[str, float], rng: random.Random
) -> Iterator[TokenBatch]:
    """Endless batches; each kind has a pool sorted by length, so that padding stays small."""
    pools: dict[str, list[list[Conversation]]] = {kind: [] for kind in mixture}
    kinds, weights = list(mixture), list(mixture.values())
    while True:
        kind = rng.choices(kinds, weights)[0]
        if not pools[kind]:
            pools[kind] = _fill(tasks, kind, rng)
        yield collate(pools[kind].pop(), processor, rng)


def _fill(tasks: Tasks, kind: str, rng: random.Random) -> list[list[Conversation]]:
    size = BATCH_SIZES[kind]
    conversations = [tasks.kinds[kind](rng) for _ in range(size * 10)]
    conversations.sort(key=lambda conversation: sum(map(len, chain(*conversation.turns))))
    batches = [batch for batch in of_one_size(conversations, size) if len(batch) > size // 3]
    rng.shuffle(batches)
    return batches


def of_one_size(conversations: list[Conversation], count: int) -> Iterator[list[Conversation]]:
    """At most `count` conversations at a time, in order, whose images have one size."""
    by_objects: dict[int, list[Conversation]] = {}
    for conversation in conversations:
        by_objects.setdefault(len(conversation.objects), []).append(conversation)
    for group in by_objects.values():
        yield from (group[i : i + count] for i in range(0, len(group), count))
