"""The one training loop: a step's rows, cached backward, clipping, AdamW, log and checkpoint.

Both stages call :func:`train` with their encoder, rows, collator and loss; what a step does is in
trainer.py.
"""

from __future__ import annotations

import time
from collections.abc import Iterator

from tqdm import tqdm

from unime.data.sampler import GlobalBatchSampler
from unime.losses import LearntTemperature
from unime.mining.in_training import Mining
from unime.models.encoder import Encoder
from unime.runtime.interruption import Interruption
from unime.runtime.lost_ranks import stall_watch
from unime.training.chunks import Batch
from unime.training.grad_cache import ChunkTooLarge, StepLeft
from unime.training.metrics import of_batch
from unime.training.run import Run
from unime.training.trainer import Collate, Rows, StageLoss, Trainer
from unime.validation.measure import Validation


def train(
    run: Run,
    encoder: Encoder,
    dataset: Rows,
    sampler: GlobalBatchSampler,
    collate: Collate,
    loss_fn: StageLoss,
    validation: Validation | None = None,
    mining: Mining | None = None,
    temperature: LearntTemperature | None = None,
) -> None:
    """Train the encoder's adapters to the last step, from the newest checkpoint if there is one,
    and write them to ``final/``.

    Args:
        dataset: the rows; with `mining` its own, whose negatives change.
        temperature: that the loss learns.

    Raises:
        ConfigError: parameters, data or schedule that do not fit the settings or the checkpoint.
        DataError: a row that cannot be read or prepared.
        RunError: a loss or gradient that is not finite (the message names the rows), no memory for
            a chunk, or no room for a checkpoint.
        SystemExit: 130 after Ctrl-C, 143 after SIGTERM, with everything saved.
    """
    trainer = Trainer(run, encoder, dataset, sampler, collate, validation, mining, temperature)
    bar = tqdm(
        initial=trainer.step,
        total=trainer.total_steps,
        unit="step",
        disable=None if run.is_main_process else True,  # None: where there is no terminal
    )
    try:
        with bar, Interruption(run.is_main_process) as interruption:
            while True:
                try:
                    _mine(trainer, interruption)
                    with trainer.rest_of_batches(dataset) as batches:
                        _take_steps(trainer, batches, loss_fn, bar, interruption)
                    if trainer.is_done:
                        break
                except ChunkTooLarge as error:
                    trainer.make_room(error)
        trainer.finish()
    finally:
        for tracker in run.accelerator.trackers:
            tracker.finish()


def _mine(trainer: Trainer, interruption: Interruption) -> None:
    """New negatives, before those who make batches of them are started."""
    try:
        trainer.mine(lambda: interruption.signum)
    except StepLeft as left:
        trainer.save()
        trainer.stop(left.signum)


def _take_steps(
    trainer: Trainer,
    batches: Iterator[Batch],
    loss_fn: StageLoss,
    bar: tqdm,
    interruption: Interruption,
) -> None:
    """All steps that are left, with their log lines, validation and checkpoints."""
    try:
        trainer.validate(lambda: interruption.signum)  # where it was left the last time
        began = time.perf_counter()
        for batch in batches:
            _take_step(trainer, batch, loss_fn, bar, interruption, began)
            began = time.perf_counter()
    except StepLeft as left:  # here, as those who make the batches are waited for
        trainer.save()
        trainer.stop(left.signum)


def _take_step(
    trainer: Trainer,
    batch: Batch,
    loss_fn: StageLoss,
    bar: tqdm,
    interruption: Interruption,
    began: float,
) -> None:
    run, metrics = trainer.run, trainer.metrics
    timeout, num_processes = run.config.run.collective_timeout, run.accelerator.num_processes
    with stall_watch(trainer.step + 1, timeout, num_processes):
        values = trainer.take_step(batch, loss_fn, lambda: interruption.signum)
        values |= of_batch(run.accelerator, batch)
        line = metrics.add(trainer.step, values, time.perf_counter() - began)
        bar.set_postfix_str(metrics.in_words(values), refresh=False)
        bar.update()
        if line and bar.disable:
            run.log.info("%s", line)
    trainer.validate(lambda: interruption.signum)
    with stall_watch(trainer.step, timeout, num_processes):
        if trainer.is_done or trainer.step % run.config.run.save_every == 0:
            trainer.save()
