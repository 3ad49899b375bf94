"""A stack of adapters in a folder: each in peft's format, and what they were trained on and with.

final/
    encoder.json                the base, the inputs, and the adapters in their order
    00-rank32/ 01-rank16/       adapter_config.json, adapter_model.safetensors
"""

from __future__ import annotations

import json
import shutil
import warnings
from pathlib import Path
from pickle import UnpicklingError
from typing import TYPE_CHECKING, Any, cast

import torch
from peft import LoraConfig, PeftConfig
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import PreTrainedModel

from unime.config import INPUT_DEFAULTS, ConfigError, InputConfig, ModelConfig
from unime.sentence_layout import EXPORTED

if TYPE_CHECKING:
    from unime.adapters import Adapters

DESCRIPTION = "encoder.json"
WEIGHTS, PICKLE = "adapter_model.safetensors", "adapter_model.bin"
VERSION = 2  # of encoder.json
TEXT_INPUTS = ("prompt", "max_text_tokens")  # all that stage 1 sees


def adapter_folders(folder: str | Path) -> list[Path]:
    """The adapters in a folder written by `save_adapters` in their order, or a plain peft adapter.

    Raises:
        ConfigError: neither of the two.
    """
    folder = Path(folder)
    if (folder / DESCRIPTION).is_file():
        return [folder / name for name in read_description(folder)["adapters"]]
    if (folder / "adapter_config.json").is_file():
        return [folder]
    raise ConfigError(
        f"model.adapter: {folder} holds neither {DESCRIPTION} nor adapter_config.json"
    )


def trained_inputs(base: Path, adapter: Path | None) -> dict[str, Any]:
    """What adapters, or the exported model in `base`, were trained with, as far as these say it."""
    inputs: dict[str, Any] = {}
    for folder in filter(None, (base, adapter)):
        path = folder / EXPORTED
        try:
            if path.is_file():
                inputs |= json.loads(path.read_text(encoding="utf-8"))["inputs"]
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise ConfigError(f"model.name: {path}: {error}") from error
    if adapter is not None and (adapter / DESCRIPTION).is_file():
        inputs = inputs | read_description(adapter)["inputs"]
    return inputs


def save_adapters(
    folder: str | Path,
    adapters: Adapters,
    tensors: dict[str, dict[str, Tensor]],
    base: dict[str, Any],
    inputs: InputConfig,
    decoder_only: bool = False,
) -> None:
    """Write every adapter in peft's format, and what they were trained with.

    Written aside and renamed, so that `folder` is complete or as it was.

    Args:
        tensors: those of the stack (:func:`adapter_tensors`).
    """
    folder = Path(folder)
    aside = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(aside, ignore_errors=True)
    stacked: Any = adapters.stack.peft_config if adapters.stack else {}
    for name, (config, of) in (
        adapters.merged | {name: (config, tensors[name]) for name, config in stacked.items()}
    ).items():
        path = aside / name
        path.mkdir(parents=True)
        save_file(of, path / WEIGHTS, metadata={"format": "pt"})
        inference_mode, config.inference_mode = config.inference_mode, True
        config.save_pretrained(str(path))
        config.inference_mode = inference_mode
    dora = any(config.use_dora for config in stacked.values())
    seen = TEXT_INPUTS if decoder_only else tuple(INPUT_DEFAULTS)
    description = {
        "version": VERSION,
        "base": base,
        "inputs": {name: getattr(inputs, name) for name in seen},
        "decoder_only": decoder_only,
        "adapters": adapters.names,
        # Outputs add up, merged or not; but DoRA scales the very weights that it was trained on.
        "merged": len(adapters.merged) if dora else adapters.num_below,
    }
    text = json.dumps(description, indent=2, ensure_ascii=False) + "\n"
    (aside / DESCRIPTION).write_text(text, encoding="utf-8")
    replaced = folder.with_name(f".{folder.name}.replaced")
    shutil.rmtree(replaced, ignore_errors=True)
    if folder.exists():
        folder.rename(replaced)
    aside.rename(folder)
    shutil.rmtree(replaced, ignore_errors=True)


