"""The random states of a rank in a file: torch, CUDA, numpy and Python. Nothing is pickled."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from unime.errors import DataError, in_words


def save_random_state(path: Path, device: torch.device) -> None:
    kind, numpy_words, position, has_gauss, gauss = np.random.get_state()
    version, python_words, python_gauss = random.getstate()
    tensors = {
        "torch": torch.get_rng_state(),
        "numpy": torch.from_numpy(np.asarray(numpy_words, dtype=np.int64)),
        "python": torch.tensor(python_words, dtype=torch.int64),
    }
    if device.type == "cuda":
        tensors["cuda"] = torch.cuda.get_rng_state(device)
    rest = {"numpy": [kind, position, has_gauss, gauss], "python": [version, python_gauss]}
    save_file(tensors, path, metadata={"rest": json.dumps(rest)})


def load_random_state(path: Path, device: torch.device) -> None:
    """Put back what `save_random_state` wrote.

    Raises:
        DataError: it cannot be read, or holds something else.
    """
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            rest = json.loads(file.metadata()["rest"])
        _load(tensors, rest, device)
    except Exception as error:  # whatever torch, numpy and Python say of states that are none
        raise DataError(f"{path.name}: {in_words(error)}") from error


def _load(tensors: dict[str, torch.Tensor], rest: dict[str, Any], device: torch.device) -> None:
    torch.set_rng_state(tensors["torch"])
    if device.type == "cuda" and "cuda" in tensors:
        torch.cuda.set_rng_state(tensors["cuda"], device)
    kind, position, has_gauss, gauss = rest["numpy"]
    numpy_words = tensors["numpy"].numpy().astype(np.uint32)
    np.random.set_state((kind, numpy_words, position, has_gauss, gauss))
    version, python_gauss = rest["python"]
    random.setstate((version, tuple(tensors["python"].tolist()), python_gauss))
