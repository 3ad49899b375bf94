"""The stack of LoRA adapters on a base model: loaded frozen, one trained on top, saved in order.

Stage 2 starts from stage 1's adapter with another rank, so its own is a second one: all are active
at once and their outputs add up, and a new one starts at exactly zero (its B matrix is zero).
"""

from __future__ import annotations

import json
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from peft import LoraConfig, PeftModel
from peft.tuners.lora import LoraLayer, LoraModel
from peft.utils import get_peft_model_state_dict, set_peft_model_state_dict
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import PreTrainedModel

from unime.backbones.backbone import Backbone
from unime.backbones.layers import is_quantised
from unime.config import INPUT_DEFAULTS, InputConfig, LoraSettings
from unime.errors import ConfigError
from unime.models.adapter_files import (
    DESCRIPTION,
    TEXT_INPUTS,
    VERSION,
    WEIGHTS,
    adapter_folders,
    read_config,
    read_description,
    read_weights,
)
from unime.models.adapter_names import fit_names
from unime.models.stated_sizes import check_rank
from unime.runtime.distributed import whole


@dataclass
class Adapters:
    """The adapters on a base model, in their order."""

    stack: PeftModel | None = None  # all active: their outputs add up
    # Those before them, which are part of the base's weights; kept to be saved again.
    merged: dict[str, tuple[LoraConfig, dict[str, Tensor]]] = field(default_factory=dict)
    num_below: int = 0  # so many have to be merged whenever the others are loaded

    @property
    def names(self) -> list[str]:
        return [*self.merged, *(self.stack.peft_config if self.stack else ())]

    def add(self, base: PreTrainedModel, config: LoraConfig, path: Path | None = None) -> str:
        """Put one on top of the stack, or of the base; its name."""
        name = f"{len(self.names):02d}-rank{config.r}"
        try:
            with warnings.catch_warnings():  # peft 0.21 asks transformers 5.23 by a deprecated name
                warnings.simplefilter("ignore", FutureWarning)
                if self.stack is None:
                    self.stack = PeftModel(base, config, adapter_name=name)
                else:
                    self.stack.add_adapter(name, config)
        except ValueError as error:
            where = path or name
            raise ConfigError(f"model.adapter: {where} does not fit the base: {error}") from None
        return name

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
    adapters = _load(base, folder, merge, pickled) if folder else Adapters()
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
        adapters.add(base, config)
    if adapters.stack is not None:
        _activate(adapters.stack, trains_last=lora is not None)
    return adapters


def _load(base: PreTrainedModel, folder: Path, merge: bool, pickled: bool) -> Adapters:
    """The adapters in a folder, those merged that have to be, or all of them."""
    # How many of them the others were trained on as part of the base's weights.
    below: int = read_description(folder).get("merged", 0)
    if (below or merge) and any(is_quantised(module) for module in base.modules()):
        raise ConfigError(
            f"model.adapter: {folder} cannot be merged into quantised weights, which would round"
            " them anew; export it, and let model.name be that folder"
        )
    modules = [name for name, _ in base.named_modules()]
    adapters = Adapters(num_below=below)
    for index, path in enumerate(adapter_folders(folder)):
        weights, config = read_weights(path, pickled), read_config(path)
        check_rank(config, weights, path)
        tensors, config = fit_names(weights, config, modules, path / WEIGHTS)
        name = adapters.add(base, config, path)
        _load_weights(cast(PeftModel, adapters.stack), name, tensors, path)
        if index < below:  # the next one was trained on their sum
            adapters.merge()
    if merge:
        adapters.merge()
    return adapters


def load_last(adapters: Adapters, folder: Path) -> None:
    """Put the last adapter back as a checkpoint of the same stack holds it."""
    folders = adapter_folders(folder)
    names = [path.name for path in folders]
    if names != adapters.names or adapters.stack is None:
        raise ConfigError(f"{folder}: holds the adapters {names}, the model has {adapters.names}")
    _load_weights(adapters.stack, names[-1], read_weights(folders[-1], False), folders[-1])


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


def save_adapters(
    folder: Path,
    adapters: Adapters,
    tensors: dict[str, dict[str, Tensor]],
    base: dict[str, Any],
    inputs: InputConfig,
    decoder_only: bool = False,
) -> None:
    """Write every adapter in peft's format, and what they were trained with.

    Args:
        tensors: those of the stack (:func:`adapter_tensors`).
    """
    stacked: Any = adapters.stack.peft_config if adapters.stack else {}
    for name, (config, of) in (
        adapters.merged | {name: (config, tensors[name]) for name, config in stacked.items()}
    ).items():
        path = folder / name
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
    (folder / DESCRIPTION).write_text(text, encoding="utf-8")
