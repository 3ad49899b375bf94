"""Tiny checkpoints in the layouts of released models, and a hub cache to find them in.

from tests.support.published.layouts import of_transformers_4
of_transformers_4(tiny_model("llava_next"), tmp_path / "released")

Full weights get the file and tensor names of transformers 4.4x (DeepGlint-AI's UniME), adapters
those of peft 0.1x on such a model (TIGER-Lab's VLM2Vec), and Qwen3-VL-Embedding's modules are
sentence-transformers'. What these repositories hold beside that is not copied.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor

# Today's prefixes of modules and those of transformers 4.4x, the first that fits
OLD_NAMES = {
    "llava": {
        "model.language_model.": "language_model.model.",
        "model.vision_tower.": "vision_tower.vision_model.",
        "model.multi_modal_projector.": "multi_modal_projector.",
        "model.image_newline": "image_newline",
        "lm_head.": "language_model.lm_head.",
    },
    "qwen": {"model.language_model.": "model.", "model.visual.": "visual."},
}
PEFT = "base_model.model."


def old_name(name: str, family: str) -> str:
    prefixes = OLD_NAMES["llava" if family.startswith("llava") else "qwen"]
    new = next((prefix for prefix in prefixes if name.startswith(prefix)), "")
    return prefixes[new] + name.removeprefix(new) if new else name


def of_transformers_4(tiny: Path, folder: Path, chat_template: bool = True) -> Path:
    """Full weights in two shards with old names, and the old set of configuration files."""
    family = read(tiny / "config.json")["model_type"]
    folder.mkdir(parents=True)
    state = {old_name(name, family): tensor for name, tensor in todays_state(tiny).items()}
    weight_map = {}
    for shard in range(2):
        file = f"model-{shard + 1:05d}-of-00002.safetensors"
        tensors = {name: state[name] for name in sorted(state)[shard::2]}
        save_file(tensors, folder / file, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(tensors, file)
    write(folder / "model.safetensors.index.json", {"metadata": {}, "weight_map": weight_map})
    write(folder / "config.json", _old_config(read(tiny / "config.json")))
    _old_processor(tiny, folder, chat_template)
    return folder


def todays_state(tiny: Path) -> dict[str, Tensor]:
    """A tiny model's weights by the names of its modules (it is saved with older ones)."""
    from transformers import AutoModelForImageTextToText

    model = AutoModelForImageTextToText.from_pretrained(tiny)
    return {name: tensor.contiguous() for name, tensor in model.state_dict().items()}


def _old_config(config: dict[str, Any]) -> dict[str, Any]:
    config |= {"torch_dtype": config.pop("dtype"), "transformers_version": "4.45.2"}
    text = config["text_config"]
    rope = text.pop("rope_parameters")
    text["rope_theta"] = rope["rope_theta"]
    if config["model_type"].startswith("llava"):
        return config | {"use_image_newline_parameter": True, "ignore_index": -100}
    vision = config["vision_config"]  # Qwen2-VL had no text_config: all of it was one level up
    vision.pop("rope_parameters")
    vision |= {"in_chans": vision.pop("in_channels"), "spatial_patch_size": vision["patch_size"]}
    del config["text_config"], text["model_type"], text["layer_types"]
    text["rope_scaling"] = {"type": "mrope", "mrope_section": rope["mrope_section"]}
    return text | config | {"vision_config": vision | {"model_type": "qwen2_vl"}}


def _old_processor(tiny: Path, folder: Path, chat_template: bool) -> None:
    processor = read(tiny / "processor_config.json")
    images, video = processor.pop("image_processor"), processor.pop("video_processor", None)
    name = {"processor_class": processor["processor_class"]}
    if "Qwen2" in name["processor_class"]:
        size = images.pop("size")
        images |= {"min_pixels": size["shortest_edge"], "max_pixels": size["longest_edge"]}
    else:
        write(folder / "processor_config.json", processor)
        if video is not None:
            (folder / "video_processor").mkdir()
            old = video | {"image_processor_type": video.pop("video_processor_type")}
            write(folder / "video_processor" / "preprocessor_config.json", old)
    write(folder / "preprocessor_config.json", images | name)
    if chat_template and (tiny / "chat_template.jinja").is_file():
        template = (tiny / "chat_template.jinja").read_text()
        write(folder / "chat_template.json", {"chat_template": template})
    shutil.copyfile(tiny / "tokenizer.json", folder / "tokenizer.json")
    tokenizer = read(tiny / "tokenizer_config.json")
    del tokenizer["backend"], tokenizer["extra_special_tokens"]
    added = read(tiny / "tokenizer.json")["added_tokens"]
    decoder = {str(token.pop("id")): token for token in added}
    special = {key: tokenizer[key] for key in ("eos_token", "pad_token", "unk_token")}
    write(folder / "special_tokens_map.json", special)
    old_class = {"tokenizer_class": "PreTrainedTokenizerFast", "added_tokens_decoder": decoder}
    write(folder / "tokenizer_config.json", tokenizer | old_class)


