"""Baselines in sentence-transformers' layout: text models, and multimodal ones.

An item's vector is that of ``SentenceTransformer.encode``, with the model's default prompt or the
one that ``prompt_name`` names. A model refuses what it does not support: a text model pictures, one
that embeds texts and images apart the two together. The task's instruction goes before the text; a
model that takes chat messages gets it as its prompt, the system turn.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from accelerate.utils import send_to_device
from torch import Tensor
from torch.nn import functional
from transformers import PreTrainedTokenizerBase

from unime.config import EncoderKind, InputConfig, ModelConfig
from unime.errors import ConfigError, DataError, require_package
from unime.inputs.items import Item
from unime.inputs.media import check_not_empty
from unime.models.checkpoint_files import Source
from unime.models.explaining import explained
from unime.models.item_processor import video_times
from unime.models.loading import check_own_code
from unime.models.sentence_layout import MODULES, check_modules
from unime.models.stated_sizes import check_pictures
from unime.retrieval.embedder import BaselineEmbedder, Prepared, item_name, own_text
from unime.runtime.progress import quiet_transformers

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

Groups = list[tuple[list[int], dict[str, Any]]]  # places of items, and their features


class SentenceEncoder(BaselineEmbedder):
    """A model in sentence-transformers' layout, with one prompt for all items.

    Asymmetric models (E5, BGE, Qwen3-Embedding) have one prompt for queries and another one, or
    none, for documents. Here both get the same, and such a model may score lower than its authors
    say, unless the suite's instructions stand in for the prompts (texts: before the text).

    Args:
        prompt_name: of the model's own prompts; None: its default one, if it has one.

    Raises:
        ConfigError: no such prompt, or a limit of text tokens for a model of chat messages.
    """

    kind = EncoderKind.sentence_transformers.value

    def __init__(
        self, model: SentenceTransformer, inputs: InputConfig, prompt_name: str | None = None
    ) -> None:
        super().__init__(model, inputs)
        self.takes_messages = "message" in model.modalities
        self.takes_videos = "video" in model.modalities
        name = prompt_name or model.default_prompt_name
        if name is not None and name not in model.prompts:
            known = ", ".join(model.prompts) or "none"
            raise ConfigError(f"prompt_name: got {name!r}, expected one of the model's: {known}")
        self.prompt: str = (model.prompts[name] or "") if name is not None else ""
        if inputs.max_text_tokens is not None:
            if self.takes_messages:
                raise ConfigError(
                    f"inputs.max_text_tokens: got {inputs.max_text_tokens}, expected null: this"
                    " model reads chat messages, whose images would be cut too"
                )
            own = model.max_seq_length or inputs.max_text_tokens
            model.max_seq_length = min(own, inputs.max_text_tokens)
        self.dimension = (
            model.get_embedding_dimension() or self.embed(self.prepare([Item("a")]).inputs).shape[1]
        )

    @classmethod
    def load(
        cls,
        model: ModelConfig,
        source: Source,
        inputs: InputConfig,
        device: torch.device,
        prompt_name: str | None = None,
    ) -> SentenceEncoder:
        """Load a sentence-transformers model from a local folder.

        Raises:
            ConfigError: what is there cannot be used, or sentence-transformers is not installed.
        """
        require_package("sentence_transformers", "eval", "encoder")
        from sentence_transformers import SentenceTransformer

        quiet_transformers()
        options = {"use_safetensors": True, "dtype": getattr(torch, model.precision.value)}
        if model.attention is not None:
            options["attn_implementation"] = model.attention
        with explained(model):
            if not (source.folder / MODULES).is_file():
                raise ConfigError(
                    f"model.name: {source.name} has no {MODULES}: not in sentence-transformers'"
                    " layout, which says how the model pools"
                )
            check_modules(source, model.trust_remote_code)
            if model.trust_remote_code:
                check_own_code(source.folder)
            loaded = SentenceTransformer(
                str(source.folder),
                device=str(device),
                trust_remote_code=model.trust_remote_code,
                local_files_only=True,  # find_model has fetched it
                model_kwargs=options,
            )
            for module in loaded:
                check_pictures(getattr(module, "processor", None))
            return cls(loaded, inputs, prompt_name)

    def refuses(self, item: Item) -> str | None:
        parts = self._modalities(item)
        if parts and not self.model.supports(parts[0] if len(parts) == 1 else parts):  # type: ignore[arg-type]
            takes = ", ".join(map(str, self.model.modalities))
            return f"it embeds {takes}, not {' and '.join(parts)}"
        several = len(item.images) + len(item.video) * (not self.takes_videos) > 1
        if several and not self.takes_messages:
            return "it embeds one image, not several"
        return None

    def prepare(self, items: Sequence[Item]) -> Prepared:
        groups: dict[tuple[tuple[str, ...], str], list[int]] = {}
        for place, item in enumerate(items):
            check_not_empty(item)
            if reason := self.refuses(item):
                raise DataError(f"{item_name(item)}: {reason}")
            instruction = item.instruction if self.takes_messages else ""
            groups.setdefault((self._modalities(item), instruction), []).append(place)
        inputs: Groups = []
        truncated = [False] * len(items)
        for (modalities, instruction), places in groups.items():
            options: dict[str, Any] = {}
            if "video" in modalities:  # its frames are chosen already
                options["processing_kwargs"] = {"video": {"do_sample_frames": False}}
            values = [self._value(items[place]) for place in places]
            prompt = self.prompt + instruction
            try:
                features = self.model.preprocess(values, prompt=prompt or None, **options)
            except Exception as error:  # the checkpoint's own code may raise anything
                first = item_name(items[places[0]])
                raise DataError(f"{first} (or beside it): not to be embedded: {error}") from error
            for place, cut in zip(places, self._truncated(values, features), strict=True):
                truncated[place] = cut
            inputs.append((places, dict(features)))
        return Prepared(inputs, truncated)

    @torch.inference_mode()
    def embed(self, inputs: Any) -> Tensor:
        rows, order = [], []
        for places, features in inputs:
            moved = send_to_device(features, self.device)
            vectors = self.model(moved)["sentence_embedding"]  # (b, D)
            rows.append(functional.normalize(vectors.float(), dim=1).cpu())
            order += places
        return torch.cat(rows)[torch.tensor(order).argsort()]

    def describe(self) -> dict[str, Any]:
        return self.described(self._limit(), self.prompt or None)

    def _modalities(self, item: Item) -> tuple[str, ...]:
        """What it holds, sorted by name as sentence-transformers has them."""
        text = item.text if self.takes_messages else own_text(item)
        video = bool(item.video) and self.takes_videos
        image = bool(item.images) or bool(item.video) and not video
        present = {"image": image, "text": bool(text.strip()), "video": video}
        return tuple(name for name, there in present.items() if there)

    def _value(self, item: Item) -> Any:
        """What sentence-transformers takes of an item. A text is wrapped in a dictionary where it
        could be taken for the address of a picture; media come first."""
        text = own_text(replace(item, instruction="") if self.takes_messages else item)
        if self.model.modalities == ["text"]:
            return text
        images, frames = self.read_media(item)
        value: dict[str, Any] = {}
        if frames and not self.takes_videos:
            images, frames = images + frames, []  # as ours does
        if images:
            value["image"] = images[0] if len(images) == 1 else images
        if frames:
            value["video"] = {"array": frames, "video_metadata": video_times(len(frames))}
        return value | ({"text": text} if text else {})

    def _limit(self) -> int | None:
        limit = self.model.max_seq_length
        return limit if limit is not None and limit < 10**9 else None  # "none" in tokenizers

    def _truncated(self, values: list[Any], features: Mapping[str, Any]) -> list[bool]:
        """Which texts are longer than the model reads. Where they are in chat messages only what
        comes out can be told: those that fill it to the last token."""
        limit, none = self._limit(), [False] * len(values)
        if limit is None:
            return none
        if self.takes_messages:
            mask = features.get("attention_mask")
            return (mask.sum(dim=1) >= limit).tolist() if isinstance(mask, Tensor) else none
        texts = [value if isinstance(value, str) else value.get("text") for value in values]
        tokenizer = self.model.tokenizer
        if not isinstance(tokenizer, PreTrainedTokenizerBase) or None in texts:
            return none
        whole = tokenizer([self.prompt + str(text) for text in texts], verbose=False)["input_ids"]
        return [len(ids) > limit for ids in whole]
