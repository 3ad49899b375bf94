"""README.md of an exported model: what it is, how it was made, how good it is, how it is used."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import yaml

from unime.config import ModelConfig
from unime.export.run_facts import public, recipe
from unime.export.templates import rendered
from unime.inputs.items import Item
from unime.inputs.resolution import Resolution
from unime.models.encoder import Encoder
from unime.models.prompts import render

ADAPTER = "it is an adapter for peft"  # why sentence-transformers does not load it
QUESTION = "Which bird is it?"


@dataclass
class Exported:
    """What was exported, as the card says it."""

    size: int  # of its vectors
    inputs: dict[str, Any]
    limits: dict[str, str]  # what sentence-transformers cannot do with it, and why
    figures: list[str]  # what was compared
    model: ModelConfig  # as unime loads it
    resizes: bool  # to inputs.resolution before the processor, which does not
    code: bool = False  # it carries code that reads pictures
    otherwise: list[str] = field(default_factory=list)  # pictures that are embedded otherwise
    peft: dict[str, Any] | None = None  # what its lines in peft say
    collapsed: list[str] = field(default_factory=list)  # signs of it
    sizes: list[int] = field(default_factory=list)  # it was trained at, if at several


def model_card(
    name: str,
    base: Mapping[str, Any],
    done: Exported,
    recipes: Mapping[str, Mapping[str, Any]],
    scores: str | None,
    license: str | None,
    commit: str,
) -> str:
    """The README.md of an exported model (model_card.md.jinja).

    Args:
        recipes: the configuration of each stage by its title, in their order.
        scores: a Markdown table.
    """
    origin = public(base["name"])
    head: dict[str, Any] = {
        "library_name": "transformers" if "all" in done.limits else "sentence-transformers",
        "pipeline_tag": "feature-extraction",
        "tags": ["multimodal", "embeddings", "unime", base["model_type"]],
    }
    head |= {"base_model": origin} if "/" in origin else {}  # a hub id
    head |= {"license": license} if license else {}
    return rendered(
        "model_card.md.jinja",
        head=yaml.safe_dump(head, sort_keys=False),
        name=name,
        origin=origin,
        base=base,
        done=done,
        is_adapter=done.limits.get("all") == ADAPTER,
        recipes=[recipe(title, config) for title, config in recipes.items()],
        scores=scores,
        license=license,
        commit=commit,
        question=QUESTION,
    )


def lines_in_peft(model: ModelConfig, encoder: Encoder) -> dict[str, Any] | None:
    """What the lines that embed a picture with a text in transformers and peft alone say; None
    where that takes more than their own processor does as it is saved."""
    of, backbone = encoder.processor, encoder.backbone
    pixels = Resolution.parse(str(of.inputs.resolution)).pixels
    if backbone.call_processor is not None or of.inputs.max_tiles or pixels is not None:
        return None
    prompt = render(Item(QUESTION, ("bird.jpg",)), of.hf_processor, backbone, of.prompt)
    bos = of.tokenizer.bos_token
    return {
        "backbone": backbone,
        "revision": encoder.base_description["revision"],
        "attention": backbone.attention(model.attention),
        "size": of.resolution.size,
        "prompt": prompt,
        "special_tokens": not (bos and prompt.startswith(bos)),
    }
