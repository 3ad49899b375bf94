"""Vectors that somebody has already as teacher: a .npy or .safetensors file of one matrix, a row a
text, and the texts (`texts`, or other files: `vectors_of`) in the same order."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open

from data_prep.teachers.base import Teacher
from unime.config import TeacherConfig
from unime.data.teacher_store import TeacherMeta
from unime.data.texts import Texts, read_texts
from unime.errors import DataError
from unime.runtime.digests import digest_of
from unime.runtime.files import regular

BLOCK = 4096  # rows
NAMED = 60  # characters of a text


def vectors_teacher(config: TeacherConfig, found: Texts) -> Teacher:
    """The vectors of a file, each looked at once before any is kept.

    Raises:
        DataError: the file is no matrix of numbers, has another number of rows than there are
            texts, a row that is zero or not finite, two different ones of one text, or none of a
            text.
    """
    assert config.vectors is not None
    path = Path(config.vectors)
    matrix = open_matrix(path)
    files = config.vectors_of or config.texts
    owners = read_texts(files, config.columns, distinct=False)
    if len(owners.texts) != len(matrix):
        raise DataError(
            f"{path}: {len(matrix)} rows, expected {len(owners.texts)}: one of each text of"
            f" {', '.join(files)}, also of those that come again"
        )
    row_of: dict[str, int] = {}
    for number, (text, vector) in enumerate(zip(owners.texts, _rows(matrix, path), strict=True)):
        first = row_of.setdefault(text, number)
        if first != number and not np.array_equal(vector, matrix[first]):
            raise DataError(
                f"{path}, rows {first} and {number}: two vectors of one text {text[:NAMED]!r}"
            )
    lacking = [number for number, text in enumerate(found.texts) if text not in row_of]
    if lacking:
        first_text = found.texts[lacking[0]][:NAMED]
        raise DataError(
            f"{path}: no vector of {len(lacking)} of the {len(found.texts)} texts, the first"
            f" {found.row_ids[lacking[0]]}: {first_text!r}"
        )
    name = f"{config.name} (vectors that were there, {digest_of(path)})"  # others are refused
    meta = TeacherMeta(name, config.revision, config.prompt, matrix.shape[1])

    def embed(texts: list[str]) -> np.ndarray:
        return np.asarray(matrix[[row_of[text] for text in texts]], dtype=np.float32)

    return Teacher(meta, embed, BLOCK, remarks=lambda: ["what the teacher cut off is not known"])


def open_matrix(path: Path) -> np.ndarray:
    """A matrix (n, T) of finite numbers on the disk; that of a .npy file stays there.

    Raises:
        DataError: it is none.
    """
    try:
        if path.suffix == ".npy":
            matrix = np.load(regular(path), mmap_mode="r", allow_pickle=False)
        else:
            matrix = _of_safetensors(path)
    except DataError:
        raise
    except Exception as error:  # NumPy does not say what it raises for a damaged header
        raise DataError(f"{path}: cannot read it: {error}") from None
    is_matrix = matrix.ndim == 2 and matrix.dtype.kind == "f" and 0 not in matrix.shape
    if not is_matrix:
        raise DataError(
            f"{path}: {matrix.dtype} of shape {matrix.shape}, expected rows of floating-point"
            " numbers"
        )
    return matrix


def _of_safetensors(path: Path) -> np.ndarray:
    try:
        with safe_open(regular(path), framework="pt") as file:
            names = list(file.keys())
            name = "embeddings" if "embeddings" in names else names[0] if len(names) == 1 else None
            if name is None:
                raise DataError(f"{path}: tensors {names[:5]}, expected one, or 'embeddings'")
            tensor = file.get_tensor(name)
    except SafetensorError as error:
        raise DataError(f"{path}: cannot read it: {error}") from None
    return (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).numpy()


def _rows(matrix: np.ndarray, path: Path) -> Iterator[np.ndarray]:
    """Each row.

    Raises:
        DataError: one is zero or not finite.
    """
    for start in range(0, len(matrix), BLOCK):
        block = np.asarray(matrix[start : start + BLOCK])
        with np.errstate(over="ignore"):
            norms = np.linalg.norm(block.astype(np.float32), axis=1)
        bad = ~(np.isfinite(norms) & (norms > 0))
        if bad.any():
            raise DataError(f"{path}, row {start + int(bad.argmax())}: zero or not finite")
        yield from block