def describe_base(base: PreTrainedModel, model: ModelConfig) -> dict[str, Any]:
    """What identifies a base model wherever its folder lies: its family, and a few of its numbers.

    Input embeddings are neither quantised nor adapted, so the same base gives the same sample in
    any precision, up to rounding.
    """
    weight = cast(nn.Embedding, base.get_input_embeddings()).weight.detach().flatten()
    places = torch.linspace(0, weight.numel() - 1, 18, dtype=torch.float64).long()[1:-1]
    return {
        "name": model.name,
        "revision": model.revision,
        "model_type": base.config.model_type,
        "embedding_sample": weight[places.to(weight.device)].float().tolist(),
        "quantization": model.quantization.value,
        "precision": model.precision.value,
        "trust_remote_code": model.trust_remote_code,
        "processor": model.processor,
    }


def check_fits(folder: Path, base: dict[str, Any], inputs: InputConfig) -> None:
    """Refuse adapters that were trained on another base; warn where given inputs differ.

    Raises:
        ConfigError: another base.
    """
    if not (folder / DESCRIPTION).is_file():
        return  # a plain peft adapter says nothing about its base or inputs
    trained = read_description(folder)
    expected = torch.tensor(trained["base"]["embedding_sample"])
    found = torch.tensor(base["embedding_sample"])
    same_type = trained["base"]["model_type"] == base["model_type"]
    if not same_type or not torch.allclose(expected, found, rtol=2e-2, atol=1e-6):
        raise ConfigError(
            f"model.adapter: {folder} was trained on {trained['base']['name']}"
            f" ({trained['base']['model_type']}), not on {base['name']} ({base['model_type']})"
        )
    for key, then in trained["inputs"].items():
        now = getattr(inputs, key, None)
        if now is not None and then != now:
            warnings.warn(
                f"{folder} was trained with inputs.{key}={then!r}, this run has {now!r}",
                stacklevel=3,
            )


def merged_below(folder: Path) -> int:
    """How many of the adapters the others were trained on as part of the base's weights."""
    return read_description(folder)["merged"] if (folder / DESCRIPTION).is_file() else 0


def read_description(folder: Path) -> dict[str, Any]:
    path = folder / DESCRIPTION
    try:
        description = json.loads(path.read_text(encoding="utf-8"))
        complete = {"base", "inputs", "adapters", "merged"} <= set(description)
    except (OSError, ValueError, TypeError) as error:
        raise ConfigError(f"model.adapter: {path}: {error}") from error
    if not complete:
        raise ConfigError(f"model.adapter: {path} lacks base, inputs, adapters or merged")
    if description.get("version") != VERSION:
        found = description.get("version")
        raise ConfigError(f"model.adapter: {path} has version {found!r}, expected {VERSION}")
    return description


def read_config(path: Path) -> LoraConfig:
    try:
        config = PeftConfig.from_pretrained(str(path))
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise ConfigError(f"model.adapter: {path}: {error}") from error
    if not isinstance(config, LoraConfig):
        raise ConfigError(f"model.adapter: {path} is {config.peft_type}, expected LORA")
    return config


def read_weights(path: Path, may_be_pickled: bool) -> dict[str, Tensor]:
    file = path / WEIGHTS
    try:
        if file.is_file() or not (path / PICKLE).is_file():
            return load_file(file)
        file = path / PICKLE
        if may_be_pickled:
            return torch.load(file, map_location="cpu", weights_only=True)
    except (OSError, SafetensorError, UnpicklingError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        raise ConfigError(f"model.adapter: {file}: {reason}") from error
    raise ConfigError(
        f"model.adapter: {file} is a pickle, expected {WEIGHTS}; model.pickled_adapter=true lets"
        " torch's restricted reader have it, which takes tensors only"
    )
