"""What the evaluation asks of a model, whatever kind of model it is.

A baseline goes through the same tasks, the same reading of pictures and the same scoring as ours,
so that a comparison is a run and not a number copied from a paper: ``encoder: dual_encoder`` (CLIP,
SigLIP, …; dual_encoder.py) or ``encoder: sentence_transformers`` (sentence_encoder.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import torch
from accelerate.utils import send_to_device
from PIL import Image
from torch import Tensor

from unime.adapter_files import trained_inputs
from unime.config import EncoderKind, EvalConfig, InputConfig
from unime.encoder import Encoder
from unime.errors import DataError
from unime.images import load_image, sample_frames
from unime.items import Item, whole_characters
from unime.pixel_budget import pixel_budget
from unime.prompts import render
from unime.published import Checkpoint, Source, fetch, locate
from unime.resolution import Resolution
from unime.sentence_layout import packaged_model


@dataclass
class Prepared:
    """Model inputs of some items, and which of their texts were cut."""

    inputs: Any
    truncated: list[bool]


class Embedder(Protocol):
    """
    Attributes:
        kind: as `EvalConfig.encoder` names it.
        dimension: of the embeddings, D.
    """

    kind: str
    dimension: int

    def refuses(self, item: Item) -> str | None:
        """Why the model cannot embed such an item; None: it can."""

    def prepare(self, items: Sequence[Item]) -> Prepared:
        """Read and tokenise; may run in a worker process.

        Raises:
            DataError: an item that cannot be read.
        """

    def embed(self, inputs: Any) -> Tensor:
        """Embeddings (B, D), float32, of norm 1, on the CPU, in the order of the items."""

    def describe(self) -> dict[str, Any]:
        """How items are shown to the model (prompt, resolution, frames, …), for the results."""


class Found(Protocol):
    """What a configuration's model led to: ``Checkpoint`` (ours) or ``Baseline``."""

    def describe(self) -> dict[str, Any]: ...

    def add_to(self, digest: Any) -> None: ...

    def folders(self) -> list[Path]:
        """Local folders whose content is put into digests."""


@dataclass(frozen=True)
class Baseline:
    """The checkpoint of a baseline, and what else decides its vectors beside model and inputs."""

    source: Source
    kind: EncoderKind
    prompt_name: str | None

    def describe(self) -> dict[str, Any]:
        return {**self.source.describe(), "prompt_name": self.prompt_name}

    def add_to(self, digest: Any) -> None:
        digest.update(f"{self.kind.value}|{self.prompt_name}|".encode())
        self.source.add_to(digest)

    def folders(self) -> list[Path]:
        return [self.source.folder] if self.source.commit is None else []


def find_model(config: EvalConfig) -> Found:
    """Find, and download where needed, what the configuration names.

    Raises:
        ConfigError: it is not there.
    """
    model = config.model
    if config.encoder is EncoderKind.unime:
        return locate(model)
    if model.name.startswith("pypi:"):  # in an installed Python package
        source = Source(model.name, packaged_model(model.name.removeprefix("pypi:"), "model.name"))
    else:
        source = fetch("model.name", model.name, model.revision, model.trust_remote_code)
    return Baseline(source, config.encoder, config.prompt_name)


def inputs_of(config: EvalConfig, found: Found) -> InputConfig:
    """The settings of the inputs with nulls filled in, as far as a checkpoint's files tell them: a
    baseline has no preset, no tiles, and a limit of its own on texts."""
    if isinstance(found, Checkpoint):
        adapter = found.adapter.folder if found.adapter else None
        return config.inputs.filled(trained_inputs(found.base.folder, adapter))
    filled, limit = config.inputs.filled(), config.inputs.max_text_tokens
    return replace(filled, prompt=None, max_tiles=None, max_text_tokens=limit)


