"""Which model a configuration names, and the embedder that it becomes."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from unime.config import EmbeddingConfig, EncoderKind, InputConfig
from unime.models.adapter_files import trained_inputs
from unime.models.checkpoint_files import Checkpoint, Source
from unime.models.encoder import Encoder
from unime.models.hub import fetch, locate
from unime.models.sentence_layout import packaged_model
from unime.retrieval.dual_encoder import DualEncoder
from unime.retrieval.embedder import ItemEmbedder
from unime.retrieval.sentence_encoder import SentenceEncoder
from unime.retrieval.unime_embedder import UnimeEmbedder


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
        """Local folders whose content `add_to` puts into a digest."""
        return [self.source.folder] if self.source.commit is None else []


Found = Checkpoint | Baseline  # what a configuration's model led to


def find_model(config: EmbeddingConfig) -> Found:
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


def inputs_of(config: EmbeddingConfig, found: Found) -> InputConfig:
    """The settings of the inputs with nulls filled in, as far as a checkpoint's files tell them: a
    baseline has no preset, no tiles, and a limit of its own on texts."""
    if isinstance(found, Checkpoint):
        adapter = found.adapter.folder if found.adapter else None
        return config.inputs.filled(trained_inputs(found.base.folder, adapter))
    filled, limit = config.inputs.filled(), config.inputs.max_text_tokens
    return replace(filled, prompt=None, max_tiles=None, max_text_tokens=limit)


def load_embedder(config: EmbeddingConfig, device: torch.device) -> ItemEmbedder:
    """Load what the configuration names onto `device`.

    Raises:
        ConfigError: a model that cannot be used so.
    """
    if config.encoder is EncoderKind.unime:
        return UnimeEmbedder(Encoder.load(config.model, config.inputs, device=device))
    found = find_model(config)
    assert isinstance(found, Baseline)
    if config.encoder is EncoderKind.dual_encoder:
        return DualEncoder.load(config.model, found.source, config.inputs, device)
    return SentenceEncoder.load(
        config.model, found.source, config.inputs, device, config.prompt_name
    )
