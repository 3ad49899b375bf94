"""What a run is made of before its first step, and what it writes down while it goes.

<output_dir>/
    config.yaml commit.txt versions.txt    what ran; starts.jsonl: the same of every start, and
                                           the step that it went on from
    metrics.jsonl tensorboard/ wandb/      how it went
    checkpoints/                           see checkpoint.py; best.json names the best of them
    final/ finished.json                   what came out: the adapters, and the last metrics
    .lock                                  which program writes here
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from accelerate import Accelerator
from accelerate.utils import set_seed
from omegaconf import OmegaConf
from safetensors import SafetensorError, safe_open
from tqdm import tqdm

from unime.config import Stage2Config, dump_config
from unime.config.reading.descriptions import summary
from unime.data.survey import Rows, check_variety, survey
from unime.errors import ConfigError, DataError, require_package
from unime.models.adapter_files import adapter_folders
from unime.models.hub import find_adapter
from unime.runtime.digests import check_digests
from unime.runtime.distributed import on_main
from unime.runtime.environment import git_commit, write_facts
from unime.runtime.files import append, check_kinds, read_json, regular
from unime.runtime.folder_lock import lock_folder
from unime.training.checkpoints import checkpoint
from unime.training.engines import SHARDS_WEIGHTS, StageConfig, engine_of, make_accelerator
from unime.training.identity import as_before, changes, run_identity
from unime.training.kernels.heap import return_large_blocks

FINISHED = "finished.json"


@dataclass
class Run:
    """One training run, made by :func:`start_run`."""

    config: StageConfig
    accelerator: Accelerator
    output_dir: Path
    log: logging.Logger
    checkpoint: Path | None  # the newest complete one of an earlier start
    finished: bool  # an earlier start reached the last step, with these settings
    identity: dict[str, Any]  # what must be the same when this run goes on
    data_before: dict[str, Any]  # and of its data, as an earlier start had it
    data: dict[str, Any] = field(default_factory=dict)  # as this one has (see `take_data`)
    answers: np.ndarray | None = None  # of its rows (see `take_data`)

    @property
    def global_batch_size(self) -> int:
        return self.config.optim.batch_size_per_device * self.accelerator.num_processes

    @property
    def shards_weights(self) -> bool:
        return engine_of(self.accelerator) in SHARDS_WEIGHTS

    @property
    def is_main_process(self) -> bool:
        return self.accelerator.is_main_process

    def take_data(
        self, rows: Rows, task_sizes: Mapping[str, int], least: Mapping[str, int]
    ) -> bool:
        """Look at all that is trained on (survey.py); whether an earlier start has finished this
        very run, so that there is nothing left to do.

        Raises:
            ConfigError: an earlier start had other data.
            DataError: a row that cannot be read, or fewer different things than `least` in a task.
        """
        found = survey(rows, task_sizes, self.global_batch_size)
        for note in check_variety(found, self.global_batch_size, least):
            self.log.warning("%s", note)
        self.answers = found.answers
        self.data, then = found.facts, self.data_before
        changed = [
            f"{key}: {then[key]} -> {value}"
            for key, value in self.data.items()
            if then.get(key, value) != value
        ]
        if changed:
            what = f"{self.output_dir}: holds a run with other data ({'; '.join(changed)})"
            if self.finished:  # there is no step left in which it could learn from them
                raise ConfigError(f"{what}, and is finished; give another run.output_dir")
            if not self.config.resume.force:
                raise ConfigError(
                    f"{what}; give another run.output_dir, or go on with resume.force=true"
                )
            self.log.warning("%s; resume.force: going on all the same", what)
        if self.finished:
            self.log.info("%s: finished already, nothing left to do", self.output_dir)
        return self.finished


def start_run(config: StageConfig) -> Run:
    """Set up processes, seeds, output folder and log; the first lines say what runs.

    Raises:
        ConfigError: the output folder holds a run with other settings, there is no adapter where
            one is named, a tracker is not installed, the global batch is too small for the loss,
            or processes are arranged in a way that is not supported.
    """
    for name in config.run.trackers:
        require_package(name, "train" if name == "tensorboard" else name, "run.trackers")
    return_large_blocks()
    accelerator = make_accelerator(config)
    _check_batch(config, accelerator.num_processes)
    adapter = find_adapter(config.model)
    if adapter is not None:
        adapter_folders(adapter.folder)
    log = _logger(accelerator)
    output_dir = Path(config.run.output_dir)
    if output_dir.exists() and not output_dir.is_dir():
        raise ConfigError(f"run.output_dir: {output_dir} is not a folder")
    on_main(accelerator, lambda: lock_folder("run.output_dir", output_dir))
    identity = run_identity(config, accelerator.num_processes)
    if accelerator.mixed_precision != "no":
        identity["settings"]["accelerate's mixed_precision"] = accelerator.mixed_precision
    finished, folder, data = _earlier_start(output_dir, config, identity, log)
    if folder is not None and not finished:
        on_main(accelerator, lambda: checkpoint.check(folder))
    run = Run(config, accelerator, output_dir, log, folder, finished, identity, data)
    accelerator.wait_for_everyone()  # all have seen what was there
    set_seed(config.run.seed)  # the same on every rank until training starts: equal fresh adapters
    log.info("configuration: what differs from the defaults; all of it: %s/config.yaml", output_dir)
    for line in summary(config):
        log.info("  %s", line)
    log.info("commit: %s", git_commit())
    log.info(
        "global batch size: %d (%d on each of %d processes; %s on %s, mixed precision: %s)",
        run.global_batch_size,
        config.optim.batch_size_per_device,
        accelerator.num_processes,
        engine_of(accelerator),
        accelerator.device.type,
        accelerator.mixed_precision,
    )
    if not finished:
        _begin(run)
    return run


def _begin(run: Run) -> None:
    """Write down what runs."""
    folder, accelerator = run.checkpoint, run.accelerator
    step = checkpoint.read_state(folder)["step"] if folder else 0
    if accelerator.is_main_process:
        commit = git_commit()
        checkpoint.remove_stale(run.output_dir)
        write_facts(run.output_dir, dump_config(run.config), commit)
        (run.output_dir / FINISHED).unlink(missing_ok=True)  # of other settings: resume.force
        _note_start(run.output_dir, commit, step, accelerator.num_processes)
    accelerator.wait_for_everyone()
    if run.config.run.trackers:
        _init_trackers(run, step + 1 if folder else 0)


def _init_trackers(run: Run, step: int) -> None:
    """TensorBoard and W&B go on in the run that they began; W&B follows its own environment
    variables (WANDB_MODE=offline, WANDB_PROJECT, …)."""
    identity = hashlib.blake2b(str(run.output_dir.resolve()).encode(), digest_size=8).hexdigest()
    options = {
        "tensorboard": {"purge_step": step},
        "wandb": {
            "dir": str(run.output_dir),
            "name": "/".join(run.output_dir.parts[-2:]),
            "id": identity,
            "resume": "allow",
            "config": run.identity["settings"],
        },
    }
    chosen = {name: options[name] for name in run.config.run.trackers}
    project = os.environ.get("WANDB_PROJECT", "unime")
    try:
        run.accelerator.init_trackers(project, init_kwargs=chosen)
    except Exception as error:
        if not type(error).__module__.startswith("wandb"):
            raise
        raise ConfigError(
            f"run.trackers: wandb: {error}; `wandb login`, or WANDB_MODE=offline"
        ) from None


def _check_batch(config: StageConfig, num_processes: int) -> None:
    size = config.optim.batch_size_per_device * num_processes
    if isinstance(config, Stage2Config):
        least, why = 2, "the negatives of a query are the targets of the others"
    else:
        least = 2 if config.loss.include_diagonal else 3
        why = "a row of similarities is a distribution over the texts of the batch"
    if size < least:
        raise ConfigError(
            f"optim.batch_size_per_device: got a global batch of {size}, expected at least {least} "
            f"({why})"
        )


def _earlier_start(
    output_dir: Path, config: StageConfig, identity: dict[str, Any], log: logging.Logger
) -> tuple[bool, Path | None, dict[str, Any]]:
    """Whether the folder holds this very run finished, its newest checkpoint, and what it trained
    on."""
    folder = checkpoint.latest(output_dir)
    finished = output_dir / FINISHED
    is_finished = False
    if finished.exists():
        state = _read_finished(finished)
        is_finished = _is_whole(output_dir / "final", state)
    elif folder is not None:
        state = checkpoint.read_state(folder)
    else:
        return False, None, {}
    elsewhere = "give another run.output_dir, or delete the folder to start anew"
    if not config.resume.enabled:
        raise ConfigError(
            f"{output_dir}: holds a run already and resume.enabled is false; {elsewhere}"
        )
    as_before(state["identity"], identity, config)
    changed = changes(state["identity"], identity, config)
    if not changed:
        return is_finished, folder, state["data"]
    what = f"{output_dir}: holds a run with other settings ({'; '.join(changed)})"
    if not config.resume.force:
        raise ConfigError(f"{what}; {elsewhere}, or go on with resume.force=true")
    if folder is None:
        raise ConfigError(f"{what}, but no checkpoint to go on from; {elsewhere}")
    log.warning("%s; resume.force: going on all the same", what)
    return False, folder, state["data"]


def _is_whole(final: Path, state: dict[str, Any]) -> bool:
    """Whether it is what was written, as far as an older version wrote that down; else it is
    written again."""
    try:
        check_digests(final, state.get("digests", {}))
        for path in (found := sorted(final.rglob("*.safetensors"))):
            with safe_open(regular(path), framework="pt"):
                pass
    except (OSError, ValueError, TypeError, AttributeError, SafetensorError):
        return False
    return bool(found)


def _read_finished(path: Path) -> dict[str, Any]:
    kinds = {"data": dict, "identity": checkpoint.IDENTITY}
    try:
        return check_kinds(read_json(path), kinds, str(path))
    except DataError as error:
        raise ConfigError(
            f"{error}; delete this file, and the run goes on from its newest checkpoint, if need be"
            " from its start"
        ) from None


def _note_start(output_dir: Path, commit: str, step: int, num_processes: int) -> None:
    """Append to what :func:`write_facts` replaces."""
    start = {
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "step": step,
        "commit": commit,
        "num_processes": num_processes,
        "config": OmegaConf.to_container(OmegaConf.load(output_dir / "config.yaml")),
        "versions": (output_dir / "versions.txt").read_text().splitlines(),
    }
    path = regular(output_dir / "starts.jsonl")
    is_cut = path.exists() and not path.read_bytes().endswith(b"\n") and path.stat().st_size > 0
    append(path, "\n" * is_cut + json.dumps(start) + "\n")


class _BarHandler(logging.Handler):
    """Log lines above the progress bar, not through it."""

    def emit(self, record: logging.LogRecord) -> None:
        tqdm.write(self.format(record), file=sys.stderr)


def _logger(accelerator: Accelerator) -> logging.Logger:
    log = logging.getLogger("unime")
    log.propagate = False
    log.setLevel(logging.INFO if accelerator.is_main_process else logging.ERROR)
    handler = _BarHandler()
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S"))
    log.handlers = [handler]
    return log