def load_embedder(config: EvalConfig, device: torch.device) -> Embedder:
    """Load what the configuration names onto `device`.

    Raises:
        ConfigError: a model that cannot be used so.
    """
    if config.encoder is EncoderKind.unime:
        return UnimeEmbedder(Encoder.load(config.model, config.inputs, device=device))
    found = find_model(config)
    assert isinstance(found, Baseline)
    if config.encoder is EncoderKind.dual_encoder:
        from unime.dual_encoder import DualEncoder

        return DualEncoder.load(config.model, found.source, config.inputs, device)
    from unime.sentence_encoder import SentenceEncoder  # a second to import

    return SentenceEncoder.load(
        config.model, found.source, config.inputs, device, config.prompt_name
    )


class UnimeEmbedder:
    """A model of ours: an :class:`Encoder` and its prompt."""

    kind = "unime"

    def __init__(self, encoder: Encoder) -> None:
        self.encoder = encoder.eval()
        self.dimension = encoder.hidden_size
        self.device = next(encoder.parameters()).device

    def refuses(self, item: Item) -> str | None:
        return None

    def prepare(self, items: Sequence[Item]) -> Prepared:
        processor = self.encoder.processor
        samples, truncated = [], []
        for item in items:
            before = processor.num_truncated
            samples.append(processor(item))
            truncated.append(processor.num_truncated > before)
        return Prepared(processor.parts(samples), truncated)

    def embed(self, inputs: list[tuple[list[int], dict[str, Tensor]]]) -> Tensor:
        parts = send_to_device([part for _, part in inputs], self.device)
        places = torch.tensor([place for of, _ in inputs for place in of])
        return self.encoder(parts).float().cpu()[places.argsort()]  # (B, D)

    def describe(self) -> dict[str, Any]:
        """Also the prompts themselves, of a text and of an image, and the processor's limits."""
        processor = self.encoder.processor
        own, backbone, preset = processor.hf_processor, processor.backbone, processor.prompt
        prompts = {
            "text": render(Item("TEXT"), own, backbone, preset),
            "image": render(Item(images=("IMAGE",)), own, backbone, preset),
        }
        budget = {"pixel_budget": pixel_budget(own)}
        return asdict(processor.inputs) | {"prompts": prompts} | budget


class Media:
    """Reads the pictures of items for a baseline, as ItemProcessor does for ours."""

    def __init__(self, inputs: InputConfig) -> None:
        filled = inputs.filled()
        self.inputs = inputs
        self.num_frames = int(filled.num_frames or 0)
        self.resolution = Resolution.parse(str(filled.resolution))

    def images(self, item: Item) -> list[Image.Image]:
        """
        Raises:
            DataError: an image that cannot be read, here and below.
        """
        return [self._load(path) for path in item.images]

    def frames(self, item: Item) -> list[Image.Image]:
        """Of its video, `num_frames` evenly spaced ones."""
        return [self._load(path) for path in sample_frames(item.video, self.num_frames)]

    def _load(self, path: str) -> Image.Image:
        return self.resolution.apply(load_image(path, self.inputs))

    def describe(self, max_text_tokens: int | None, prompt: str | None = None) -> dict[str, Any]:
        filled = asdict(self.inputs.filled())
        return filled | {
            "prompt": prompt,
            "max_text_tokens": max_text_tokens,
            "max_tiles": None,
        }


def own_text(item: Item) -> str:
    """The task's instruction and then the text, in one line: what a model reads that knows no
    instructions. Half a character (a lone surrogate), which no tokenizer takes, is a "?"."""
    words = " ".join(part for part in (item.instruction, item.text) if part.strip())
    return str(whole_characters(words))


def check_not_empty(item: Item) -> None:
    """
    Raises:
        DataError: nothing to embed; an instruction alone is nothing.
    """
    if not item.text.strip() and not item.images and not item.video:
        raise DataError("an item has neither text nor image")


def item_name(item: Item) -> str:
    paths = [Path(path).name for path in (*item.images, *item.video[:1])]
    return ", ".join(paths) or f"text {item.text[:60]!r}"
