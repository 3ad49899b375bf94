"""Whether adapters and a base belong together."""

from __future__ import annotations

import hashlib
import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import safe_open
from torch import Tensor, nn
from transformers import PreTrainedModel

from unime.config import InputConfig, ModelConfig
from unime.errors import ConfigError
from unime.models.adapter_files import (
    ADAPTER,
    adapter_folders,
    named_folder,
    read_config,
    read_description,
    read_weights,
    trained_inputs,
)
from unime.models.sentence_layout import is_exported, read_exported

COMMIT = re.compile("[0-9a-f]{7,40}")

SAMPLED = 256  # numbers of every tensor, from its begin


def describe_base(base: PreTrainedModel, model: ModelConfig, folder: Path) -> dict[str, Any]:
    """What identifies a base model wherever its folder lies: its family, and a few of its numbers.

    Input embeddings are neither quantised nor adapted, so the same base gives the same sample in
    any precision, up to rounding; what was trained from it may have the same, and other weights.

    Args:
        folder: where its files are.
    """
    weight = cast(nn.Embedding, base.get_input_embeddings()).weight.detach().flatten()
    places = torch.linspace(0, weight.numel() - 1, 18, dtype=torch.float64).long()[1:-1]
    return {
        "name": model.name,
        "revision": model.revision,
        "folder": str(Path(model.name).resolve()) if Path(model.name).is_dir() else None,
        "weights": base_digest(folder),
        "model_type": base.config.model_type,
        "embedding_sample": weight[places.to(weight.device)].float().tolist(),
        "quantization": model.quantization.value,
        "precision": model.precision.value,
        "trust_remote_code": model.trust_remote_code,
        "processor": model.processor,
    }


def check_fits(folder: Path, base: dict[str, Any], inputs: InputConfig) -> None:
    """Refuse adapters that were trained on another base; warn where it may be another, and where
    given inputs differ.

    Args:
        base: what the model is that they are loaded on (`describe_base`).
    """
    trained = read_description(folder)
    if not trained:
        if (folder / ADAPTER).is_file():
            _check_named_base(folder, base)
        return
    then = {"embedding_sample": [], "model_type": None, "name": None} | trained["base"]
    expected = torch.tensor(then["embedding_sample"])
    found = torch.tensor(base["embedding_sample"])
    same_type = then["model_type"] == base["model_type"]
    same_size = expected.shape == found.shape
    if not (same_type and same_size and torch.allclose(expected, found, rtol=2e-2, atol=1e-6)):
        raise ConfigError(
            f"model.adapter: {folder} was trained on {then['name']}"
            f" ({then['model_type']}), not on {base['name']} ({base['model_type']})"
        )
    weights = then.get("weights")
    if weights is not None and base["weights"] is not None and weights != base["weights"]:
        warnings.warn(
            f"{folder} was trained on {then['name']}; {base['name']} has the same vocabulary and"
            " other weights: its vectors will not be those that were trained",
            stacklevel=3,
        )
    for key, value in trained["inputs"].items():
        now = getattr(inputs, key, None)
        if now is not None and value != now:
            warnings.warn(
                f"{folder} was trained with inputs.{key}={value!r}, this run has {now!r}",
                stacklevel=3,
            )


def _check_named_base(folder: Path, base: dict[str, Any]) -> None:
    """What a plain peft adapter says of its base, which is a name, and perhaps a revision."""
    config = read_config(folder)
    name, revision, now = config.base_model_name_or_path, config.revision, base["revision"]
    if not name:
        return
    if name == base["name"]:
        commits = [of for of in (revision, now) if of and COMMIT.fullmatch(of)]
        if len(commits) < 2 or now.startswith(revision):
            return
    elif there := named_folder(name, folder):
        weights = base_digest(there)
        if str(there.resolve()) == base["folder"] or (weights and weights == base["weights"]):
            return
        if weights and base["weights"]:
            raise ConfigError(
                f"model.adapter: {folder} was trained on {there}, whose weights are not those of"
                f" {base['name']}; name that folder in model.name, or, to mix them all the same,"
                f" take base_model_name_or_path out of {folder / ADAPTER}"
            )
    then = f"{name} at {revision}" if revision else name
    warnings.warn(
        f"{folder} says that it was trained on {then}; here it is put on"
        f" {base['name']}{f' at {now}' if now else ''}, and nothing here can tell whether these are"
        " the same weights",
        stacklevel=4,
    )


def check_not_merged(
    base: Path, adapter: Path, processor: str | None = None, pickled: bool = False
) -> None:
    """Refuse an adapter on an export that holds it already, or that it was not trained on.

    Args:
        base: folder of a model, which may be an export of unime.
        processor: another than the export's, which may be asked with another prompt.
    """
    if not is_exported(base):
        return
    exported = read_exported(base)
    advice = (
        f"model.adapter: {adapter} %s {base}, an export of unime: leave model.adapter out"
        " (model.adapter=null) to train or evaluate that model; to put the adapter on the base that"
        " it was trained on, name this base in model.name"
    )
    if exported["merged"]:
        for path in adapter_folders(adapter):
            if adapter_digest(read_weights(path, pickled)) in exported["merged"]:
                raise ConfigError(advice % "is merged already into the weights of")
    prompt = trained_inputs(base, adapter).get("prompt")  # the adapter's, where it says it
    if exported["inputs"].get("prompt") == "chat" != prompt and processor is None:
        raise ConfigError(advice % f"(prompt {prompt!r}) was not trained on")


def base_digest(folder: Path) -> str | None:
    """Of the beginnings of all tensors, rounded to bfloat16: the same for a checkpoint that was cut
    into other files, renamed, or saved in another precision; None where no file can be read."""
    found = set()  # of what is shared some checkpoints hold two copies
    try:
        for path in folder.glob("*.safetensors"):
            with safe_open(path, framework="pt") as file:
                for name in file.keys():  # noqa: SIM118 (it is no dictionary)
                    part = file.get_slice(name)
                    shape = part.get_shape()
                    first = part[: 1 if len(shape) > 1 else SAMPLED] if shape else None
                    first = file.get_tensor(name) if first is None else first
                    found.add((tuple(shape), _bytes(first.flatten()[:SAMPLED])))
    except Exception:  # of a reader in Rust; who loads them says what is wrong
        return None
    return hashlib.sha256(repr(sorted(found)).encode()).hexdigest()[:32] if found else None


def adapter_digest(tensors: Mapping[str, Tensor]) -> str:
    """Of all numbers of an adapter, whatever its tensors are called."""
    parts = sorted(
        hashlib.sha256(repr(tuple(of.shape)).encode() + _exact(of)).digest()
        for of in tensors.values()
    )
    return hashlib.sha256(b"".join(parts)).hexdigest()[:32]


def _exact(values: Tensor) -> bytes:
    return values.detach().cpu().float().contiguous().numpy().tobytes()


def _bytes(values: Tensor) -> bytes:
    return values.to(torch.bfloat16).contiguous().view(torch.uint8).numpy().tobytes()
