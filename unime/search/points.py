"""A part of a file as a point of the store: its id, what is kept beside its vectors, and how a
server holds these."""

from __future__ import annotations

import uuid
from pathlib import Path
from typing import Any


def folders_of(path: str) -> list[str]:
    """All folders that a file is in."""
    return [str(folder) for folder in Path(path).parents]


def point_id(path: str, place: int) -> str:
    """Always the same one of a part of a file, so that storing it again replaces it."""
    return str(uuid.uuid5(uuid.NAMESPACE_URL, f"unime:{place}:{path}"))


def payload_of(path: str, kind: str, place: int, line: int, text: str) -> dict[str, Any]:
    """What is kept beside a vector; `folders` are all that the file is in."""
    found = {"path": path, "kind": kind, "place": place, "line": line, "text": text}
    return found | {"folders": folders_of(path)}


def quantization_of(kind: str | None) -> Any:
    """Qdrant's setting for "scalar" (int8) or "binary" vectors; None: as they are."""
    from qdrant_client import models

    if kind == "scalar":
        scalar = models.ScalarQuantizationConfig(type=models.ScalarType.INT8, always_ram=True)
        return models.ScalarQuantization(scalar=scalar)
    if kind == "binary":
        binary = models.BinaryQuantizationConfig(always_ram=True)
        return models.BinaryQuantization(binary=binary)
    return None
