"""What is known of a family of multimodal LLMs: its parts, and what it does in its own way."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Hashable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import transformers
from PIL import Image
from torch import Tensor, nn
from transformers import PretrainedConfig

from unime.backbones.layers import is_linear
from unime.errors import ConfigError
from unime.inputs.padding import Sample

CallProcessor = Callable[[Any, str, list[Image.Image] | None], Mapping[str, Tensor]]
AUTO_CLASSES = ("AutoModelForImageTextToText", "AutoModelForMultimodalLM", "AutoModelForCausalLM")


@dataclass(frozen=True)
class Backbone:
    """One family, by the ``model_type`` of its configuration."""

    family: str
    language_model: str
    vision: tuple[str, ...]
    projector: tuple[str, ...]
    # A part may lie inside another, to which it then does not belong (part_of).
    unused: tuple[str, ...] = ()  # towers of what no item has (audio): in no part
    auto_class: str = AUTO_CLASSES[0]
    eager: tuple[str, ...] = ()  # parts of the configuration whose attention is right in eager only
    whole_for_texts: bool = False  # the decoder alone embeds texts otherwise than the model does
    required_keys: tuple[str, ...] = ()  # inputs whose absence the model would not notice
    nested_images: bool = False  # the processor takes a list of images per text
    video: bool = False  # processor and model take videos; else a video is its frames, as images
    even_videos: bool = False  # which must be of as many frames as each other
    text_inputs: Callable[[Any, str], Mapping[str, Tensor]] | None = None  # of (processor, prompt)
    complete: Callable[[Sequence[Sample]], Sequence[Sample]] | None = None  # before samples join
    group: Callable[[Sample], Hashable] | None = None  # only equal ones may share a forward
    # sets (most, processor, config) to cut an image into so many tiles; None: it never is cut
    tiles: Callable[[int, Any, Any], None] | None = None
    chat_template: str | None = None  # where the processor has none
    any_language_model: bool = False  # whose tokenizer's chat template goes before `chat_template`
    image_token: str = ""  # in a prompt without a chat format, {n} counts; "": the processor's own
    placeholder: str = r"(?!)"  # of images in a prompt, where it is no special token (a pattern)
    # (processor, prompt, images), where it is not called as transformers' own are
    call_processor: CallProcessor | None = None
    importing: Callable[[], AbstractContextManager[None]] = nullcontext  # while its code is loaded
    adapt: Callable[[Any, nn.Module], None] | None = None  # processor and model, once loaded
    st_limits: tuple[tuple[str, str], ...] = ()  # kinds that sentence-transformers cannot: why
    # what its configuration calls the most tokens of one item
    limit_name: str = "max_position_embeddings"
    pixel_range: Callable[[Any, int, int], None] | None = None  # makes a processor resize so itself

    def part_of(self, path: str) -> str | None:
        """The part ("llm", "projector", "vision") a module belongs to, by the innermost of the
        parts it lies in; None: none (lm_head, or unused)."""
        roots: dict[str, str | None] = {root: "vision" for root in self.vision}
        roots |= {root: "projector" for root in self.projector} | {self.language_model: "llm"}
        roots |= dict.fromkeys(self.unused)
        around = [root for root in roots if path == root or path.startswith(f"{root}.")]
        return roots[max(around, key=len)] if around else None

    def trained_parts(self, model: nn.Module) -> list[str]:
        """Which of llm, projector and vision hold trainable parameters."""
        named = model.named_parameters()
        return sorted({str(self.part_of(name)) for name, p in named if p.requires_grad})

    @property
    def not_quantised(self) -> list[str]:
        """Module paths for ``llm_int8_skip_modules``, which matches from the start of a path."""
        return [*self.vision, *self.projector, *self.unused, "lm_head"]

    @property
    def auto_model(self) -> Any:
        """The class of transformers that loads its models."""
        return getattr(transformers, self.auto_class)

    def attention(self, chosen: str | None) -> str | None | dict[str, str | None]:
        """``attn_implementation`` where `chosen` is asked for, and eager where nothing else is
        right."""
        return {"": chosen, **dict.fromkeys(self.eager, "eager")} if self.eager else chosen

    def most_tokens(self, config: PretrainedConfig) -> int | None:
        """How many tokens of one item a model claims to read; None: it does not say."""
        return getattr(config.get_text_config(), self.limit_name, None)

    def limit_tiles(self, most: int, processor: Any, config: PretrainedConfig) -> None:
        """Let an image be cut into at most so many tiles; 0: as it is.

        Raises:
            ConfigError: this family's images are not cut, or not into another number.
        """
        if not most:
            return
        if self.tiles is None:
            raise ConfigError(
                f"inputs.max_tiles: got {most}, expected 0 or null: {self.family} does not cut"
                " images into tiles"
            )
        self.tiles(most, processor, config)

    def lora_targets(self, model: nn.Module, parts: Sequence[str]) -> str:
        """A regular expression for peft that matches the linear layers of `parts`, whole paths
        only (a bare ``q_proj`` is found in vision towers too).

        Raises:
            ConfigError: a part without linear layers.
        """
        leaves: dict[str, set[str]] = defaultdict(set)
        found = set()
        for path, module in model.named_modules():
            part = self.part_of(path)
            if part in parts and is_linear(module):
                parent, _, leaf = path.rpartition(".")
                leaves[re.sub(r"\\\.\d+(?=\\\.|$)", r"\\.\\d+", re.escape(parent))].add(leaf)
                found.add(part)
        for part in parts:
            if part not in found:
                raise ConfigError(f"lora.train: {self.family!r} has no linear layer in {part!r}")
        return "|".join(f"{parent}\\.({'|'.join(sorted(leaves[parent]))})" for parent in leaves)
