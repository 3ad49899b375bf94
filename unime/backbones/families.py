"""The families of multimodal LLMs: where their parts are, and what each does in its own way.

To add one: an entry in ``BACKBONES`` with the paths of its language model, vision tower and
projector inside the model of its auto class; a quirk that needs code is one function in quirks.py,
named on the entry. A family that is not listed is derived from ``get_decoder()``, with a warning.
"""

from __future__ import annotations

import re
import warnings
from typing import Any

import torch
import transformers
from transformers import PretrainedConfig, PreTrainedModel

from unime.backbones import chat_templates, phi3_v, quirks
from unime.backbones.backbone import AUTO_CLASSES, Backbone
from unime.errors import ConfigError


def _llava(family: str, chat_template: str | None = None, **differs: Any) -> Backbone:
    return Backbone(
        family,
        language_model="model.language_model",
        vision=differs.pop("vision", ("model.vision_tower",)),
        projector=("model.multi_modal_projector",),
        chat_template=chat_template,
        **differs,
    )


def _qwen_vl(family: str, mergers: tuple[str, ...] = ("model.visual.merger",)) -> Backbone:
    return Backbone(
        family,
        language_model="model.language_model",
        vision=("model.visual",),
        projector=mergers,
        # qwen2_5_vl embeds without them, and silently differently
        required_keys=("mm_token_type_ids",),
        pixel_range=quirks.qwen_pixel_range,
        video=True,
        packed_positions=4,
    )


def _idefics(family: str) -> Backbone:
    return Backbone(
        family,
        language_model="model.text_model",
        vision=("model.vision_model",),
        projector=("model.connector",),
        nested_images=True,
        complete=quirks.image_rows_for_texts,
        tiles=quirks.tiles_of_longest_edge,
    )


BACKBONES = {
    backbone.family: backbone
    for backbone in (
        _llava("llava", chat_templates.LLAVA_TEMPLATE, any_language_model=True),
        _llava("llava_next", chat_templates.LLAVA_NEXT_TEMPLATE, tiles=quirks.tiles_of_pinpoints),
        # a flat list would be cut into tiles like single images, which it never was in training
        _llava(
            "llava_onevision",
            nested_images=True,
            video=True,
            even_videos=True,
            tiles=quirks.tiles_of_pinpoints,
        ),
        _qwen_vl("qwen2_vl"),
        _qwen_vl("qwen2_5_vl"),
        _qwen_vl("qwen3_vl", ("model.visual.merger", "model.visual.deepstack_merger_list")),
        _idefics("idefics3"),
        # whose processor has a chat template of its own for videos, without any room for a prompt
        _idefics("smolvlm"),
        _llava("internvl", video=True, tiles=quirks.tiles_of_patches),
        _llava(
            "gemma3",
            nested_images=True,
            required_keys=("token_type_ids",),  # within an image all tokens see each other
            tiles=quirks.tiles_of_pan_and_scan,
        ),
        _llava(
            "paligemma",
            chat_templates.PALIGEMMA_TEMPLATE,
            required_keys=("token_type_ids",),
            text_inputs=quirks.text_as_prefix,
            # a prefix is not causal; the decoder alone is, but for batches without padding on sdpa
            whole_for_texts=True,
            packed_positions=0,
            st_limits=(
                ("text", "its tokenizer alone gets them, and returns no token_type_ids"),
                ("mixed", "its processor puts <bos> inside of texts that stand beside images"),
            ),
        ),
        _llava(
            "mllama",
            vision=("model.vision_model",),
            nested_images=True,
            group=quirks.number_of_images,
            tiles=quirks.tiles_are_fixed,
            st_limits=tuple(
                (kind, "rows of different numbers of images must not share a forward")
                for kind in ("several images", "video", "mixed")
            ),
        ),
        Backbone(
            "phi4_multimodal",
            language_model="model",
            vision=("model.embed_tokens_extend.image_embed.img_processor",),
            projector=("model.embed_tokens_extend.image_embed",),
            unused=("model.embed_tokens_extend.audio_embed",),
            auto_class="AutoModelForCausalLM",
            # sdpa takes an image that fills its crops for a text, with a causal mask
            eager=("vision_config",),
            chat_template=chat_templates.PHI4_TEMPLATE,
            st_limits=(("all", "transformers 5.23 loads its processor without its template"),),
            tiles=quirks.tiles_of_crops,
        ),
        # Its code comes with its weights: model.trust_remote_code.
        Backbone(
            "phi3_v",
            language_model="model",
            vision=("model.vision_embed_tokens",),
            projector=("model.vision_embed_tokens.img_projection",),
            chat_template=chat_templates.PHI3_TEMPLATE,
            image_token="<|image_{n}|>",
            auto_class="AutoModelForCausalLM",
            placeholder=phi3_v.PLACEHOLDER,
            call_processor=phi3_v.call_processor,
            importing=phi3_v.importable,
            adapt=phi3_v.adapt,
            packed_positions=0,
            st_limits=(("all", "its own code has no AutoModel"),),
            tiles=phi3_v.tiles_of_crops,
            limit_name="original_max_position_embeddings",  # up to which its factors are one set
        ),
    )
}


def backbone_of(config: PretrainedConfig, trust_remote_code: bool = False) -> Backbone:
    """The entry for a model's configuration, or one derived from the architecture, with a warning
    that says what was assumed."""
    return BACKBONES.get(config.model_type) or derive_backbone(config, trust_remote_code)


def derive_backbone(config: PretrainedConfig, trust_remote_code: bool = False) -> Backbone:
    """Assume that whatever stands beside the decoder (and is not the vocabulary head) sees."""
    auto_class, model = _without_weights(config, trust_remote_code)
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
    if not vision:
        raise ConfigError(
            f"model.name: nothing in {type(model).__name__} beside its decoder {path!r} sees images"
        )
    warnings.warn(
        f"model_type {config.model_type!r} is not in unime/backbones/families.py; assuming"
        f" {auto_class}, language model {path!r},"
        f" vision {list(vision)}, projector {list(projector)}, a flat list"
        " of images per text, image inputs that join along their first dimension, no input that"
        " the model needs without noticing, and a processor with a chat template of its own",
        stacklevel=2,
    )
    return Backbone(
        config.model_type,
        language_model=path,
        vision=vision,
        projector=projector,
        auto_class=auto_class,
    )


def _without_weights(
    config: PretrainedConfig, trust_remote_code: bool
) -> tuple[str, PreTrainedModel]:
    """The first auto class that knows the model, and the model on no device."""
    for auto_class in AUTO_CLASSES:
        try:
            with torch.device("meta"):
                model = getattr(transformers, auto_class).from_config(
                    config, trust_remote_code=trust_remote_code
                )
            return auto_class, model
        except ValueError:  # which lists all that the class knows
            continue
    raise ConfigError(
        f"model.name: {config.model_type!r} is known to none of {', '.join(AUTO_CLASSES)}"
    )
