"""Our models in the mteb package (`pip install unime[mteb]`), on any of its text and image tasks.

    config = EvalConfig(model=ModelConfig(name="runs/qwen2-vl-2b/stage2/final"))
    mteb.evaluate(MtebModel.load(config), mteb.get_tasks(["STSBenchmark", "Flickr30kT2IRetrieval"]))

The prompt of an input is the preset's for what it holds (text, image, both), as everywhere else.
"""

from __future__ import annotations

import hashlib
import logging
import math
import re
from collections.abc import Iterable, Mapping
from itertools import zip_longest
from numbers import Real
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from unime.config import EvalConfig
from unime.errors import DataError, require_package
from unime.inputs.items import Item
from unime.inputs.pixels import as_seen
from unime.retrieval.embedder import ItemEmbedder
from unime.retrieval.fingerprint import settings_fingerprint, vectors_fingerprint
from unime.retrieval.loading import find_model, inputs_of, load_embedder
from unime.runtime.progress import progress_bar

try:
    from mteb.models import ModelMeta
    from mteb.models.abs_encoder import AbsEncoder
    from mteb.models.model_meta import ScoringFunction
    from mteb.types import PromptType
except ModuleNotFoundError:
    require_package("mteb", "mteb", "MtebModel")
    raise

log = logging.getLogger(__name__)


class MtebModel(AbsEncoder):
    """An embedder (ours, or a baseline) as mteb's encoder protocol wants it.

    Args:
        name: ``organization/model``, under which mteb keeps results.
        revision: of what decides the vectors: mteb takes a result that it has of the same name and
            revision instead of evaluating again.
        instructions: give each input the instruction that its task's metadata has for it.
    """

    def __init__(
        self, embedder: ItemEmbedder, name: str, revision: str, instructions: bool = False
    ) -> None:
        self.embedder = embedder
        self.instructions = instructions
        takes_images = embedder.refuses(Item(images=("",))) is None
        fields = ModelMeta.model_fields.items()
        unknown: dict[str, Any] = {name: None for name, field in fields if field.is_required()}
        known = {
            "name": name,
            "revision": revision,
            "max_tokens": embedder.describe()["max_text_tokens"],
            "embed_dim": embedder.dimension,
            "framework": ["PyTorch", "Transformers"],
            "similarity_fn_name": ScoringFunction.COSINE,
            "use_instructions": instructions,
            "modalities": ["text", "image"] if takes_images else ["text"],
        }
        self.mteb_model_meta = ModelMeta(**unknown | known)

    @classmethod
    def load(
        cls,
        config: EvalConfig,
        device: torch.device | str | None = None,
        name: str | None = None,
        instructions: bool = False,
    ) -> MtebModel:
        """Load what an evaluation's configuration names; of the rest only `inputs` counts.

        Args:
            device: None: a GPU if there is one.
            name: None: made of the model's.

        Raises:
            ConfigError: a model that cannot be used.
        """
        if device is None:
            device = "cuda" if torch.cuda.is_available() else "cpu"
        model = config.model
        slug = re.sub(r"[^\w.-]+", "-", model.adapter or model.name).strip("-.")
        found = find_model(config)
        settings = settings_fingerprint(config, found, inputs_of(config, found))
        vectors = vectors_fingerprint(settings, torch.device(device).type)
        revision = hashlib.blake2b(f"{vectors} {instructions}".encode(), digest_size=16).hexdigest()
        embedder = load_embedder(config, torch.device(device))
        return cls(embedder, name or f"unime/{slug}", revision, instructions)

    @torch.no_grad()
    def encode(
        self,
        inputs: Iterable[Mapping[str, Any]],
        *,
        task_metadata: Any,
        hf_split: str,
        hf_subset: str,
        prompt_type: PromptType | None = None,
        **kwargs: Any,
    ) -> Tensor:
        """The embeddings (N, D) of mteb's batches. An empty or absent text, of which some corpora
        have a few, has a vector of zeros, which is similar to nothing; the log says how many.

        Raises:
            DataError: batches without texts and images, or of other types than these.
        """
        precision = kwargs.get("precision") or "float32"
        if precision != "float32":
            raise ValueError(f"encode_kwargs.precision: got {precision!r}, expected float32")
        instruction = self._instruction(task_metadata, prompt_type)
        rows, empty = [torch.empty(0, self.embedder.dimension)], 0
        for batch in progress_bar(inputs, desc=task_metadata.name, unit="batch"):
            with TemporaryDirectory(prefix="unime-mteb-") as folder:  # an item's pictures are files
                items = batch_items(batch, instruction, Path(folder))
                there = [i for i, item in enumerate(items) if item.text.strip() or item.images]
                vectors = torch.zeros(len(items), self.embedder.dimension)
                if there:
                    prepared = self.embedder.prepare([items[place] for place in there])
                    vectors[there] = self.embedder.embed(prepared.inputs)
            rows.append(vectors)
            empty += len(items) - len(there)
        if empty:
            log.warning("%s: %d empty texts have a vector of zeros", task_metadata.name, empty)
        return torch.cat(rows)

    def _instruction(self, task_metadata: Any, prompt_type: PromptType | None) -> str:
        """A task has one instruction, which is for its queries, or one for queries and documents
        each."""
        prompt = task_metadata.prompt if self.instructions else None
        if isinstance(prompt, dict):
            return (prompt.get(prompt_type.value) or "") if prompt_type else ""
        return "" if prompt is None or prompt_type is PromptType.document else str(prompt)


def batch_items(batch: Mapping[str, Any], instruction: str, folder: Path) -> list[Item]:
    """The items of one of mteb's batches, their pictures written into `folder`.

    Raises:
        DataError: neither texts nor images, or such of another type than strings and Pillow's
            images.
    """
    texts, pictures = batch.get("text"), batch.get("image")
    if texts is None and pictures is None:
        raise DataError(f"a batch of mteb's has {', '.join(batch)}, expected text or image")
    items = []
    for number, (text, own) in enumerate(zip_longest(texts or (), pictures or ())):
        shown = [one for one in (own if isinstance(own, list) else [own]) if not _is_absent(one)]
        paths = [_write(picture, folder / f"{number}-{n}.bmp") for n, picture in enumerate(shown)]
        items.append(Item(_text(text), tuple(paths), instruction=instruction))
    return items


def _is_absent(value: Any) -> bool:
    """Whether a table has nothing there: null, or NaN, which pandas makes of it."""
    return value is None or (isinstance(value, Real) and math.isnan(value))


def _text(value: Any) -> str:
    if _is_absent(value):
        return ""
    if not isinstance(value, str):
        raise DataError(f"a text of mteb's is a {type(value).__name__}: {value!r:.60}")
    return value


def _write(picture: Any, path: Path) -> str:
    if not isinstance(picture, Image.Image):
        raise DataError(f"an image of mteb's is a {type(picture).__name__}, expected Pillow's")
    try:
        as_seen(picture).save(path)  # pixels as they are, in the fastest format
    except Exception as error:  # Pillow's decoders raise nearly anything on damaged files
        raise DataError(f"an image of mteb's cannot be read: {error}") from error
    return str(path)
