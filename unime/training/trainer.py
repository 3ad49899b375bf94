"""The state of a run between two steps, what a step does to it, and how it is kept.

Nothing here knows which stage it is. There is no gradient accumulation (see config.OptimConfig) and
no state of the data order: step s takes ``sampler.batch(s)``, each rank its slice, so a run goes on
at any step at once.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, NoReturn, Protocol

import torch
from accelerate.utils import set_seed
from safetensors import SafetensorError
from torch import Tensor, nn

from unime.collapse import of_batch
from unime.config import OnNonfinite, OptimConfig, Stage1Config
from unime.data.sampler import GlobalBatchSampler
from unime.data.survey import Rows
from unime.errors import ConfigError, DataError, RunError
from unime.losses import LearntTemperature, LossOutput
from unime.mining.in_training import Mining
from unime.models.encoder import Encoder
from unime.runtime.digests import digests_below
from unime.runtime.distributed import gather_numbers, whole
from unime.runtime.files import write_json
from unime.runtime.interruption import typed_command
from unime.runtime.workers import load_batches, named
from unime.training.checkpoints import checkpoint
from unime.training.chunks import Batch, ChunkLimits
from unime.training.engines import graph_memory
from unime.training.grad_cache import ChunkTooLarge, StepLeft, cached_backward
from unime.training.graph_memory import GIB, GraphMemory
from unime.training.kernels.choices import choose_precision, compile_layers, make_optimizer
from unime.training.kernels.lora_sum import add_in_one
from unime.training.metrics import Metrics
from unime.training.out_of_memory import Collate, smaller
from unime.training.run import FINISHED, Run
from unime.training.schedule import learning_rate, total_steps
from unime.training.watch import Watch
from unime.validation.measure import Validation, embedding

OF_A_START = ("run.", "resume.", "validation.")  # settings that no chunk depends on


class StageLoss(Protocol):
    """The loss of a global batch; `step`: optimizer steps taken, None: outside of training."""

    def __call__(
        self,
        embeddings: dict[str, Tensor],
        labels: dict[str, Tensor],
        step: int | None = None,
        /,
    ) -> LossOutput: ...


class Trainer:
    """A run: made at its first step or where it stopped, by every rank."""

    def __init__(
        self,
        run: Run,
        encoder: Encoder,
        dataset: Rows,
        sampler: GlobalBatchSampler,
        collate: Collate,
        validation: Validation | None = None,
        mining: Mining | None = None,
        temperature: LearntTemperature | None = None,
    ) -> None:
        self.run, self.encoder, self.sampler, self.collate = run, encoder, sampler, collate
        self.validation, self.mining, self.temperature = validation, mining, temperature
        self.optim: OptimConfig = run.config.optim
        self.total_steps = total_steps(self.optim, sampler.steps_per_epoch)
        self.step = 0  # steps taken
        self.saved: int | None = None  # the step of the newest checkpoint
        path, every = run.output_dir / "metrics.jsonl", run.config.run.log_every
        size, steps = run.global_batch_size, self.total_steps
        stage = 1 if isinstance(run.config, Stage1Config) else 2
        unit = "texts" if stage == 1 else "pairs"
        self.metrics = Metrics(path, run.accelerator, every, size, steps, unit)
        self.watch = Watch(self.optim, stage, size, steps)
        limit = graph_memory(run.accelerator, self.optim)
        self.graphs = GraphMemory(limit, run.accelerator.device)
        if limit != self.optim.graph_memory:
            run.log.info("optim.graph_memory=auto: no graph is kept with this engine")
        self.steps_here, self._kept_told = 0, -1
        self.parameters: dict[str, nn.Parameter] = dict(encoder.trainable_named_parameters())
        if run.checkpoint is not None:
            try:
                encoder.load_trained(run.checkpoint)
            except ConfigError as error:
                raise checkpoint.unusable(run.checkpoint, error) from error
        run.log.info("%s", encoder.describe())
        optimizer = make_optimizer(self.parameters.values(), self.optim)
        choose_precision(self.optim)
        add_in_one(encoder)
        if self.optim.compile:
            run.log.info("%d layers are compiled as they are met", compile_layers(encoder))
        self.model, self.optimizer = run.accelerator.prepare(encoder.train(), optimizer)
        self.parameters = dict(encoder.trainable_named_parameters())  # FSDP2 has replaced them
        set_seed(run.config.run.seed, device_specific=True)  # dropout differs from rank to rank
        if run.checkpoint is not None:
            self._resume(run.checkpoint)
        else:
            self.metrics.go_on(0, None)
        self._name_best()  # of a later step that is lost, or of none
        self._check_ranks()
        run.log.info(
            "%d rows, %d steps an epoch; training from step %d to %d",
            len(dataset), sampler.steps_per_epoch, self.step, self.total_steps,
        )  # fmt: skip

    @property
    def is_done(self) -> bool:
        return self.step >= self.total_steps

    def rest_of_batches(self, dataset: Rows) -> AbstractContextManager[Iterator[Batch]]:
        """This rank's part of every step that is left, or until negatives are mined again."""
        size = self.optim.batch_size_per_device
        first = self.run.accelerator.process_index * size
        own = slice(first, first + size)
        make = partial(_rows_of_step, dataset, self.sampler, self.collate, own)
        end = self.total_steps
        if self.mining is not None:
            end = min(end, self.mining.next_step(self.step))
        steps = range(self.step, end)
        settings = self.run.config.run
        patience = settings.collective_timeout
        return load_batches(make, steps, settings.num_workers, "run.num_workers", patience)

    def validate(self, signum: Callable[[], int]) -> None:
        """Measure the model where that is due, and keep the checkpoint if it is the best so far.

        Raises:
            StepLeft: a signal reached any rank; the checkpoint of this step says that it is due.
        """
        validation, accelerator = self.validation, self.run.accelerator
        if validation is None or not self._validates:
            return

        with embedding(self.encoder) as embedder:
            scores = validation.measure(accelerator, embedder, self._leaving(signum))
        is_best = validation.take(self.step, scores)
        line = self.metrics.add_validation(self.step, scores)
        self.run.log.info("%s%s", line, " (the best so far)" if is_best else "")
        if words := of_batch(scores):
            self.run.log.warning("validation: %s; its hits are rounding, it is no best one", words)
        if is_best:
            self.save()
            self._name_best()

    @property
    def _validates(self) -> bool:
        """Whether a validation of this step is due."""
        return self.validation is not None and self.validation.is_due(self.step, self.is_done)

    def mine(self, signum: Callable[[], int]) -> None:
        """Mine negatives with the model as it is, where that is due.

        Raises:
            StepLeft: a signal reached any rank; the checkpoint of this step says that it is due.
        """
        mining, accelerator = self.mining, self.run.accelerator
        if mining is None or self.is_done or not mining.is_due(self.step):
            return
        with embedding(self.encoder) as embedder:
            told = mining.mine(accelerator, embedder, self._leaving(signum), self.step)
        self.run.log.info("%s", told)

    def _leaving(self, signum: Callable[[], int]) -> Callable[[], None]:
        """Raises StepLeft on all ranks where a signal has reached one."""

        def leave() -> None:
            reason = int(gather_numbers(self.run.accelerator, signum()).max())
            if reason:
                raise StepLeft(reason)

        return leave

    def take_step(
        self, batch: Batch, loss_fn: StageLoss, signum: Callable[[], int]
    ) -> dict[str, float]:
        """One optimizer step; the loss, its gradient and its statistics are of the global batch."""
        accelerator = self.run.accelerator
        rate = learning_rate(self.optim, self.step, self.total_steps)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        with accelerator.accumulate():  # no model: cached_backward says which backward syncs
            output = cached_backward(
                accelerator,
                self.model,
                batch,
                lambda embeddings, labels: loss_fn(embeddings, labels, self.step),
                signum,
                self.graphs,
                last=True,
                parameters=[self.temperature.log_scale] if self.temperature else (),
            )
            self._tell_kept(batch)
            self.graphs.end()
            max_norm = self.optim.max_grad_norm or math.inf
            norm = accelerator.clip_grad_norm_(self.model.parameters(), max_norm)
            values = _floats(output, norm)
            values["skipped_steps"] = float(not _finite(values))
            if values["skipped_steps"]:
                values = self._not_finite(values, batch)
            else:
                self.optimizer.step()  # DeepSpeed has, and does not where something is not finite
                if self.temperature is not None:
                    self.temperature.step(rate)
            self.optimizer.zero_grad()
        values["learning_rate"] = rate
        values["kept_graphs"] = float(self.graphs.kept)
        self.step += 1
        if words := self.watch.add(self.step, values):
            self.run.log.warning("%s", words)
        return values

    def make_room(self, error: ChunkTooLarge) -> None:
        """After a step for which there was no memory; the loss and its gradient stay what they are.

        Raises:
            RunError: there is no way, or none that the settings allow; says what to try.
        """
        where = f"step {self.step + 1}: out of {self.run.accelerator.device.type} memory"
        change = smaller(self.run.accelerator, self.optim, self.collate, self.graphs, error, where)
        self.optimizer.zero_grad()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        self.run.log.warning("%s %s", where, change)

    def _tell_kept(self, batch: Batch) -> None:
        """How many graphs are kept, when that is first known."""
        kept, self.steps_here = self.graphs.kept, self.steps_here + 1
        if len(batch.chunks) == 1 or self.graphs.limit == 0 or self.steps_here > 2:
            return
        if kept != self._kept_told:
            self._kept_told = kept
            needed = (self.graphs.used or self.graphs.largest) / GIB
            self.run.log.info(
                "%d of %d chunks keep their graph and are embedded once (optim.graph_memory=%s; %s"
                " %.3g GiB)",
                kept, len(batch.chunks), self.optim.graph_memory,
                "they take" if kept else "the first one would take", needed,
            )  # fmt: skip

    def save(self) -> None:
        """Write the checkpoint of the last complete step, unless it is there."""
        run = self.run
        if self.saved == self.step:
            return
        validation = self.validation.state if self.validation else {"step": 0, "best": None}
        state = {
            "step": self.step,
            "total_steps": self.total_steps,
            "metrics": self.metrics.state,
            **self.watch.state,
            "validation": validation,
            **({"mined": self.mining.step} if self.mining else {}),
            **({"temperature": self.temperature.state} if self.temperature else {}),
            "kept_graphs": self.graphs.kept,
            "chunk_limits": asdict(self.collate.limits),
            "world_size": run.accelerator.num_processes,
            "data": run.data,
            "identity": run.identity,
        }
        checkpoint.save(
            run.output_dir,
            state,
            self._save_files,
            self.parameters,
            self.optimizer,
            run.accelerator,
            run.config.run.save_total_limit,
        )
        self.saved = self.step

    def _save_files(self, folder: Path, writes: bool) -> None:
        """The adapters, and the negatives that are trained on."""
        self.encoder.save_adapters(folder, writes)
        if self.mining is not None and writes:
            self.mining.save(folder)

    def stop(self, signum: int) -> NoReturn:
        enabled = self.run.config.resume.enabled
        command = typed_command() + ("" if enabled else " resume.enabled=true")
        self.run.log.info(
            "stopped at step %d of %d, everything is saved; to go on:\n    %s",
            self.step, self.total_steps, command,
        )  # fmt: skip
        raise SystemExit(128 + signum)

    def finish(self) -> None:
        """Write ``final/``, then ``finished.json``, which says that it is complete."""
        run = self.run
        final = run.output_dir / "final"
        self.encoder.save_adapters(final, writes=run.is_main_process)
        metrics = self.metrics.last_line() if run.is_main_process else {}
        collapsed = of_batch(metrics)
        if run.is_main_process and not metrics:
            run.log.warning("%s has no line of training: how it went is lost", self.metrics.path)
        if run.is_main_process:
            outcome = {
                "steps": self.step,
                "seconds": self.metrics.seconds,
                "skipped_steps": self.metrics.skipped,
                "metrics": metrics,
                "collapsed": collapsed,
                "best": self._best(),
                "data": run.data,
                "identity": run.identity,
                "digests": digests_below(final),
            }
            write_json(run.output_dir / FINISHED, outcome)
        run.accelerator.wait_for_everyone()
        skipped = f", {self.metrics.skipped} of them skipped" if self.metrics.skipped else ""
        if collapsed:
            run.log.warning("the model that came out has %s", collapsed)
        for words in self.watch.last_words():
            run.log.warning("%s", words)
        run.log.info(
            "finished %d steps%s in %.0f s: %s", self.step, skipped, self.metrics.seconds, final
        )
        if best := self._best():
            run.log.info(
                "the best was step %d: %s", best["step"], run.output_dir / best["checkpoint"]
            )

    def _best(self) -> dict[str, Any] | None:
        """The best step, its scores and its checkpoint in the run's folder."""
        if self.validation is None or (best := self.validation.best) is None:
            return None
        return {**best, "checkpoint": f"checkpoints/{checkpoint.step_name(int(best['step']))}"}

    def _name_best(self) -> None:
        """In best.json, which goes when there is none."""
        path, best = self.run.output_dir / "best.json", self._best()
        if self.run.is_main_process and best:
            write_json(path, best)
        elif self.run.is_main_process:
            path.unlink(missing_ok=True)

    def _check_ranks(self) -> None:
        """Every rank read data and checkpoint by itself; hosts that do not share a disk may differ.

        Raises:
            ConfigError: they do.
        """
        data = self.run.data
        mine = {"step": self.step, "steps": self.total_steps, "rows": data["rows"]}
        mine["content of the rows"] = int(data["content"][:12], 16)
        ranks = gather_numbers(self.run.accelerator, *mine.values())  # (ranks, 4)
        for name, values in zip(mine, ranks.T.tolist(), strict=True):
            if len(set(values)) > 1:
                raise ConfigError(
                    f"{name}: ranks differ ({', '.join(map(str, values))}); all hosts need the same"
                    " data and the same run.output_dir"
                )

    def _resume(self, folder: Path) -> None:
        run, state = self.run, checkpoint.read_state(folder)
        self.step = self.saved = state["step"]
        self.watch.go_on(state)
        limits = state.get("chunk_limits")  # an older version did not keep them
        if limits and self.optim.auto_chunk and self._is_alike(state):
            self.collate.limits = ChunkLimits(**limits)
        if self.validation is not None:
            self.validation.go_on(state["validation"])
        self.metrics.go_on(self.step, state["metrics"], self._validates)
        if self.mining is not None:
            try:
                self.mining.go_on(state.get("mined", -1), folder)
            except (OSError, SafetensorError, DataError) as error:
                raise checkpoint.unusable(folder, error) from error
        if self.temperature is not None and "temperature" in state:  # else it begins here
            self.temperature.go_on(state["temperature"])
        run.log.info("going on from %s", folder)
        seed = run.config.run.seed
        warning = checkpoint.restore(folder, self.parameters, self.optimizer, run.accelerator, seed)
        if warning:
            run.log.warning("%s", warning)

    def _is_alike(self, state: Mapping[str, Any]) -> bool:
        """Whether a checkpoint was written with the settings and the processes of this start."""
        if state["world_size"] != self.run.accelerator.num_processes:
            return False
        then, now = state["identity"]["settings"], self.run.identity["settings"]
        both = then.keys() & now.keys()  # an older version did not have all of them
        return all(then[key] == now[key] for key in both if not key.startswith(OF_A_START))

    def _not_finite(self, values: dict[str, float], batch: Batch) -> dict[str, float]:
        """Write the step's rows down, then stop or skip it (``optim.on_nonfinite``).

        Returns:
            What is left to log of a skipped step.
        """
        rank = self.run.accelerator.process_index
        path = self.run.output_dir / f"not_finite_step{self.step + 1}_rank{rank}.json"
        numbers = {name: str(value) for name, value in values.items()}
        write_json(path, {**numbers, "rows": batch.row_ids})
        shown = ", ".join(batch.row_ids[:8]) + (", …" if len(batch.row_ids) > 8 else "")
        what = (
            f"step {self.step + 1}: loss {values['loss']}, gradient norm "
            f"{values.get('grad_norm')}; rows of rank {rank}: {shown} (all in {path})"
        )
        if self.optim.on_nonfinite is OnNonfinite.stop:
            raise RunError(what)
        self.run.log.warning("%s; skipped", what)
        return {name: value for name, value in values.items() if math.isfinite(value)}


def _rows_of_step(
    dataset: Rows, sampler: GlobalBatchSampler, collate: Collate, own: slice, step: int
) -> Batch:
    """A rank's part of a step, in a worker process if there are any.

    Raises:
        DataError: a row that cannot be read or prepared, whatever the reason.
    """
    rows = []
    for index in sampler.batch(step)[own]:
        try:
            rows.append(dataset[index])
        except Exception as error:
            raise named(f"row {index} of the data", error) from error
    return collate(rows)


def _finite(values: dict[str, float]) -> bool:
    return math.isfinite(values["loss"]) and math.isfinite(values.get("grad_norm", 0.0))


def _floats(output: LossOutput, norm: Tensor | None) -> dict[str, float]:
    """Loss, gradient norm and statistics in one transfer from the device."""
    known = {} if norm is None else {"grad_norm": whole(torch.as_tensor(norm))}
    scalars = {"loss": output.loss, **known, **output.stats}
    device = output.loss.device
    stacked = torch.stack([scalar.detach().double().to(device) for scalar in scalars.values()])
    return dict(zip(scalars, stacked.tolist(), strict=True))
