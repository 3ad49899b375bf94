"""Checkpoints that a kill at any moment cannot spoil, and from which a run goes on bit for bit.

    <output_dir>/checkpoints/step_00000100/
        encoder.json 00-rank32/ …   the adapters, as in final/ (adapter_files.py): `model.adapter`
        optimizer.safetensors       "<parameter name>/<entry>"
        random_00000.safetensors    torch, CUDA, numpy and python states, one file per rank
        state.json                  step, settings, data, world size, means since the last log line

Everything is written into a folder beside it, which is renamed at the end. The order of the data
needs no state: the batch of a step is a pure function of the seed and the step (sampler.py), and so
is its learning rate (schedule.py). Nothing is pickled.
"""

from __future__ import annotations

import json
import os
import random
import re
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import gather_object, set_seed
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from unime.errors import ConfigError, DataError, RunError
from unime.runtime.files import PARTIAL, read_json, write_json
from unime.training.sharding import load_optimizer_tensors, optimizer_tensors

STEP_FOLDER = re.compile(r"step_\d{8,}")


def latest(output_dir: Path) -> Path | None:
    """The newest complete checkpoint."""
    found = [
        folder
        for folder in (output_dir / "checkpoints").glob("step_*")
        if STEP_FOLDER.fullmatch(folder.name) and (folder / "state.json").is_file()
    ]
    return max(found, key=lambda folder: int(folder.name[5:]), default=None)


def read_state(folder: Path) -> dict[str, Any]:
    """A checkpoint's state.json.

    Raises:
        ConfigError: it cannot be read.
    """
    try:
        return read_json(folder / "state.json")
    except DataError as error:
        raise unreadable(folder, error) from None


def remove_stale(output_dir: Path) -> None:
    """Delete what a killed run left half-written or half-deleted."""
    for folder in (output_dir / "checkpoints").glob(f"*{PARTIAL}"):
        shutil.rmtree(folder)


def save(
    output_dir: Path,
    state: dict[str, Any],
    save_adapters: Callable[[Path, bool], None],
    parameters: Mapping[str, nn.Parameter],
    optimizer: torch.optim.Optimizer,
    accelerator: Accelerator,
    limit: int,
) -> Path:
    """Write the checkpoint of ``state["step"]``, keep the `limit` newest and the one that
    is the best; called by every rank.

    Args:
        save_adapters: (folder, writes), see :meth:`unime.models.encoder.Encoder.save_adapters`.

    Raises:
        RunError: on every rank, if any could not write; the former checkpoints stay.
    """
    folder = output_dir / "checkpoints" / step_name(state["step"])
    partial = folder.with_name(folder.name + PARTIAL)
    moments = optimizer_tensors(parameters, optimizer)
    best = (state["validation"]["best"] or {}).get("step")

    def begin() -> None:
        if accelerator.is_main_process:
            remove_stale(output_dir)
            folder.parent.mkdir(parents=True, exist_ok=True)

    def adapters() -> None:
        save_adapters(partial, accelerator.is_main_process)

    def write() -> None:
        save_random_state(partial / _random_file(accelerator.process_index), accelerator.device)
        if accelerator.is_main_process:
            save_file(moments, partial / "optimizer.safetensors")
            write_json(partial / "state.json", state)

    def end() -> None:
        if accelerator.is_main_process:
            os.replace(partial, folder)
            _delete_old(folder.parent, limit, best)

    for action in (begin, adapters, write, end):
        _on_every_rank(action, output_dir, state["step"], accelerator)
    return folder


def step_name(step: int) -> str:
    return f"step_{step:08d}"


def _on_every_rank(
    action: Callable[[], None], output_dir: Path, step: int, accelerator: Accelerator
) -> None:
    """Do something, then wait until all have; where one fails, all do."""
    errors = [""]
    try:
        action()
    except (OSError, SafetensorError) as caught:
        errors = [f" on rank {accelerator.process_index}: {caught}"]
    error = next(filter(None, gather_object(errors)), "")
    if not error:
        return
    if accelerator.is_main_process:
        remove_stale(output_dir)
    former = latest(output_dir)
    kept = f"the one before it is complete: {former}" if former else "there is none before it"
    raise RunError(f"the checkpoint of step {step} could not be written{error}; {kept}")


def restore(
    folder: Path,
    parameters: Mapping[str, nn.Parameter],
    optimizer: torch.optim.Optimizer,
    accelerator: Accelerator,
    seed: int,
) -> str | None:
    """Put optimizer and random states back as they were; called by every rank. The engine may be
    another one than that which saved them.

    Returns:
        Why the random states could not be restored, if so (another number of processes).

    Raises:
        ConfigError: a file cannot be read.
    """
    state = read_state(folder)
    try:
        moments = load_file(folder / "optimizer.safetensors")
        load_optimizer_tensors(moments, parameters, optimizer)
        if state["world_size"] == accelerator.num_processes:
            load_random_state(folder / _random_file(accelerator.process_index), accelerator.device)
            return None
    except (OSError, SafetensorError) as error:
        raise unreadable(folder, error) from None
    set_seed((seed + 1000003 * state["step"]) % 2**31, device_specific=True)
    return (
        f"the checkpoint was written by {state['world_size']} processes and is continued by "
        f"{accelerator.num_processes}: random states start anew, so dropout masks differ from "
        "those of an uninterrupted run (the rows of every batch do not)"
    )


def unreadable(folder: Path, error: Exception) -> ConfigError:
    return ConfigError(
        f"{folder}: cannot be read ({error}); delete this folder to go on from the one before it"
    )


def _delete_old(checkpoints: Path, limit: int, best: int | None) -> None:
    folders = [folder for folder in checkpoints.iterdir() if STEP_FOLDER.fullmatch(folder.name)]
    for folder in sorted(folders, key=lambda folder: int(folder.name[5:]))[:-limit]:
        if int(folder.name[5:]) == best:
            continue
        doomed = folder.with_name(folder.name + PARTIAL)
        os.replace(folder, doomed)  # half-deleted it must not look complete
        shutil.rmtree(doomed)


def _random_file(rank: int) -> str:
    return f"random_{rank:05d}.safetensors"


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
    with safe_open(path, framework="pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        rest = json.loads(file.metadata()["rest"])
    torch.set_rng_state(tensors["torch"])
    if device.type == "cuda" and "cuda" in tensors:
        torch.cuda.set_rng_state(tensors["cuda"], device)
    kind, position, has_gauss, gauss = rest["numpy"]
    numpy_words = tensors["numpy"].numpy().astype(np.uint32)
    np.random.set_state((kind, numpy_words, position, has_gauss, gauss))
    version, python_gauss = rest["python"]
    random.setstate((version, tuple(tensors["python"].tolist()), python_gauss))
