"""What must be the same when a run goes on: its settings, and the models it starts from (its data:
survey.py)."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from io import FileIO
from pathlib import Path
from typing import Any, BinaryIO

from omegaconf import OmegaConf

from unime.config import ConfigError

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
    "optim.on_nonfinite",
    "optim.on_collapse",
    "data.verify_images",  # the rows are compared
    "validation.every",
    "validation.root",
    "validation.image_root",
    "optim.gradient_checkpointing",
}
LARGE_FILE = 1 << 28  # bytes: from here on the tensors of a file are sampled
PIECE_SIZE = 1 << 16  # bytes at a tensor's begin, middle and end


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
    return {"settings": settings, "contents": contents, "global_batch_size": batch_size}


def _contents(model: Any) -> dict[str, str]:
    """The content of what `model` leads to, or its commit on the hub; of what cannot be found
    (loading it will say so) that of the folders it names."""
    from unime.published import locate  # which puts folders into digests by what is below

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


def changes(saved: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """ "loss.temperature: 0.02 -> 0.03" for everything in two identities that decides the result
    and differs."""
    before, after = saved["settings"], now["settings"]
    found = [
        f"{key}: {before.get(key)} -> {after.get(key)}"
        for key in sorted(before.keys() | after.keys())
        if key not in MAY_DIFFER and before.get(key) != after.get(key)
    ]
    then, here = saved.get("contents", {}), now["contents"]
    found += [
        f"content of {key}: {then.get(key)} -> {here.get(key)}"
        for key in sorted(then.keys() | here.keys())
        if then.get(key) != here.get(key)
    ]
    sizes = saved["global_batch_size"], now["global_batch_size"]
    if sizes[0] != sizes[1]:
        found.append(f"global batch size: {sizes[0]} -> {sizes[1]}")
    return found


def folder_digest(folder: Path) -> str:
    digest = hashlib.blake2b(digest_size=16)
    add_folder(digest, folder)
    return digest.hexdigest()


def add_folder(digest: Any, folder: Path) -> None:
    """Put the names and contents of all files below `folder` into a digest, but for hidden ones
    (where hub clients keep notes of their downloads).

    Of a *.safetensors of 256 MiB or more count the header and three pieces of every tensor: a
    second for 15 GB of weights, and training moves a tensor everywhere. All other files count
    whole.
    """
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        name = path.relative_to(folder)
        if any(part.startswith(".") for part in name.parts):
            continue
        digest.update(os.fsencode(name))
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            tensors = _tensors(file, size) if path.suffix == ".safetensors" else None
            if size < LARGE_FILE or tensors is None:
                file.seek(0)
                digest.update(hashlib.file_digest(file, "blake2b").digest())
                continue
            digest.update(str(size).encode())
            for begin, end in tensors:
                add_pieces(digest, file, begin, end, PIECE_SIZE)


def _tensors(file: BinaryIO, size: int) -> list[tuple[int, int]] | None:
    """Where a safetensors file has its header and each of its tensors; None: it is none."""
    first = 8 + int.from_bytes(file.read(8), "little")
    if first > size:
        return None
    try:
        header = json.loads(file.read(first - 8))
        places = [entry["data_offsets"] for key, entry in header.items() if key != "__metadata__"]
        return [(0, first), *sorted((first + begin, first + end) for begin, end in places)]
    except (ValueError, TypeError, KeyError, AttributeError):
        return None


def add_pieces(digest: Any, file: BinaryIO | FileIO, begin: int, end: int, size: int) -> None:
    """All that lies between two places of a file, or so many bytes of its begin, middle and end."""
    length = end - begin
    if length <= 3 * size:
        starts, size = [begin], length
    else:
        starts = [begin, begin + (length - size) // 2, end - size]
    for start in starts:
        file.seek(start)
        digest.update(file.read(size))
