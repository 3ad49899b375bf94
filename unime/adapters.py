"""The stack of LoRA adapters on a base model: loaded frozen, one trained on top, saved in order.

Stage 2 starts from stage 1's adapter with another rank, so its own is a second one: all are active
at once and their outputs add up, and a new one starts at exactly zero (its B matrix is zero).
"""

from __future__ import annotations

import json
import shutil
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, cast

import torch
from peft import LoraConfig, PeftConfig, PeftModel
from peft.tuners.lora import LoraLayer, LoraModel
from peft.utils import get_peft_model_state_dict, set_peft_model_state_dict
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import PreTrainedModel

from unime.backbones import Backbone
from unime.config import INPUT_DEFAULTS, ConfigError, InputConfig, LoraSettings, ModelConfig
from unime.quantization import is_quantised
from unime.renaming import fit_names
from unime.sentence_layout import EXPORTED
from unime.sharding import whole

DESCRIPTION = "encoder.json"
WEIGHTS, PICKLE = "adapter_model.safetensors", "adapter_model.bin"
VERSION = 2  # of encoder.json
TEXT_INPUTS = ("prompt", "max_text_tokens")  # all that stage 1 sees


@dataclass
class Adapters:
    """The adapters on a base model, in their order."""

    stack: PeftModel | None = None  # all active: their outputs add up
    # Those before them, which are part of the base's weights; kept to be saved again.
    merged: dict[str, tuple[LoraConfig, dict[str, Tensor]]] = field(default_factory=dict)

    @property
    def names(self) -> list[str]:
        return [*self.merged, *(self.stack.peft_config if self.stack else ())]

    def merge(self) -> None:
        """Make the stack part of the base's weights."""
        if self.stack is not None:
            tensors = adapter_tensors(self.stack)
            configs: Any = self.stack.peft_config
            self.merged |= {name: (config, tensors[name]) for name, config in configs.items()}
            cast(LoraModel, self.stack.base_model).merge_and_unload(adapter_names=list(configs))
            self.stack = None


def stack_adapters(
    base: PreTrainedModel,
    folder: Path | None,
    lora: LoraSettings | None,
    backbone: Backbone,
    merge: bool = False,
    pickled: bool = False,
) -> Adapters:
    """Load the adapters in `folder`, frozen, and put a new trainable one on top if `lora` is given.

    All of them are active, in fp32 whatever the base's precision; only the new one has gradients.

    Args:
        merge: make those of `folder` part of the base's weights instead.
        pickled: those may be ``adapter_model.bin``.

    Raises:
        ConfigError: a folder without adapters, or whose adapters do not fit the base; a quantised
            base to merge into; DoRA that training and evaluation would compute differently.
    """
    targets = backbone.lora_targets(base, lora.train) if lora else None  # before any is wrapped
    modules = [name for name, _ in base.named_modules()]
    adapters = Adapters()
    paths = adapter_folders(folder) if folder else []
    below = _merged_below(folder) if folder else 0
    if (below or merge) and any(is_quantised(module) for module in base.modules()):
        raise ConfigError(
            f"model.adapter: {folder} cannot be merged into quantised weights, which would round"
            " them anew; export it, and let model.name be that folder"
        )
    for index, path in enumerate(paths):
        config = _read_config(path)
        weights = _read_weights(path, pickled)
        tensors, config = fit_names(weights, config, modules, path / WEIGHTS)
        name = f"{index:02d}-rank{config.r}"
        adapters.stack = _add(base, adapters.stack, name, config, path)
        _load_weights(adapters.stack, name, tensors, path)
        if index < below:  # the next one was trained on their sum
            adapters.merge()
    if merge:
        adapters.merge()
    if lora is not None:
        if lora.use_dora and lora.dropout and adapters.stack is not None:
            raise ConfigError(
                f"lora.dropout: got {lora.dropout} with lora.use_dora, expected 0 on a stacked"
                " adapter, or model.merge_adapter=true: peft takes DoRA's norm from other weights"
                " in training, with dropout, than in evaluation"
            )
        config = LoraConfig(
            r=lora.rank,
            lora_alpha=lora.alpha,
            lora_dropout=lora.dropout,
            use_rslora=lora.use_rslora,
            use_dora=lora.use_dora,
            target_modules=targets,
            base_model_name_or_path=base.name_or_path,
        )
        name = f"{len(paths):02d}-rank{lora.rank}"
        adapters.stack = _add(base, adapters.stack, name, config, None)
    if adapters.stack is not None:
        _activate(adapters.stack, trains_last=lora is not None)
    return adapters


def _activate(stack: PeftModel, trains_last: bool) -> None:
    names = list(stack.peft_config)
    cast(LoraModel, stack.base_model).set_adapter(names)  # makes all of them active, and trainable
    for name, parameter in stack.named_parameters():
        parameter.requires_grad_(trains_last and names[-1] in name.split("."))
    frozen = names[:-1] if trains_last else names
    for module in stack.modules():
        if isinstance(module, LoraLayer):
            for name in frozen:
                if name in module.lora_dropout:
                    module.lora_dropout[name] = nn.Identity()  # noise without a purpose


