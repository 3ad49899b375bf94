"""A trained encoder as a model of its own, which sentence-transformers, transformers and peft load.

<folder>/
    config.json model-*.safetensors …   the merged model, with its head, as transformers saves
    tokenizer, processor, chat_template.jinja   the template carries the prompt
    embedding_chat_template.jinja       the same, where those look for it who start an engine with
        --chat-template, as WeMM-Embedding's users do
    modules.json 1_Pooling/ sentence_bert_config.json config_sentence_transformers.json
    reading_transformer.py pixels.py picture_files.py resolution.py   pictures as in training,
        unless code=false
"""

from __future__ import annotations

import json
import shutil
from copy import deepcopy
from pathlib import Path
from typing import Any, cast

import torch
from peft import LoraConfig, PeftModel
from peft.tuners.lora import LoraLayer
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.tokenization_utils_base import VERY_LARGE_INTEGER

from unime.config import INPUT_DEFAULTS
from unime.errors import ConfigError
from unime.export.chat_template import carrying_template
from unime.inputs.resolution import Resolution
from unime.models.adapter_files import WEIGHTS
from unime.models.adapters import Adapters, adapter_tensors
from unime.models.belonging import adapter_digest
from unime.models.encoder import Encoder
from unime.models.item_processor import ItemProcessor
from unime.models.sentence_layout import EXPORTED, read_exported
from unime.runtime.files import read_json, write_json

_OF = "sentence_transformers.base.modules"
TRANSFORMER = f"{_OF}.transformer.Transformer"
POOLING = "sentence_transformers.sentence_transformer.modules.pooling.Pooling"
NORMALIZE = f"{_OF}.normalize.Normalize"
PACKAGE = Path(__file__).parents[1]
READING = (
    "export/reading_transformer.py",
    *(f"inputs/{name}.py" for name in ("pixels", "picture_files", "resolution")),
)
EMBEDDING_TEMPLATE = "embedding_chat_template.jinja"
OWN_FILES = (".json", ".py", ".txt", ".model", ".jinja")  # of a model that brings its own code
PASS = {"method": "forward", "method_output_name": "last_hidden_state"}


def save_merged(
    encoder: Encoder, folder: Path, max_shard_size: str, source: Path, code: bool
) -> None:
    """Write a model whose adapters are merged, without quantised layers, and everything it is
    loaded with.

    Args:
        source: folder of the base model.
        code: with the code that reads pictures as in training.
    """
    base, processor = encoder.base, encoder.processor
    adapters = read_exported(source)["merged"]
    adapters += [adapter_digest(tensors) for _, tensors in encoder.adapters.merged.values()]
    if processor.backbone.adapt is not None:
        _save_with_own_code(base, folder, max_shard_size, source)
        write_inputs(folder, processor, str(processor.inputs.prompt), adapters)
        return
    write_inputs(folder, processor, "chat", adapters)
    hf_processor = deepcopy(processor.hf_processor)
    hf_processor.chat_template = carrying_template(
        hf_processor, processor.backbone, processor.prompt, processor.control_tokens
    )
    hf_processor.tokenizer.padding_side = "left"
    hf_processor.tokenizer.model_max_length = VERY_LARGE_INTEGER  # the suffix would be cut first
    base.save_pretrained(folder, max_shard_size=max_shard_size)
    hf_processor.save_pretrained(folder)
    (folder / EMBEDDING_TEMPLATE).write_text(hf_processor.chat_template, encoding="utf-8")
    if "all" not in dict(processor.backbone.st_limits):
        size = base.config.get_text_config().hidden_size
        _write_sentence_transformers(folder, size, processor, code)


def write_sizes(folder: Path, sizes: list[int]) -> None:
    """Put the sizes that a model was trained at into its configuration, without which vLLM refuses
    a request for fewer dimensions."""
    config = read_json(folder / "config.json")
    said = {"is_matryoshka": True, "matryoshka_dimensions": sizes}
    write_json(folder / "config.json", config | said)


def write_inputs(
    folder: Path, processor: ItemProcessor, prompt: str, adapters: list[str] | None = None
) -> None:
    """What the model was trained with, for unime; `prompt`: how it is asked now; `adapters`: the
    digests of those that are merged into its weights."""
    folder.mkdir(parents=True, exist_ok=True)
    inputs = {name: getattr(processor.inputs, name) for name in INPUT_DEFAULTS}
    content = {"version": 1, "inputs": inputs | {"prompt": prompt}, "merged": adapters or []}
    write_json(folder / EXPORTED, content)


