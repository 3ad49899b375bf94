"""The families of multimodal LLMs: where their parts are, and what each does in its own way.

To add one: an entry in ``BACKBONES`` with the paths of its language model, vision tower and
projector inside its ``auto_class``; a quirk that needs code is one function
named on the entry. A family that is not listed is derived from ``get_decoder()``, with a warning.
"""

from __future__ import annotations

import re
import warnings
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from PIL import Image
from torch import Tensor, nn
from transformers import AutoModelForImageTextToText, PretrainedConfig, PreTrainedModel

from unime import phi3_v
from unime.config import ConfigError, Quantization

Sample = dict[str, Tensor]  # the model input of one item, not padded

SEQUENCE_KEYS = ("input_ids", "attention_mask", "token_type_ids", "mm_token_type_ids")  # (L,) each


@dataclass(frozen=True)
class Backbone:
    """One family, by the ``model_type`` of its configuration."""

    family: str
    language_model: str
    vision: tuple[str, ...]
    projector: tuple[str, ...]
    # A part may lie inside another, to which it then does not belong (part_of).
    required_keys: tuple[str, ...] = ()  # inputs whose absence the model would not notice
    nested_images: bool = False  # the processor takes a list of images per text
    complete: Callable[[Sequence[Sample]], Sequence[Sample]] | None = None  # before samples join
    chat_template: str | None = None  # where the processor has none
    auto_class: str = "AutoModelForImageTextToText"  # of transformers
    placeholder: str = r"(?!)"  # of images in a prompt, where it is no special token (a pattern)
    call_processor: Callable[[Any, str, list[Image.Image] | None], Mapping[str, Tensor]] | None = (
        None  # where it is not called as transformers' own are
    )
    adapt: Callable[[Any, nn.Module], None] | None = None  # processor and model, once loaded

    def part_of(self, path: str) -> str | None:
        """The part ("llm", "projector", "vision") a module belongs to, by the innermost of the
        parts it lies in; None: none (lm_head)."""
        roots = {root: "vision" for root in self.vision}
        roots |= {root: "projector" for root in self.projector} | {self.language_model: "llm"}
        around = [root for root in roots if path == root or path.startswith(f"{root}.")]
        return roots[max(around, key=len)] if around else None

    @property
    def not_quantised(self) -> list[str]:
        """Module paths for ``llm_int8_skip_modules``, which matches from the start of a path."""
        return [*self.vision, *self.projector, "lm_head"]

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


def is_linear(module: nn.Module) -> bool:
    """Plain or quantised, but not nn.MultiheadAttention's, which only works from inside."""
    return type(module) is nn.Linear or is_quantised(module)


def is_quantised(module: nn.Module) -> bool:
    from bitsandbytes.nn import Linear4bit, Linear8bitLt  # slow to import, not always needed

    return isinstance(module, Linear4bit | Linear8bitLt)


def check_quantised(
    base: PreTrainedModel, backbone: Backbone, quantization: Quantization, device: torch.device
) -> None:
    """bitsandbytes skips modules by name and says nothing when a name matches none; and on CPU it
    (0.50.2) decodes weights wrongly whose rows are not whole blocks of 64. So look."""
    found = {name: module for name, module in base.named_modules() if is_quantised(module)}
    outside = [name for name in found if backbone.part_of(name) != "llm"]
    if outside:
        raise ConfigError(
            f"model.quantization: {len(outside)} layers outside {backbone.language_model} were"
            f" quantised, first {outside[0]}; name their module in unime/backbones.py"
        )
    if not found and quantization is not Quantization.none:
        raise ConfigError(
            f"model.quantization: no layer of {backbone.language_model} became"
            f" {quantization.value}; check its path in unime/backbones.py"
        )
    for name, module in found.items():
        width = cast(nn.Linear, module).in_features
        if quantization is Quantization.nf4 and device.type == "cpu" and width % 64:
            raise ConfigError(
                f"model.quantization: nf4 on CPU needs widths that 64 divides, {name} has {width}"
            )


def image_rows_for_texts(samples: Sequence[Sample]) -> Sequence[Sample]:
    """Idefics3 and SmolVLM index images by sample: a text between images needs a row of zeros,
    which the model recognises as no image."""
    keys = ("pixel_values", "pixel_attention_mask")
    shown = next((sample for sample in samples if keys[0] in sample), None)
    if shown is None:
        return samples
    blank = {key: torch.zeros_like(shown[key][:, :1]) for key in keys if key in shown}
    return [sample if keys[0] in sample else {**sample, **blank} for sample in samples]


