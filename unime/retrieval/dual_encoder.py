"""Baselines with one encoder for texts and one for images: CLIP, SigLIP, SigLIP 2, ALIGN, …

How such a model embeds what it was not made for follows its use in UniIR and MMEB (score fusion):

- a text alone and an image alone: the model's own projection, L2-normalised;
- several images: the normalised mean of theirs; a video: that of its sampled frames;
- both: the normalised sum of the parts (text, images, video), each of norm 1;
- a task's instruction goes before the text, as part of it.

Texts are cut at what the model was built for (77 tokens in CLIP, 64 in SigLIP), and counted.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional
from transformers import AutoConfig, AutoModel, AutoProcessor, PreTrainedModel

from unime.config import EncoderKind, InputConfig, ModelConfig
from unime.errors import ConfigError, DataError
from unime.inputs.items import Item
from unime.inputs.media import ControlTokens, check_not_empty
from unime.models.checkpoint_files import Source, check_complete, check_config, check_weights
from unime.models.explaining import explained
from unime.models.loading import check_own_code
from unime.models.stated_sizes import check_pictures, check_plan
from unime.retrieval.embedder import BaselineEmbedder, Prepared, item_name, own_text, pixel_budget
from unime.runtime.progress import quiet_transformers

PARTS = TEXT, IMAGES, VIDEO = range(3)  # whose sum an item's embedding is
FORWARD = 64  # images in one forward; a batch of videos has many times its items
# Trained on texts that are padded to their full length, which the padding is a part of: their text
# encoder pools the last position and sees no mask.
ALWAYS_PADDED = ("siglip", "siglip2")


class DualEncoder(BaselineEmbedder):
    """A transformers model with ``get_text_features`` and ``get_image_features``.

    Args:
        inputs: `max_text_tokens` may only shorten what the model takes.

    Raises:
        ConfigError: it has not both, or their vectors are of different widths.
    """

    kind = EncoderKind.dual_encoder.value

    def __init__(self, model: PreTrainedModel, processor: Any, inputs: InputConfig) -> None:
        super().__init__(model, inputs)
        self.tokenizer: Any = getattr(processor, "tokenizer", None)
        self.image_processor: Any = getattr(processor, "image_processor", None)
        features = [getattr(model, f"get_{name}_features", None) for name in ("text", "image")]
        if None in (*features, self.tokenizer, self.image_processor):
            raise ConfigError(
                f"encoder: dual_encoder: {type(model).__name__} with"
                f" {type(processor).__name__} lacks get_text_features, get_image_features,"
                " a tokenizer or an image processor"
            )
        self.pixel_budget = pixel_budget(processor)
        self.padded = model.config.model_type in ALWAYS_PADDED
        self.max_text_tokens = self._limit(inputs.max_text_tokens)
        self.control_tokens = ControlTokens(processor.tokenizer.all_special_tokens)
        self.dimension = self._probe()

    @classmethod
    def load(
        cls, model: ModelConfig, source: Source, inputs: InputConfig, device: torch.device
    ) -> DualEncoder:
        """Load the two encoders and their processor from a local folder.

        Raises:
            ConfigError: what is there cannot be used.
        """
        code, folder = {"trust_remote_code": model.trust_remote_code}, source.folder
        quiet_transformers()
        with explained(model):
            if model.trust_remote_code:
                check_own_code(folder)
            check_config(source)
            check_plan(folder, check_weights(source), model.trust_remote_code, AutoModel)
            config = AutoConfig.from_pretrained(folder, **code)
            processor = AutoProcessor.from_pretrained(folder, **code)
            check_pictures(processor)
            loaded: Any = AutoModel.from_pretrained(
                folder,
                config=config,
                dtype=getattr(torch, model.precision.value),
                attn_implementation=model.attention,
                use_safetensors=True,
                output_loading_info=True,
                ignore_mismatched_sizes=True,  # check_complete says which
                **code,
            )
            embedder = cls(loaded[0].to(device), processor, inputs)
            check_complete(model.name, loaded[0], loaded[1])
        return embedder

    def prepare(self, items: Sequence[Item]) -> Prepared:
        texts, text_slots, pictures, picture_slots = [], [], [], []
        for number, item in enumerate(items):
            check_not_empty(item)
            if words := own_text(item):
                texts.append(self.control_tokens.neutralise(words))
                text_slots.append(number * len(PARTS) + TEXT)
            for part, shown in zip((IMAGES, VIDEO), self.read_media(item), strict=True):
                own = self._pixels(item, shown)
                pictures += own
                picture_slots += [number * len(PARTS) + part] * len(own)
        inputs: dict[str, Any] = {"count": len(items)}
        truncated = [False] * len(items)
        if texts:
            inputs["texts"], cut = self._tokenise(texts)
            inputs["text_slots"] = torch.tensor(text_slots)
            for slot, was_cut in zip(text_slots, cut, strict=True):
                truncated[slot // len(PARTS)] = was_cut
        if pictures:
            inputs["images"] = {key: torch.cat([p[key] for p in pictures]) for key in pictures[0]}
            inputs["image_slots"] = torch.tensor(picture_slots)
        return Prepared(inputs, truncated)

    @torch.inference_mode()
    def embed(self, inputs: Any) -> Tensor:
        sums = torch.zeros(inputs["count"] * len(PARTS), self.dimension)  # (3 B, D)
        if "texts" in inputs:
            vectors = self._features(self.model.get_text_features, inputs["texts"])
            sums.index_add_(0, inputs["text_slots"], vectors)
        if "images" in inputs:
            slots, batch = inputs["image_slots"], inputs["images"]
            for start in range(0, len(slots), FORWARD):
                part = {key: value[start : start + FORWARD] for key, value in batch.items()}
                vectors = self._features(self.model.get_image_features, part)
                sums.index_add_(0, slots[start : start + FORWARD], vectors)
        parts = functional.normalize(sums, dim=1).view(inputs["count"], len(PARTS), -1)
        return functional.normalize(parts.sum(dim=1), dim=1)  # (B, D); a part that is not there: 0

    def describe(self) -> dict[str, Any]:
        return self.described(self.max_text_tokens) | {"pixel_budget": self.pixel_budget}

    def _limit(self, wanted: int | None) -> int:
        """Tokens of a text: as many as there are positions, or fewer if asked for."""
        config = self.model.config
        text = getattr(config, "text_config", config)
        positions = getattr(text, "max_position_embeddings", None)
        own = [self.tokenizer.model_max_length, positions]
        limit = min(value for value in own if value is not None)
        if wanted is not None and self.padded and wanted < limit:
            raise ConfigError(
                f"inputs.max_text_tokens: got {wanted}, expected null for"
                f" {config.model_type}, which reads exactly {limit} tokens"
            )
        return limit if wanted is None else min(wanted, limit)

    def _tokenise(self, texts: list[str]) -> tuple[dict[str, Tensor], list[bool]]:
        """Token ids (n, L), and which of the texts were cut."""
        whole = self.tokenizer(texts, verbose=False)["input_ids"]
        truncated = [len(ids) > self.max_text_tokens for ids in whole]
        tokens = self.tokenizer(
            texts,
            truncation=True,
            max_length=self.max_text_tokens,
            padding="max_length" if self.padded else True,
            return_tensors="pt",
        )
        if self.padded:
            tokens.pop("attention_mask", None)
        return _accepted(self.model.get_text_features, tokens), truncated

    def _pixels(self, item: Item, pictures: list[Image.Image]) -> list[dict[str, Tensor]]:
        """What the model takes of each picture, which is processed alone: (1, …) each."""
        try:
            return [
                _accepted(
                    self.model.get_image_features,
                    self.image_processor(images=[picture], return_tensors="pt"),
                )
                for picture in pictures
            ]
        except Exception as error:  # the checkpoint's own code may raise anything
            raise DataError(f"{item_name(item)}: the processor refuses it: {error}") from error

    def _features(self, method: Callable[..., Any], batch: Mapping[str, Tensor]) -> Tensor:
        """Projections of a batch (n, D), of norm 1, on the CPU."""
        moved = {
            key: value.to(self.device, self.model.dtype if value.is_floating_point() else None)
            for key, value in batch.items()
        }
        output = method(**moved)
        vectors = output if isinstance(output, Tensor) else output.pooler_output
        return functional.normalize(vectors.float(), dim=1).cpu()

    @torch.inference_mode()
    def _probe(self) -> int:
        """The width of the embeddings, which configurations name in many ways."""
        model = self.model
        picture = self._pixels(Item(), [Image.new("RGB", (32, 32))])[0]
        text = self._features(model.get_text_features, self._tokenise(["a"])[0])
        image = self._features(model.get_image_features, picture)
        if text.shape != image.shape:
            raise ConfigError(
                f"encoder: dual_encoder: {type(model).__name__} embeds a text as"
                f" {tuple(text.shape)} and an image as {tuple(image.shape)}"
            )
        return text.shape[1]


def _accepted(method: Callable[..., Any], values: Mapping[str, Any]) -> dict[str, Tensor]:
    names = inspect.signature(method).parameters
    return {key: value for key, value in values.items() if key in names}
