"""The tasks of a suite as a measure while training (unime/validation.py), without files."""

from __future__ import annotations

from dataclasses import replace

import torch
from accelerate import Accelerator

from eval.scoring import score_task
from eval.sources import Source
from eval.suites import Task, load_suite
from eval.task import EvalTask
from unime.config import EvalData, ValidationConfig
from unime.embedder import Embedder
from unime.encoding import together
from unime.held_out_scores import HeldItems
from unime.images import sample_frames
from unime.items import Item, item_key
from unime.validation import HIT, Leave, Scores


class SuiteValidation:
    """The mean of all tasks' scores (whatever metric the suite names for each), and each of them.

    Raises:
        ConfigError, DataError: a suite, or rows of a task, that cannot be used; before anything is
            loaded.
    """

    def __init__(self, config: ValidationConfig, batch_size: int, accelerator: Accelerator) -> None:
        assert config.suite is not None
        root, image_root, limit = config.root, config.image_root, config.limit
        source = Source(EvalData(root, None, image_root, suite=config.suite, limit=limit))
        self._batch_size = batch_size
        self._tasks: dict[str, tuple[Task, EvalTask, HeldItems | None]] = {}
        for name, task in load_suite(config.suite, config.tasks).items():
            loaded = together(
                accelerator, lambda task=task, name=name: task.format.read(name, source)
            )
            self._tasks[name] = task, loaded, None

    def __call__(self, accelerator: Accelerator, embedder: Embedder, leave: Leave) -> Scores:
        scores = {}
        for name, (task, loaded, held) in self._tasks.items():
            if held is None:
                frames = int(embedder.describe()["num_frames"])
                shown = [_shown(item, frames) for item in (*loaded.queries, *loaded.targets)]
                held = HeldItems(shown, self._batch_size)
                self._tasks[name] = task, loaded, held
            embeddings = held.embed(accelerator, embedder, leave)
            queries, targets = embeddings.tensor_split([len(loaded.queries)])
            known: dict[int, int] = {}  # of copies the first
            keys = [item_key(target) for target in loaded.targets]
            items = torch.tensor([known.setdefault(key, place) for place, key in enumerate(keys)])
            _, metrics = score_task(loaded, queries, targets, items)
            scores[f"{task.metric}/{name}"] = metrics[task.metric].mean().item()
        return {HIT: torch.tensor(list(scores.values())).mean().item(), **scores}


def _shown(item: Item, count: int) -> Item:
    """Of a video the frames that the model sees."""
    return replace(item, video=tuple(sample_frames(item.video, count))) if item.video else item