_LLAVA_NEXT_TEMPLATE = (
    "{% for message in messages %}{{ '[INST] ' }}"
    "{% for part in message['content'] | selectattr('type', 'equalto', 'image') %}"
    "{{ '<image>\n' }}{% endfor %}"
    "{% for part in message['content'] | selectattr('type', 'equalto', 'text') %}"
    "{{ part['text'] + ' [/INST]' }}{% endfor %}{% endfor %}"
)
_LLAVA_TEMPLATE = (
    "{% for message in messages %}{{ message['role'].upper() + ': ' }}"
    "{% for part in message['content'] | selectattr('type', 'equalto', 'image') %}"
    "{{ '<image>\n' }}{% endfor %}"
    "{% for part in message['content'] | selectattr('type', 'equalto', 'text') %}"
    "{{ part['text'] + ' ' }}{% endfor %}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"
)


def _phi3_v_tiles(count: int, processor: Any, config: PretrainedConfig) -> None:
    """At most `count` crops of 336 pixels an image, beside the whole image in small."""
    processor.image_processor.num_crops = count


def _llava(family: str, chat_template: str | None, nested_images: bool = False) -> Backbone:
    return Backbone(
        family,
        language_model="model.language_model",
        vision=("model.vision_tower",),
        projector=("model.multi_modal_projector",),
        nested_images=nested_images,
        chat_template=chat_template,
    )


def _qwen_vl(family: str, mergers: tuple[str, ...] = ("model.visual.merger",)) -> Backbone:
    return Backbone(
        family,
        language_model="model.language_model",
        vision=("model.visual",),
        projector=mergers,
        # qwen2_5_vl embeds without them, and silently differently
        required_keys=("mm_token_type_ids",),
    )


def _idefics(family: str) -> Backbone:
    return Backbone(
        family,
        language_model="model.text_model",
        vision=("model.vision_model",),
        projector=("model.connector",),
        nested_images=True,
        complete=image_rows_for_texts,
    )


BACKBONES = {
    backbone.family: backbone
    for backbone in (
        _llava("llava", _LLAVA_TEMPLATE),
        _llava("llava_next", _LLAVA_NEXT_TEMPLATE),
        # a flat list would be cut into tiles like single images, which it never was in training
        _llava("llava_onevision", None, nested_images=True),
        _qwen_vl("qwen2_vl"),
        _qwen_vl("qwen2_5_vl"),
        _qwen_vl("qwen3_vl", ("model.visual.merger", "model.visual.deepstack_merger_list")),
        _idefics("idefics3"),
        _idefics("smolvlm"),
        # Its code comes with its weights: model.trust_remote_code.
        Backbone(
            "phi3_v",
            language_model="model",
            vision=("model.vision_embed_tokens",),
            projector=("model.vision_embed_tokens.img_projection",),
            chat_template=phi3_v.CHAT_TEMPLATE,
            auto_class="AutoModelForCausalLM",
            placeholder=phi3_v.PLACEHOLDER,
            call_processor=phi3_v.call_processor,
            adapt=phi3_v.adapt,
        ),
    )
}


def backbone_of(config: PretrainedConfig, trust_remote_code: bool = False) -> Backbone:
    """The entry for a model's configuration, or one derived from the architecture, with a warning
    that says what was assumed."""
    return BACKBONES.get(config.model_type) or derive_backbone(config, trust_remote_code)


def derive_backbone(config: PretrainedConfig, trust_remote_code: bool = False) -> Backbone:
    """Assume that whatever stands beside the decoder (and is not the vocabulary head) sees."""
    with torch.device("meta"):
        model: PreTrainedModel = AutoModelForImageTextToText.from_config(
            config, trust_remote_code=trust_remote_code
        )
    decoder, head = model.get_decoder(), model.get_output_embeddings()
    path = next((name for name, module in model.named_modules() if module is decoder), "")
    if not path:
        raise ConfigError(f"model.name: no decoder found inside {type(model).__name__}")
    ancestors = ["", *(path[: match.start()] for match in re.finditer(r"\.", path))]
    beside = [
        f"{ancestor}.{name}".lstrip(".")
        for ancestor in ancestors
        for name, child in model.get_submodule(ancestor).named_children()
        if child is not head and any(True for _ in child.parameters())
    ]
    beside = [name for name in beside if name != path and name not in ancestors]
    projector = tuple(name for name in beside if re.search("project|connect|merg|align", name))
    vision = tuple(name for name in beside if name not in projector)
    warnings.warn(
        f"model_type {config.model_type!r} is not in unime/backbones.py; assuming language model"
        f" {path!r}, vision {list(vision)}, projector {list(projector)}, a flat list of images"
        " per text and image inputs that join along their first dimension",
        stacklevel=2,
    )
    return Backbone(config.model_type, language_model=path, vision=vision, projector=projector)
