"""What a run that learns nothing is stopped for, or warned of: its embeddings have collapsed, its
queries have no negatives, its steps are not finite."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from unime.collapse import COLLAPSED_STEPS, CollapseWatch
from unime.config import OnCollapse, OptimConfig
from unime.errors import RunError

TO_TRY = {  # when a model collapses
    1: "a lower optim.learning_rate, more optim.warmup_steps, a larger batch, or texts that the"
    " base knows",
    2: "loss.hard_negatives_after=auto if it is another, a lower optim.learning_rate, a larger"
    " loss.num_hard_negatives (null: all), or stage 1 first",
}
NO_NEGATIVES = "no query of the batch has a negative that the loss may use"


class Watch:
    """Follows the values of a run's steps, which are equal on every rank.

    Attributes:
        collapse: of the embeddings.
        empty: steps in a row, up to the last, in which no query had a negative.
        skipped: steps in a row, up to the last, that were not finite.
    """

    def __init__(self, optim: OptimConfig, stage: int, batch_size: int, total_steps: int) -> None:
        self.collapse = CollapseWatch(optim.warmup_steps)
        self.empty = self.skipped = 0
        self._optim, self._stage, self._batch_size = optim, stage, batch_size
        self._patience = min(COLLAPSED_STEPS, total_steps)  # all of a short run's steps
        self._skips = max(2, min(COLLAPSED_STEPS, total_steps - 1))  # the first is the base's own

    def add(self, step: int, values: Mapping[str, float]) -> str | None:
        """Take in step number `step` (from 1).

        Returns:
            What to warn of, once, if ``optim.on_collapse`` is warn.

        Raises:
            RunError: to stop; the checkpoints stay as they are.
        """
        self.skipped = self.skipped + 1 if values["skipped_steps"] else 0
        if self.skipped == self._skips:
            raise RunError(
                f"step {step}: {self.skipped} steps in a row were not finite and skipped, so the"
                " parameters are most likely what is wrong; what may help: a lower"
                " optim.learning_rate and more optim.warmup_steps, in another run.output_dir"
            )
        words = self._collapsed(step, values) or self._without_negatives(values)
        if words is None:
            return None
        what = f"step {step}: {words}"
        if self._optim.on_collapse is OnCollapse.stop:
            raise RunError(f"{what} (optim.on_collapse=warn goes on all the same)")
        return what

    def _collapsed(self, step: int, values: Mapping[str, float]) -> str | None:
        before = self.collapse.steps
        words = self.collapse.add(step, values)
        if words is None or before >= COLLAPSED_STEPS:
            return None
        return f"{words}; what may help: {TO_TRY[self._stage]}"

    def _without_negatives(self, values: Mapping[str, float]) -> str | None:
        names = [name for name in ("empty_queries", "reverse_empty_queries") if name in values]
        is_empty = bool(names) and all(values[name] >= self._batch_size for name in names)
        self.empty = self.empty + 1 if is_empty else 0
        if self.empty != self._patience:
            return None
        return (
            f"{NO_NEGATIVES}, {self.empty} steps in a row: they teach nothing; what may help: a"
            " larger loss.false_negative_margin (null: no filter), a larger batch, or rows with"
            " more different targets"
        )

    def last_words(self) -> list[str]:
        """What the last steps of a run were wasted on."""
        told = {
            f"{NO_NEGATIVES}, in": self.empty,
            "not finite, and skipped, were": self.skipped,
        }
        return [f"{what} the last {steps} steps" for what, steps in told.items() if steps]

    @property
    def state(self) -> dict[str, int]:
        """Goes with a checkpoint."""
        counts = {"empty_steps": self.empty, "skipped_in_a_row": self.skipped}
        return {"collapsed_steps": self.collapse.steps} | counts

    def go_on(self, state: Mapping[str, Any]) -> None:
        self.collapse.steps = state["collapsed_steps"]
        self.empty = state.get("empty_steps", 0)
        self.skipped = state.get("skipped_in_a_row", 0)
