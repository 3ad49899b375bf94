"""The tasks of a suite as a measure while training (unime/validation/measure.py), without files."""

from __future__ import annotations

from functools import partial
from statistics import mean

import torch
from accelerate import Accelerator
from torch import Tensor

from eval.scoring import chance_of, score_task
from eval.tasks.base import EvalTask, as_shown
from eval.tasks.sources import EvalSource
from eval.tasks.suites import Task, load_suite
from unime.config import EvalData, ValidationConfig
from unime.inputs.items import item_key
from unime.losses import spread
from unime.retrieval.embedder import ItemEmbedder
from unime.runtime.distributed import together
from unime.validation.measure import CHANCE, HIT, Leave, Scores
from unime.validation.scores import HeldItems, first_of_each, numbers


class SuiteValidation:
    """The mean of all tasks' scores (whatever metric the suite names for each), and each of them.

    Raises:
        ConfigError, DataError: a suite, or rows of a task, that cannot be used; before anything is
            loaded.
    """

    def __init__(self, config: ValidationConfig, batch_size: int, accelerator: Accelerator) -> None:
        assert config.suite is not None
        data = EvalData(
            root=config.root,
            image_root=config.image_root,
            follow_links=config.follow_links,
            suite=config.suite,
            limit=config.limit,
        )
        source = EvalSource(data)
        self._batch_size = batch_size
        self._copies: dict[str, Tensor] = {}  # which item each target is (T,)
        self._tasks: dict[str, tuple[Task, EvalTask, HeldItems | None]] = {}
        keys: list[int] = []  # of all items of all tasks
        for name, task in load_suite(config.suite, config.tasks).items():
            loaded = together(accelerator, partial(task.read, name, source))
            self._tasks[name] = task, loaded, None
            of_targets = [item_key(target) for target in loaded.targets]
            self._copies[name] = torch.tensor(of_targets)
            keys += [*map(item_key, loaded.queries), *of_targets]
        self._different = first_of_each(keys)
        self._chance = mean(
            chance_of(loaded, task.metric) for task, loaded, _ in self._tasks.values()
        )

    def __call__(self, accelerator: Accelerator, embedder: ItemEmbedder, leave: Leave) -> Scores:
        scores: Scores = {}
        everything: list[Tensor] = []
        for name, (task, loaded, held) in self._tasks.items():
            if held is None:
                frames = int(embedder.describe()["num_frames"])
                shown = [as_shown(item, frames) for item in (*loaded.queries, *loaded.targets)]
                held = HeldItems(shown, self._batch_size)
                self._tasks[name] = task, loaded, held
            embeddings = held.embed(accelerator, embedder, leave)
            queries, targets = embeddings.tensor_split([len(loaded.queries)])
            _, metrics = score_task(loaded, queries, targets, self._copies[name])
            scores[f"{task.metric}/{name}"] = metrics[task.metric].mean().item()
            everything.append(embeddings)
        means = {HIT: mean(scores.values()), CHANCE: self._chance}
        different = torch.cat(everything)[self._different]
        return means | scores | numbers(spread({"item": different}))
