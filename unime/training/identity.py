"""What must be the same when a run goes on: its settings, and the models it starts from (its data:
survey.py)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from enum import Enum
from pathlib import Path
from typing import Any

from omegaconf import MISSING, OmegaConf

from unime.data.sampling.clusters import Clusters
from unime.errors import ConfigError
from unime.runtime.digests import folder_digest

MAY_DIFFER = {  # no other result, dropout masks aside
    "run.output_dir",
    "run.log_every",
    "run.save_every",
    "run.save_total_limit",
    "run.num_workers",
    "run.trackers",
    "run.collective_timeout",
    "resume.enabled",
    "resume.force",
    "optim.batch_size_per_device",  # the *global* batch size must be the same
    "optim.chunk_size",
    "optim.target_chunk_size",
    "optim.chunk_tokens",
    "optim.auto_chunk",
    "optim.graph_memory",
    "optim.packing",
    "optim.on_nonfinite",
    "optim.on_collapse",
    "loss.block_memory",
    "data.verify_images",  # the rows are compared
    "data.follow_links",
    "mining.memory",
    "validation.every",
    "validation.root",
    "validation.image_root",
    "validation.follow_links",
    "optim.gradient_checkpointing",
    "inputs.feature_store",
    "inputs.feature_store_gib",
}

BEFORE = {"data.shared_answers": True}  # settings whose default is not what there was before them


def run_identity(config: Any, num_processes: int) -> dict[str, Any]:
    """Every setting by its dotted key, the content of local models, and the global batch size, as
    JSON values."""
    settings: dict[str, Any] = {}

    def walk(prefix: str, node: Any) -> None:
        if isinstance(node, dict) and node:
            for key, value in node.items():
                walk(f"{prefix}.{key}" if prefix else str(key), value)
        else:
            settings[prefix] = node

    walk("", OmegaConf.to_container(OmegaConf.structured(config), enum_to_str=True))
    batch_size = config.optim.batch_size_per_device * num_processes
    contents = _contents(config.model)
    if (clusters := getattr(config.data, "clusters", None)) is not None:
        contents["data.clusters"] = Clusters.open(clusters).content
    return {"settings": settings, "contents": contents, "global_batch_size": batch_size}


def _contents(model: Any) -> dict[str, str]:
    """The content of what `model` leads to, or its commit on the hub; of what cannot be found
    (loading it will say so) that of the folders it names."""
    from unime.models.hub import locate  # which puts folders into digests by what is below

    try:
        found = locate(model)
    except ConfigError:
        named = {"model.name": model.name, "model.adapter": model.adapter}
        folders = {key: Path(name) for key, name in named.items() if name is not None}
        return {key: folder_digest(path) for key, path in folders.items() if path.is_dir()}
    sources = {"model.name": found.base, "model.adapter": found.adapter}
    if found.processor not in sources.values():
        sources["model.processor"] = found.processor
    return {
        key: source.commit or folder_digest(source.folder)
        for key, source in sources.items()
        if source is not None
    }


def as_before(saved: Mapping[str, Any], now: Mapping[str, Any], config: Any) -> None:
    """Let a run go on as it began, before there was a setting whose default is another way: the
    configuration and its identity are changed, unless the setting was given."""
    for key, value in BEFORE.items():
        section, _, name = key.partition(".")
        known = now["settings"].get(key)
        if known == _default(config, key) and key not in saved.get("settings", {}):
            now["settings"][key] = value
            setattr(getattr(config, section), name, value)


def changes(saved: Mapping[str, Any], now: Mapping[str, Any], config: Any) -> list[str]:
    """ "loss.temperature: 0.02 -> 0.03" for everything in two identities that decides the result
    and differs. A setting that an older version did not have is as before at its default.

    Args:
        config: of the class that `now` is of.
    """
    found = []
    for part, prefix in (("settings", ""), ("contents", "content of ")):
        before, after = saved.get(part, {}), now[part]
        found += [
            f"{prefix}{key}: {before.get(key)} -> {after.get(key)}"
            for key in sorted(before.keys() | after.keys())
            if key not in MAY_DIFFER and before.get(key) != after.get(key)
            if key in before or after[key] != BEFORE.get(key, _default(config, key))
        ]
    sizes = saved["global_batch_size"], now["global_batch_size"]
    if sizes[0] != sizes[1]:
        found.append(f"global batch size: {sizes[0]} -> {sizes[1]}")
    return found


def _default(config: Any, key: str) -> Any:
    """Of a setting, by its dotted key, as an identity has it; MISSING: it has none, or is none."""
    group, _, rest = key.partition(".")
    if not is_dataclass(config) or group not in (known := {f.name: f for f in fields(config)}):
        return MISSING
    if rest:
        return _default(getattr(config, group), rest)
    default = known[group].default
    return default.name if isinstance(default, Enum) else default
