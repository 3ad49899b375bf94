"""What a run is made of before its first step, and what it writes down while it goes.

<output_dir>/
    config.yaml commit.txt versions.txt    what ran; starts.jsonl: the same of every start, and
                                           the step that it went on from
    metrics.jsonl tensorboard/             how it went
    checkpoints/                           see checkpoint.py
    final/ finished.json                   what came out: the adapters, and the last metrics
"""

from __future__ import annotations

import json
import logging
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs, DistributedType
from accelerate.utils import set_seed
from omegaconf import OmegaConf
from tqdm import tqdm

from unime import checkpoint
from unime.adapters import adapter_folders
from unime.config import ConfigError, Stage1Config, Stage2Config, dump_config
from unime.facts import git_commit, write_facts
from unime.fingerprint import changes, run_identity
from unime.items import DataError

StageConfig = Stage1Config | Stage2Config
OTHER_RANKS_WAIT = 3.0  # seconds, before another rank than the first says what it failed for


@dataclass
class Run:
    """One training run, made by :func:`start_run`."""

    config: StageConfig
    accelerator: Accelerator
    output_dir: Path
    log: logging.Logger
    checkpoint: Path | None  # the newest complete one of an earlier start
    finished: bool  # an earlier start reached the last step: there is nothing left to do
    identity: dict[str, Any]  # what must be the same when this run goes on

    @property
    def global_batch_size(self) -> int:
        return self.config.optim.batch_size_per_device * self.accelerator.num_processes

    @property
    def is_main_process(self) -> bool:
        return self.accelerator.is_main_process


def start_run(config: StageConfig) -> Run:
    """Set up processes, seeds, output folder and log; the first lines say what runs.

    Raises:
        ConfigError: the output folder holds a run with other settings, there is no adapter where
            one is named, the global batch is too small for the loss, or processes are arranged in a
            way that is not supported.
    """
    accelerator = _accelerator(config)
    _check_batch(config, accelerator.num_processes)
    if config.model.adapter is not None:
        adapter_folders(config.model.adapter)
    log = _logger(accelerator)
    output_dir = Path(config.run.output_dir)
    identity = run_identity(config, accelerator.num_processes)
    finished, folder = _earlier_start(output_dir, config, identity)
    step = checkpoint.read_state(folder)["step"] if folder else 0
    run = Run(config, accelerator, output_dir, log, folder, finished, identity)
    set_seed(config.run.seed)  # the same on every rank until training starts: equal fresh adapters
    commit = git_commit()
    if accelerator.is_main_process and not finished:
        checkpoint.remove_stale(output_dir)
        write_facts(output_dir, config, commit)
        _note_start(output_dir, commit, step, accelerator.num_processes)
    accelerator.wait_for_everyone()
    log.info("configuration:\n%s", dump_config(config).rstrip())
    log.info("commit: %s", commit)
    log.info(
        "global batch size: %d (%d on each of %d processes; %s, mixed precision: %s)",
        run.global_batch_size,
        config.optim.batch_size_per_device,
        accelerator.num_processes,
        accelerator.device.type,
        accelerator.mixed_precision,
    )
    if finished:
        log.info("%s: finished already, nothing left to do", output_dir)
    elif config.run.tensorboard:
        first = {"purge_step": step + 1 if folder else 0}
        accelerator.init_trackers("tensorboard", init_kwargs={"tensorboard": first})
    return run


def run_program(main: Callable[[], None]) -> None:
    """Run a program's main; settings or data that cannot be used end it with one line, status 2."""
    try:
        main()
    except (ConfigError, DataError) as error:
        if os.environ.get("RANK", "0") != "0":
            time.sleep(OTHER_RANKS_WAIT)  # where rank 0 fails as well, the launcher ends this one
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    except KeyboardInterrupt:  # outside of training, where there is nothing to save
        print("stopped", file=sys.stderr)
        raise SystemExit(130) from None
    finally:
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()


def _accelerator(config: StageConfig) -> Accelerator:
    parts = set(config.lora.train)
    handlers = [
        # A chunk without images leaves vision and projector out of the graph.
        DistributedDataParallelKwargs(find_unused_parameters=bool(parts & {"projector", "vision"}))
    ]
    accelerator = Accelerator(
        cpu=not torch.accelerator.is_available(),  # else torchrun's ranks would not find each other
        log_with="tensorboard" if config.run.tensorboard else None,
        project_dir=config.run.output_dir,
        kwargs_handlers=handlers,
    )
    supported = (DistributedType.NO, DistributedType.MULTI_CPU, DistributedType.MULTI_GPU)
    if accelerator.distributed_type not in supported:
        raise ConfigError(
            f"{accelerator.distributed_type}: only one process and DDP are supported so far"
        )
    expected = int(os.environ.get("WORLD_SIZE", "1"))
    if accelerator.num_processes != expected:
        raise ConfigError(
            f"{expected} processes were launched, but each sees {accelerator.num_processes}"
        )
    if accelerator.mixed_precision == "fp16":
        raise ConfigError("accelerate's mixed_precision: got 'fp16', expected 'no' or 'bf16'")
    if accelerator.gradient_accumulation_steps != 1:
        raise ConfigError(
            "accelerate's gradient_accumulation_steps: got "
            f"{accelerator.gradient_accumulation_steps}, expected 1: several batches are no larger "
            "batch to a contrastive loss (see optim.batch_size_per_device, optim.chunk_size)"
        )
    return accelerator


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
    output_dir: Path, config: StageConfig, identity: dict[str, Any]
) -> tuple[bool, Path | None]:
    """Whether the folder holds this very run finished, and its newest checkpoint."""
    if output_dir.exists() and not output_dir.is_dir():
        raise ConfigError(f"run.output_dir: {output_dir} is not a folder")
    folder = checkpoint.latest(output_dir)
    finished = output_dir / "finished.json"
    if finished.exists():
        state = json.loads(finished.read_text())
    elif folder is not None:
        state = checkpoint.read_state(folder)
    else:
        return False, None
    elsewhere = "give another run.output_dir, or delete the folder to start anew"
    if not config.run.resume:
        raise ConfigError(f"{output_dir}: holds a run already and run.resume is false; {elsewhere}")
    changed = changes(state["identity"], identity)
    if changed:
        raise ConfigError(
            f"{output_dir}: holds a run with other settings ({'; '.join(changed)}); {elsewhere}"
        )
    return finished.exists(), folder


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
    with (output_dir / "starts.jsonl").open("a") as lines:
        lines.write(json.dumps(start) + "\n")


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
