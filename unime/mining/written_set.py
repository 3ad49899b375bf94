"""A prepared set in the making: the rows of another one with more to them, task by task."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from accelerate import Accelerator

from unime.config import JudgeConfig, MineConfig
from unime.config.evaluation import STORE
from unime.data.prepared.folder import SET, PreparedSet, write_rows
from unime.data.train_subset import TrainSubset, load_train_subset
from unime.errors import require
from unime.inputs.items import Item, Pair
from unime.mining.places import check_output, made_with, refuse_other, tasks_of
from unime.retrieval.stored import StoredModel
from unime.runtime.distributed import on_main, together
from unime.runtime.files import replacing, writing
from unime.runtime.folder_lock import lock_folder
from unime.runtime.names import is_name


class WrittenSet:
    """Where it is written, by which models; its program says what rows get.

    Attributes:
        key: what set.json calls how it was made.
        taken: folders beside those of the tasks.
        made: settings and models, for set.json.
        former: the same of the set that is there, made as this one is; nothing where none is.
        tasks: of which it is.

    Raises:
        ConfigError: a model that is not there, or an output_dir that is other data, or was made
            with other settings.
    """

    key: str
    taken: tuple[str, ...] = (STORE,)

    def __init__(self, config: MineConfig | JudgeConfig, accelerator: Accelerator) -> None:
        self.accelerator = accelerator
        self.output_dir, self._root = Path(config.output_dir), config.data.root
        self._data = config.data
        check_output(self.output_dir, Path(self._root), self.key)
        self.models = self._find_models()
        on_main(accelerator, lambda: lock_folder("output_dir", self.output_dir))
        self.made = made_with(config, self.models)
        self.former: dict[str, Any] = on_main(accelerator, self._look)
        for model in self.models:
            model.open()
        self.tasks = config.data.tasks or on_main(accelerator, lambda: tasks_of(config))
        expected = f"a folder's name, other than {', '.join(self.taken)}"
        for task in self.tasks:
            require(is_name(task) and task not in self.taken, "data.tasks", task, expected)
        self._image_root = ""

    def close(self) -> None:
        for model in self.models:
            model.close()

    def _find_models(self) -> list[StoredModel]:
        raise NotImplementedError

    def _look(self) -> dict[str, Any]:
        there = PreparedSet.of(self.output_dir)
        if there is None:
            return {}
        refuse_other(self.output_dir, there.source[self.key], self.made)
        found: dict[str, Any] = there.source[self.key]
        return found

    def _load(self, task: str) -> tuple[TrainSubset, list[Pair]]:
        """The good rows of a task."""
        data = self._data.pairs([task])
        subset = together(self.accelerator, lambda: load_train_subset(data, task))
        self._image_root = str(subset.images.roots[0]) if subset.images.roots else ""
        return subset, list(subset)

    def _write_rows(self, task: str, rows: Iterable[Pair], count: int) -> None:
        """A task's rows; on the main process."""
        folder = self.output_dir / task
        with writing("output_dir", folder):
            (self.output_dir / SET).unlink(missing_ok=True)  # which is of what was there
            with replacing(folder) as aside:
                write_rows(aside, "train", rows, count, task)

    def _write_set(self, more: Mapping[str, Any], rows: Mapping[str, int]) -> None:
        """Write set.json, on the main process: the set is whole.

        Args:
            more: what was made, beside `made`.
            rows: of each task.
        """
        vectors = {"vectors": [model.vectors for model in self.models]}
        source = {self.key: self.made | vectors | dict(more)}
        former = PreparedSet.of(self._root)
        if former is not None:
            source["made of"] = former.source
        with writing("output_dir", self.output_dir):
            sizes = {task: {"train": count} for task, count in rows.items()}
            PreparedSet(self._image_root, sizes, source).write(self.output_dir)

    def _relative(
        self, pair: Pair, negatives: Sequence[Item], scores: tuple[float, ...] = ()
    ) -> Pair:
        """A row with these negatives, as it is written."""

        def moved(item: Item) -> Item:
            paths = (os.path.relpath(path, self._image_root) for path in item.images)
            return replace(item, images=tuple(paths))

        query, target = moved(pair.query), moved(pair.target)
        moved_negatives = tuple(map(moved, negatives))
        return replace(pair, query=query, target=target, negatives=moved_negatives, scores=scores)