def _save_with_own_code(
    base: PreTrainedModel, folder: Path, max_shard_size: str, source: Path
) -> None:
    """New weights among the files of a model that brings its own code, which stay what they are:
    transformers 5 would write its configuration in a form that this code does not read."""
    state, seen = base.state_dict(), set()
    for name, tensor in state.items():  # of what is shared, each gets its own: this code ties none
        if tensor.data_ptr() in seen:
            state[name] = tensor.clone()
        seen.add(tensor.data_ptr())
    base.save_pretrained(folder, state_dict=state, max_shard_size=max_shard_size)
    for path in source.iterdir():
        if path.suffix in OWN_FILES and not path.name.endswith(".index.json"):
            shutil.copy(path, folder)
    config = read_json(source / "config.json", key="model.name")
    config["torch_dtype"] = str(base.dtype).removeprefix("torch.")
    write_json(folder / "config.json", config)


def _write_sentence_transformers(
    folder: Path, hidden_size: int, processor: ItemProcessor, code: bool
) -> None:
    """Files of sentence-transformers 6 that make it embed as encoder.py does."""
    kinds = ["text", "image", "image+text", *(["video"] if processor.backbone.video else [])]
    modalities: dict[str, Any] = {kind: PASS for kind in kinds}
    transformer: dict[str, Any] = {
        "transformer_task": "feature-extraction",
        "module_output_name": "token_embeddings",
        "modality_config": modalities | {"message": PASS | {"format": "structured"}},
    }
    settings = vars(processor.hf_processor).get("images_kwargs")
    if settings:  # of max_tiles, which Gemma 3's processor has in no file
        transformer["processing_kwargs"] = {"image": settings}
    kind = TRANSFORMER
    if code:
        kind = "reading_transformer.ReadingTransformer"
        if processor.resolution != Resolution():  # else its own processor does it
            transformer["resolution"] = processor.inputs.resolution
        if processor.inputs.jpeg_draft:
            transformer["jpeg_draft"] = processor.inputs.resolution
        for name in READING:
            text = (PACKAGE / name).read_text(encoding="utf-8").replace("unime.inputs.", ".")
            (folder / Path(name).name).write_text(text, encoding="utf-8")
    modules = (("", kind), ("1_Pooling", POOLING), ("2_Normalize", NORMALIZE))
    content: dict[str, Any] = {
        "modules.json": [
            {"idx": index, "name": str(index), "path": path, "type": of}
            for index, (path, of) in enumerate(modules)
        ],
        "1_Pooling/config.json": {
            "embedding_dimension": hidden_size,
            "pooling_mode": "lasttoken",
            "include_prompt": True,
        },
        "sentence_bert_config.json": transformer,
        "config_sentence_transformers.json": {
            "model_type": "SentenceTransformer",
            "similarity_fn_name": "cosine",
            "prompts": {"query": "", "document": ""},
            "default_prompt_name": None,
        },
    }
    for name, value in content.items():
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")


def save_combined_adapter(adapters: Adapters, processor: ItemProcessor, folder: Path) -> None:
    """Write all adapters as one of their ranks' sum, whose output is the sum of theirs, and the
    inputs that they were trained with.

    Raises:
        ConfigError: one of several is DoRA, which scales the weights that it lies on.
    """
    stack = cast(PeftModel, adapters.stack)
    configs = cast(dict[str, LoraConfig], stack.peft_config)
    alone = len(configs) == 1 and not adapters.merged
    if alone:
        tensors = next(iter(adapter_tensors(stack).values()))
        config = deepcopy(next(iter(configs.values())))
    elif adapters.merged or any(config.use_dora for config in configs.values()):
        raise ConfigError("form: got adapter, expected merged: DoRA does not add up with others")
    else:
        tensors, config = _combined(stack, configs)
    write_inputs(folder, processor, str(processor.inputs.prompt))
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})
    config.inference_mode = True
    config.save_pretrained(str(folder))


def _combined(
    stack: PeftModel, configs: dict[str, LoraConfig]
) -> tuple[dict[str, Tensor], LoraConfig]:
    """B A + B' A' = [B B'] [A; A'], with the scaling in B; zeros where an adapter has no layer."""
    tensors: dict[str, Tensor] = {}
    layers = {path: of for path, of in stack.named_modules() if isinstance(of, LoraLayer)}
    rank = max(sum(layer.r.values()) for layer in layers.values())
    for path, layer in layers.items():
        own = [name for name in configs if name in layer.lora_A]
        first = torch.cat([cast(Tensor, layer.lora_A[name].weight) for name in own])  # (r, in)
        second = torch.cat(
            [layer.scaling[name] * cast(Tensor, layer.lora_B[name].weight) for name in own], dim=1
        )  # (out, r)
        missing = rank - len(first)
        tensors[f"{path}.lora_A.weight"] = nn.functional.pad(first, (0, 0, 0, missing))
        tensors[f"{path}.lora_B.weight"] = nn.functional.pad(second, (0, missing))
    config = LoraConfig(
        r=rank,
        lora_alpha=rank,
        target_modules=[path.removeprefix("base_model.model.") for path in layers],
        base_model_name_or_path=next(iter(configs.values())).base_model_name_or_path,
    )
    return {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, config