def adapter_folders(folder: str | Path) -> list[Path]:
    """The adapters in a folder written by `save_adapters` in their order, or a plain peft adapter.

    Raises:
        ConfigError: neither of the two.
    """
    folder = Path(folder)
    if (folder / DESCRIPTION).is_file():
        return [folder / name for name in _read_description(folder)["adapters"]]
    if (folder / "adapter_config.json").is_file():
        return [folder]
    raise ConfigError(
        f"model.adapter: {folder} holds neither {DESCRIPTION} nor adapter_config.json"
    )


def trained_inputs(base: Path, adapter: Path | None) -> dict[str, Any]:
    """What adapters, or the exported model in `base`, were trained with, as far as these say it."""
    inputs: dict[str, Any] = {}
    try:
        if (base / EXPORTED).is_file():
            inputs = json.loads((base / EXPORTED).read_text(encoding="utf-8"))["inputs"]
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise ConfigError(f"model.name: {base / EXPORTED}: {error}") from error
    if adapter is not None and (adapter / DESCRIPTION).is_file():
        inputs = inputs | _read_description(adapter)["inputs"]
    return inputs


def adapter_tensors(stack: PeftModel) -> dict[str, dict[str, Tensor]]:
    """Every adapter of the stack as peft names its tensors, on the CPU; called by every rank."""
    parts = [f".{name}." for name in stack.peft_config]
    state = {
        name: whole(parameter).cpu().contiguous()
        for name, parameter in stack.named_parameters()
        if any(part in f"{name}." for part in parts)
    }
    return {
        name: get_peft_model_state_dict(
            stack, state, adapter_name=name, save_embedding_layers=False
        )
        for name in stack.peft_config
    }


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
    seen = TEXT_INPUTS if decoder_only else tuple(INPUT_DEFAULTS)
    description = {
        "version": VERSION,
        "base": base,
        "inputs": {name: getattr(inputs, name) for name in seen},
        "decoder_only": decoder_only,
        "adapters": adapters.names,
        # Outputs add up, merged or not; but DoRA scales the very weights that it was trained on.
        "merged": len(adapters.merged) if any(c.use_dora for c in stacked.values()) else 0,
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
    }


def check_fits(folder: Path, base: dict[str, Any], inputs: InputConfig) -> None:
    """Refuse adapters that were trained on another base; warn where given inputs differ.

    Raises:
        ConfigError: another base.
    """
    if not (folder / DESCRIPTION).is_file():
        return  # a plain peft adapter says nothing about its base or inputs
    trained = _read_description(folder)
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


def _merged_below(folder: Path) -> int:
    """How many of the adapters the others were trained on as part of the base's weights."""
    return _read_description(folder)["merged"] if (folder / DESCRIPTION).is_file() else 0


def _read_description(folder: Path) -> dict[str, Any]:
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


def _read_config(path: Path) -> LoraConfig:
    try:
        config = PeftConfig.from_pretrained(str(path))
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise ConfigError(f"model.adapter: {path}: {error}") from error
    if not isinstance(config, LoraConfig):
        raise ConfigError(f"model.adapter: {path} is {config.peft_type}, expected LORA")
    return config


def _add(
    base: PreTrainedModel,
    stack: PeftModel | None,
    name: str,
    config: LoraConfig,
    path: Path | None,
) -> PeftModel:
    try:
        if stack is not None:
            stack.add_adapter(name, config)
            return stack
        with warnings.catch_warnings():  # peft 0.21 asks transformers 5.23 by a deprecated name
            warnings.simplefilter("ignore", FutureWarning)
            return PeftModel(base, config, adapter_name=name)
    except ValueError as error:
        raise ConfigError(f"model.adapter: {path or name} does not fit the base: {error}") from None


def _read_weights(path: Path, may_be_pickled: bool) -> dict[str, Tensor]:
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


def _load_weights(stack: PeftModel, name: str, weights: dict[str, Tensor], path: Path) -> None:
    try:
        result: Any = set_peft_model_state_dict(stack, weights, adapter_name=name)
    except RuntimeError as error:  # a line for every tensor of another size
        first = " ".join(str(error).split())[:300]
        raise ConfigError(f"model.adapter: {path / WEIGHTS}: {first}") from error
    missing = [key for key in result.missing_keys if name in key.split(".")]
    if missing or result.unexpected_keys:
        first = (missing + list(result.unexpected_keys))[0]
        raise ConfigError(
            f"model.adapter: {path / WEIGHTS} lacks {len(missing)} tensors of this base and has"
            f" {len(result.unexpected_keys)} that it does not know, first {first}"
        )
