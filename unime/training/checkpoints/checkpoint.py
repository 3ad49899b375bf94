"""Checkpoints that a kill at any moment cannot spoil, and from which a run goes on bit for bit.

    <output_dir>/checkpoints/step_00000100/
        encoder.json 00-rank32/ …   the adapters, as in final/ (adapter_files.py): `model.adapter`
        optimizer.safetensors       "<parameter name>/<entry>"
        random_00000.safetensors    see random_state.py, one file per rank
        state.json                  step, settings, data, world size, means since the last log line
        digests.json                of all of these files

Everything is written into a folder beside it, which is renamed when all is on the disk. The order
of the data needs no state: the batch of a step is a pure function of the seed and the step
(sampler.py), and so is its learning rate (schedule.py). Nothing is pickled.
"""

from __future__ import annotations

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
from torch import nn

from unime.errors import ConfigError, DataError, RunError
from unime.runtime.digests import check_digests, digests_below
from unime.runtime.files import (
    PARTIAL,
    check_kinds,
    open_to_readers,
    read_json,
    sync,
    write_json,
)
from unime.training.checkpoints.random_state import load_random_state, save_random_state
from unime.training.checkpoints.sharding import load_optimizer_tensors, optimizer_tensors

STEP_FOLDER = re.compile(r"step_\d{8,}")
DIGESTS = "digests.json"
IDENTITY = {"settings": dict, "contents": dict, "global_batch_size": int}
STATE = {
    "step": int,
    "world_size": int,
    "collapsed_steps": int,
    "metrics": {"seconds": float, "skipped": int, "sums": dict, "counts": dict},
    "validation": {"step": int},
    "data": dict,
    "identity": IDENTITY,
}


def latest(output_dir: Path) -> Path | None:
    """The newest complete checkpoint."""
    return max(_complete(output_dir / "checkpoints"), key=_step, default=None)


def _complete(checkpoints: Path) -> list[Path]:
    return [
        folder
        for folder in checkpoints.glob("step_*")
        if STEP_FOLDER.fullmatch(folder.name) and (folder / "state.json").is_file()
    ]


def _step(folder: Path) -> int:
    return int(folder.name[5:])


def check(folder: Path, only: str | None = None) -> None:
    """Compare a checkpoint's files, or one of them, with what was written (an older version wrote
    down no digests).

    Raises:
        ConfigError: they differ, cannot be read, or the digests are lost.
    """
    path = folder / DIGESTS
    try:
        if not path.exists() and "digests" in read_json(folder / "state.json"):
            raise DataError(f"{DIGESTS} is not there")
        written = read_json(path) if path.exists() else {}
        check_digests(folder, {n: d for n, d in written.items() if only in (None, n)})
    except (OSError, DataError) as error:
        raise unreadable(folder, error) from None


def read_state(folder: Path) -> dict[str, Any]:
    """A checkpoint's state.json.

    Raises:
        ConfigError: it cannot be read, was damaged, or lacks something.
    """
    check(folder, "state.json")
    try:
        return check_kinds(read_json(folder / "state.json"), STATE, "state.json")
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
        states = partial / _random_file(accelerator.process_index)
        save_random_state(states, accelerator.device)
        sync(states)
        if accelerator.is_main_process:
            save_file(moments, partial / "optimizer.safetensors")
            write_json(partial / "state.json", state | {"digests": DIGESTS})

    def end() -> None:
        if accelerator.is_main_process:
            write_json(partial / DIGESTS, digests_below(partial))
            open_to_readers(partial)
            sync(partial)
            os.replace(partial, folder)
            sync(folder.parent, below=False)
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
    raise RunError(
        f"{output_dir}: the checkpoint of step {step} could not be written{error}; {kept}"
    )


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
        ConfigError: a file cannot be read, or is of other settings.
    """
    state = read_state(folder)
    try:
        moments = load_file(folder / "optimizer.safetensors")
        load_optimizer_tensors(moments, parameters, optimizer)
        if state["world_size"] == accelerator.num_processes:
            load_random_state(folder / _random_file(accelerator.process_index), accelerator.device)
            return None
    except (OSError, SafetensorError, DataError) as error:
        raise unusable(folder, error) from None
    set_seed((seed + 1000003 * state["step"]) % 2**31, device_specific=True)
    return (
        f"the checkpoint was written by {state['world_size']} processes and is continued by "
        f"{accelerator.num_processes}: random states start anew, so dropout masks differ from "
        "those of an uninterrupted run (the rows of every batch do not)"
    )


def unusable(folder: Path, error: Exception) -> ConfigError:
    """What to do about a checkpoint that was read and could not be put back: it is damaged, or is
    what was written and of other settings (``resume.force``)."""
    if not (folder / DIGESTS).exists():
        return unreadable(folder, error)
    try:
        check(folder)
    except ConfigError as damage:
        return damage
    return ConfigError(
        f"{folder}: is whole and does not fit these settings ({error}); go on with those that it"
        " was saved with, or give another run.output_dir"
    )


def unreadable(folder: Path, error: Exception) -> ConfigError:
    """What to do about a checkpoint, which this process alone has: its run's folder is locked."""
    before = [other for other in _complete(folder.parent) if _step(other) < _step(folder)]
    former = max(before, key=_step, default=None)
    then = f"go on from the one before it, {former.name}" if former else "start the run anew"
    return ConfigError(f"{folder}: cannot be read ({error}); delete this folder to {then}")


def _delete_old(checkpoints: Path, limit: int, best: int | None) -> None:
    folders = [folder for folder in checkpoints.iterdir() if STEP_FOLDER.fullmatch(folder.name)]
    for folder in sorted(folders, key=_step)[:-limit]:
        if _step(folder) == best:
            continue
        doomed = folder.with_name(folder.name + PARTIAL)
        os.replace(folder, doomed)  # half-deleted it must not look complete
        shutil.rmtree(doomed)


def _random_file(rank: int) -> str:
    return f"random_{rank:05d}.safetensors"