def of_peft_1(
    adapter: Path,
    folder: Path,
    base: str,
    targets: list[str] | str,
    family: str = "qwen2_vl",
    **settings: Any,
) -> Path:
    """One of our adapters as VLM2Vec's training writes them: old names of modules, a list of their
    last parts (or a pattern) for targets."""
    folder.mkdir(parents=True, exist_ok=True)
    config = read(adapter / "adapter_config.json")
    tensors = {
        PEFT + old_name(name.removeprefix(PEFT), family): tensor
        for name, tensor in load_file(adapter / "adapter_model.safetensors").items()
    }
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    kept = ("r", "lora_alpha", "lora_dropout", "use_dora", "use_rslora", "bias", "peft_type")
    unset = (
        *("auto_mapping", "layer_replication", "layers_pattern", "layers_to_transform"),
        *("megatron_config", "modules_to_save", "revision", "task_type"),
    )
    written = {key: config[key] for key in kept} | dict.fromkeys(unset)
    written |= {"base_model_name_or_path": base, "target_modules": targets}
    written |= {"alpha_pattern": {}, "rank_pattern": {}, "loftq_config": {}}
    written |= {"init_lora_weights": "gaussian", "megatron_core": "megatron.core"}
    written |= {"fan_in_fan_out": False, "inference_mode": True}
    write(folder / "adapter_config.json", written | settings)
    return folder


def of_sentence_transformers(tiny: Path, folder: Path) -> Path:
    """The modules around a tiny Qwen3-VL that Qwen3-VL-Embedding is said to have."""
    shutil.copytree(tiny, folder)
    transformer = "sentence_transformers.base.modules.transformer.Transformer"
    pooling = "sentence_transformers.sentence_transformer.modules.pooling.Pooling"
    normalize = "sentence_transformers.sentence_transformer.modules.normalize.Normalize"
    modules = ((transformer, ""), (pooling, "1_Pooling"), (normalize, "2_Normalize"))
    width = read(tiny / "config.json")["text_config"]["hidden_size"]
    taken = {"method": "forward", "method_output_name": "last_hidden_state"}
    modalities: dict[str, Any] = dict.fromkeys(("text", "image", "image+text"), taken)
    modalities |= {"message": taken | {"format": "structured"}}
    (folder / "1_Pooling").mkdir()
    for name, content in {
        "modules.json": [
            {"idx": index, "name": str(index), "path": path, "type": kind}
            for index, (kind, path) in enumerate(modules)
        ],
        "1_Pooling/config.json": {
            "embedding_dimension": width, "pooling_mode": "lasttoken", "include_prompt": True,
        },
        "sentence_bert_config.json": {
            "transformer_task": "feature-extraction", "module_output_name": "token_embeddings",
            "modality_config": modalities,
            "processing_kwargs": {"chat_template": {"add_generation_prompt": True}},
        },
        "config_sentence_transformers.json": {
            "model_type": "SentenceTransformer", "similarity_fn_name": "cosine",
            "prompts": {"query": "", "document": ""}, "default_prompt_name": None,
        },
    }.items():  # fmt: skip
        write(folder / name, content)
    return folder


def add_to_hub_cache(cache: Path, name: str, folder: Path, commit: str = "0" * 40) -> Path:
    """Put a checkpoint where huggingface_hub would have downloaded its main branch to."""
    root = cache / f"models--{name.replace('/', '--')}"
    (root / "refs").mkdir(parents=True)
    (root / "refs/main").write_text(commit)
    return Path(shutil.copytree(folder, root / "snapshots" / commit))


def read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def write(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=2), encoding="utf-8")
