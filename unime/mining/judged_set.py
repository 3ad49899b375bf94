"""A training set with a judge's scores, task by task: what `./launch.sh judge` writes.

<output_dir>/
    <task>/train-00000-of-00001.parquet   the rows as they were, with scores of their candidates
    set.json                              a prepared set; who judged, and what came out
    embeddings/                           what the judge found, where the settings name no store
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor

from unime.config import JudgeConfig
from unime.config.evaluation import STORE
from unime.data.prepared.folder import SET, PreparedSet, write_rows
from unime.data.train_subset import load_train_subset
from unime.errors import DataError, require
from unime.inputs.items import Item, Pair
from unime.mining.places import check_output, made_with, refuse_other, tasks_of
from unime.mining.yes_no import YesNoModel, question_of
from unime.retrieval.encoding import distinct_items
from unime.retrieval.stored import StoredModel
from unime.runtime.distributed import on_main, together
from unime.runtime.files import replacing, writing
from unime.runtime.folder_lock import lock_folder
from unime.runtime.names import is_name

JUDGED = "judged"  # in the source of a set


class JudgedSet:
    """A set in the making.

    Raises:
        ConfigError: a model that is not there, or an output_dir that is other data, or was judged
            with other settings.
    """

    def __init__(self, config: JudgeConfig, accelerator: Accelerator) -> None:
        self.config, self.accelerator = config, accelerator
        self.output_dir = Path(config.output_dir)
        check_output(self.output_dir, Path(config.data.root), JUDGED)
        kind = YesNoModel if config.judge.kind == "yes_no" else StoredModel
        self.model: StoredModel = kind(config, accelerator)
        on_main(accelerator, lambda: lock_folder("output_dir", self.output_dir))
        self.made = made_with(config, [self.model])
        on_main(accelerator, self._refuse_other)
        self.model.open()
        self.tasks = config.data.tasks or on_main(accelerator, lambda: tasks_of(config))
        for task in self.tasks:
            require(is_name(task) and task != STORE, "data.tasks", task, "a folder's name")
        self.counts: dict[str, dict[str, Any]] = {}
        self._image_root = ""

    def judge(self, task: str) -> str:
        """Score the candidates of one task's rows; a line about it.

        Raises:
            DataError: data that cannot be used, or a failure of the model, on any rank.
        """
        data = self.config.data.pairs([task])
        subset = together(self.accelerator, lambda: load_train_subset(data, task))
        self._image_root = str(subset.images.roots[0]) if subset.images.roots else ""
        pairs = list(subset)
        scores = self._scores(pairs, task)
        found = on_main(self.accelerator, lambda: self._write(task, pairs, scores, subset.dropped))
        self.counts[task] = found
        left_out = f"; {len(subset.dropped):,} bad rows left out" if subset.dropped else ""
        return (
            f"{task}: {len(pairs):,} rows; targets score {found['targets']:.3f} on average,"
            f" {found['negatives']:,} negatives {found['negative_score']:.3f}, of which"
            f" {found['above']:,} more than their target; {found['left_out']:,} are left"
            f" out{left_out}"
        )

    def finish(self) -> None:
        """Write set.json, on the main process: the set is whole."""
        source = {JUDGED: self.made | {"vectors": [self.model.vectors], "tasks": self.counts}}
        former = PreparedSet.of(self.config.data.root)
        if former is not None:
            source["made of"] = former.source
        rows = {task: {"train": counts["rows"]} for task, counts in self.counts.items()}
        with writing("output_dir", self.output_dir):
            PreparedSet(self._image_root, rows, source).write(self.output_dir)

    def close(self) -> None:
        self.model.close()

    def _refuse_other(self) -> None:
        there = PreparedSet.of(self.output_dir)
        if there is not None:
            refuse_other(self.output_dir, there.source[JUDGED], self.made)

    def _scores(self, pairs: Sequence[Pair], task: str) -> list[Tensor]:
        """Of each row, its target's and its negatives' (1 + n,); on the main process."""
        items, places = self._asked(pairs)
        distinct = distinct_items(self.accelerator, items)
        missing = self.model.missing(distinct)
        if (refusal := self.model.refusal(distinct, missing)) is not None:
            raise DataError(f"{task}: {self.config.model.name}: {refusal}")
        self.model.encode(distinct, missing, task)

        def read() -> list[Tensor]:
            store = self.model.store
            assert store is not None

            def of(own: Sequence[int]) -> Tensor:
                numbers = distinct.index[list(own)].tolist()
                return store.embeddings([distinct.keys[number] for number in numbers])

            if self.config.judge.kind == "yes_no":
                return [of(own)[:, 0] for own in places]
            return [(vectors := of(own))[1:] @ vectors[0] for own in places]

        return on_main(self.accelerator, read)

    def _asked(self, pairs: Sequence[Pair]) -> tuple[list[Item], list[range]]:
        """What the model is shown, and the places of each row's share: a question for each
        candidate, or the query and the candidates."""
        items: list[Item] = []
        places = []
        for pair in pairs:
            candidates = (pair.target, *pair.negatives)
            first = len(items)
            if self.config.judge.kind == "yes_no":
                try:
                    question = self.config.judge.question
                    items += [question_of(pair.query, one, question) for one in candidates]
                except DataError as error:
                    raise DataError(f"row {pair.row_id}: {error}") from None
            else:
                items += [pair.query, *candidates]
            places.append(range(first, len(items)))
        return items, places

    def _write(
        self, task: str, pairs: Sequence[Pair], scores: Sequence[Tensor], dropped: list[str]
    ) -> dict[str, Any]:
        """The rows with their scores, on the main process; what came out."""
        folder, margin = self.output_dir / task, self.config.judge.false_negative_margin
        with writing("output_dir", folder):
            (self.output_dir / SET).unlink(missing_ok=True)  # which is of what was there
            with replacing(folder) as aside:
                rows = self._rows(pairs, scores, margin)
                write_rows(aside, "train", rows, len(pairs), task)
        targets = torch.stack([own[0] for own in scores])
        negatives = torch.cat([own[1:] for own in scores])
        over = torch.cat([own[1:] - own[0] for own in scores])
        return {
            "rows": len(pairs),
            "targets": float(targets.mean()),
            "negatives": len(negatives),
            "negative_score": float(negatives.mean()) if len(negatives) else 0.0,
            "above": int((over > 0).sum()),
            "left_out": 0 if margin is None else int((over > margin).sum()),
            "bad_rows": dropped,
        }

    def _rows(
        self, pairs: Sequence[Pair], scores: Sequence[Tensor], margin: float | None
    ) -> Iterator[Pair]:
        for pair, own in zip(pairs, scores, strict=True):
            kept = own[1:] - own[0] <= (float("inf") if margin is None else margin)
            chosen = kept.nonzero()[:, 0].tolist()
            yield Pair(
                self._relative(pair.query),
                self._relative(pair.target),
                tuple(self._relative(pair.negatives[number]) for number in chosen),
                pair.row_id,
                (float(own[0]), *own[1:][kept].tolist()),
            )

    def _relative(self, item: Item) -> Item:
        paths = (os.path.relpath(path, self._image_root) for path in item.images)
        return replace(item, images=tuple(paths))
