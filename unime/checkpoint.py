"""Checkpoints that a kill at any moment cannot spoil, and from which a run goes on bit for bit.

    <output_dir>/checkpoints/step_00000100/
        parameters.safetensors      trained tensors by name
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
import re
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object, set_seed
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from unime.config import ConfigError
from unime.faults import RunError
from unime.random_state import load_random_state, save_random_state
from unime.sharding import load_optimizer_tensors, optimizer_tensors, whole

PARTIAL = ".partial"  # ends the name of what is being written, or deleted
STEP_FOLDER = re.compile(r"step_\d{8,}")


def write_json(path: Path, content: object) -> None:
    """Write aside, then rename."""
    write_aside(path, json.dumps(content, indent=1, allow_nan=False) + "\n")


def write_aside(path: Path, content: str | bytes) -> None:
    """Write a whole file, or leave the one that is there as it is."""
    aside = path.with_name(path.name + PARTIAL)
    if isinstance(content, str):
        aside.write_text(content, encoding="utf-8")
    else:
        aside.write_bytes(content)
    os.replace(aside, path)


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
        return json.loads((folder / "state.json").read_text())
    except (OSError, ValueError) as error:
        raise _unreadable(folder, error) from None


def remove_stale(output_dir: Path) -> None:
    """Delete what a killed run left half-written or half-deleted."""
    for folder in (output_dir / "checkpoints").glob(f"*{PARTIAL}"):
        shutil.rmtree(folder)


def save(
    output_dir: Path,
    state: dict[str, Any],
    parameters: Mapping[str, nn.Parameter],
    optimizer: torch.optim.Optimizer,
    accelerator: Accelerator,
    limit: int,
) -> Path:
    """Write the checkpoint of ``state["step"]``, keep the `limit` newest; called by every rank.

    Raises:
        RunError: on every rank, if any could not write; the former checkpoints stay.
    """
    folder = output_dir / "checkpoints" / f"step_{state['step']:08d}"
    partial = folder.with_name(folder.name + PARTIAL)
    tensors = {name: whole(parameter).contiguous() for name, parameter in parameters.items()}
    moments = optimizer_tensors(parameters, optimizer)

    def begin() -> None:
        if accelerator.is_main_process:
            remove_stale(output_dir)
            partial.mkdir(parents=True)

    def write() -> None:
        save_random_state(partial / _random_file(accelerator.process_index), accelerator.device)
        if accelerator.is_main_process:
            save_file(tensors, partial / "parameters.safetensors")
            save_file(moments, partial / "optimizer.safetensors")
            write_json(partial / "state.json", state)

    def end() -> None:
        if accelerator.is_main_process:
            os.replace(partial, folder)
            _delete_old(folder.parent, limit)

    for action in (begin, write, end):
        _on_every_rank(action, output_dir, state["step"], accelerator)
    return folder


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
        shutil.rmtree(output_dir / "checkpoints" / f"step_{step:08d}{PARTIAL}", ignore_errors=True)
    former = latest(output_dir)
    kept = f"the one before it is complete: {former}" if former else "there is none before it"
    raise RunError(f"the checkpoint of step {step} could not be written{error}; {kept}")


def load_parameters(folder: Path, parameters: Mapping[str, nn.Parameter]) -> None:
    """Put parameters back as they were, before an engine splits them.

    Raises:
        ConfigError: a file cannot be read, or holds other parameters than the model.
    """
    try:
        saved = load_file(folder / "parameters.safetensors")
    except (OSError, SafetensorError) as error:
        raise _unreadable(folder, error) from None
    _check_names(folder, saved, parameters)
    with torch.no_grad():
        for name, tensor in parameters.items():
            tensor.copy_(saved[name])


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
        raise _unreadable(folder, error) from None
    set_seed((seed + 1000003 * state["step"]) % 2**31, device_specific=True)
    return (
        f"the checkpoint was written by {state['world_size']} processes and is continued by "
        f"{accelerator.num_processes}: random states start anew, so dropout masks differ from "
        "those of an uninterrupted run (the rows of every batch do not)"
    )


def _unreadable(folder: Path, error: Exception) -> ConfigError:
    return ConfigError(
        f"{folder}: cannot be read ({error}); delete this folder to go on from the one before it"
    )


def _check_names(
    folder: Path, saved: Mapping[str, Tensor], parameters: Mapping[str, Tensor]
) -> None:
    shapes = {name: tuple(tensor.shape) for name, tensor in parameters.items()}
    for name in sorted(saved.keys() | shapes.keys()):
        found = tuple(saved[name].shape) if name in saved else "nothing"
        if found != shapes.get(name, "nothing"):
            raise ConfigError(
                f"{folder}: holds {found} for parameter '{name}', the model has "
                f"{shapes.get(name, 'nothing')}"
            )


def _delete_old(checkpoints: Path, limit: int) -> None:
    folders = [folder for folder in checkpoints.iterdir() if STEP_FOLDER.fullmatch(folder.name)]
    for folder in sorted(folders, key=lambda folder: int(folder.name[5:]))[:-limit]:
        doomed = folder.with_name(folder.name + PARTIAL)
        os.replace(folder, doomed)  # half-deleted it must not look complete
        shutil.rmtree(doomed)


def _random_file(rank: int) -> str:
    return f"random_{rank:05d}.safetensors"
