"""What must be the same when a run goes on: its settings and its data."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

from omegaconf import OmegaConf

from unime.data import Pair, TextRow

MAY_DIFFER = {  # no other result, dropout masks aside
    "run.output_dir",
    "run.log_every",
    "run.save_every",
    "run.save_total_limit",
    "run.resume",
    "run.num_workers",
    "run.tensorboard",
    "optim.batch_size_per_device",  # the *global* batch size must be the same
    "optim.chunk_size",
    "data.verify_images",  # the rows are compared
    "optim.gradient_checkpointing",
}
SAMPLED_ROWS = 256


def run_identity(config: Any, num_processes: int) -> dict[str, Any]:
    """Every setting by its dotted key, and the global batch size, as JSON values."""
    settings: dict[str, Any] = {}

    def walk(prefix: str, node: Any) -> None:
        if isinstance(node, dict) and node:
            for key, value in node.items():
                walk(f"{prefix}.{key}" if prefix else str(key), value)
        else:
            settings[prefix] = node

    walk("", OmegaConf.to_container(OmegaConf.structured(config), enum_to_str=True))
    batch_size = config.optim.batch_size_per_device * num_processes
    return {"settings": settings, "global_batch_size": batch_size}


def changes(saved: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """ "loss.temperature: 0.02 -> 0.03" for everything in two identities that decides the result
    and differs."""
    before, after = saved["settings"], now["settings"]
    found = [
        f"{key}: {before.get(key)} -> {after.get(key)}"
        for key in sorted(before.keys() | after.keys())
        if key not in MAY_DIFFER and before.get(key) != after.get(key)
    ]
    sizes = saved["global_batch_size"], now["global_batch_size"]
    if sizes[0] != sizes[1]:
        found.append(f"global batch size: {sizes[0]} -> {sizes[1]}")
    return found


def data_fingerprint(rows: Sequence[TextRow] | Sequence[Pair]) -> str:
    """The number of rows and the content of some, wherever their files are."""
    digest = hashlib.blake2b(str(len(rows)).encode(), digest_size=16)
    for index in range(0, len(rows), max(1, len(rows) // SAMPLED_ROWS)):
        row = rows[index]
        if isinstance(row, TextRow):
            words: list[object] = [row.text, row.teacher.tolist()]
        else:
            items = (row.query, row.target, *row.negatives)
            words = [(item.text, len(item.images)) for item in items]
        digest.update(repr([row.row_id, *words]).encode())
    return digest.hexdigest()
