"""One model on any number of tasks: read, encode what is new, rank, write."""

from __future__ import annotations

import hashlib
import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from accelerate import Accelerator

from eval.remarks import warnings_of
from eval.result_files import Ranked, side_files, write_side_files
from eval.results import Scores, TaskResult
from eval.scoring import at_sizes, in_words, score_task, summary
from eval.tasks.base import EvalTask, as_shown
from eval.tasks.sources import EvalSource
from eval.tasks.suites import Task
from unime.config import EvalConfig, dump_config
from unime.errors import DataError, require
from unime.inputs.items import Item
from unime.retrieval.encoding import DistinctItems, distinct_items, embedding_statistics
from unime.retrieval.stored import StoredModel
from unime.runtime.distributed import on_main, together
from unime.runtime.environment import code_digest, git_commit, write_facts
from unime.runtime.files import write_json, writing
from unime.runtime.folder_lock import lock_folder, unlock_folder

HERE = Path(__file__).parent


class Evaluation:
    """A model, its embeddings on disk and the folder of its results; the model is loaded when the
    first embedding is missing."""

    def __init__(self, config: EvalConfig, accelerator: Accelerator):
        self.config = config
        self.accelerator = accelerator
        self.output_dir = Path(config.output_dir)
        self.source = EvalSource(config.data)
        self.model = StoredModel(config, accelerator)
        on_main(accelerator, lambda: lock_folder("output_dir", self.output_dir))
        if accelerator.is_main_process:
            with writing("output_dir", self.output_dir):
                write_facts(self.output_dir, dump_config(config), git_commit())
        self.results: dict[str, dict[str, Any]] = {}  # task -> the content of its file
        self.model.open()

    def run(self, name: str, task: Task) -> str:
        """Evaluate one task, unless its result is there; returns a line about it.

        Raises:
            DataError: data that cannot be used, or a failure of the model, on any rank.
        """
        loaded = together(self.accelerator, lambda: task.read(name, self.source))
        everything = [*loaded.queries, *loaded.targets]
        frames = int(self.model.inputs.num_frames or 0)
        shown = [as_shown(item, frames) for item in everything]
        distinct = distinct_items(self.accelerator, shown)
        data_fingerprint = self._data_fingerprint(loaded, everything, distinct)
        described: dict[str, Any] = {
            "task": name,
            "meta_task": task.meta_task,
            "distribution": task.distribution,
            "modality": task.modality,
            "metric": task.metric,
            "num_rows": loaded.num_rows,
            "data_fingerprint": data_fingerprint,
            "items_fingerprint": digest_of(*distinct.keys),
            "settings_fingerprint": self.model.fingerprint,
            "vectors_fingerprint": self.model.vectors,
            "scoring_fingerprint": code_digest(HERE, HERE / "tasks"),
        }
        kept = on_main(self.accelerator, lambda: self._kept(described))
        if kept is not None:
            return self._told(kept, " (kept)")
        self.forget(name, task)
        missing = self.model.missing(distinct)
        refusal = self.model.refusal(distinct, missing)
        started = time.monotonic()
        if refusal is None:
            self._check_dimensions(missing)
            self._encode(loaded, distinct, missing)
        seconds = time.monotonic() - started  # of encoding: the model is loaded, the rows are read

        def finish() -> TaskResult:
            scores = None
            if refusal is None:
                scores = self._score(loaded, task, distinct, len(missing), seconds)
            result = TaskResult(
                **described,
                left_out=loaded.left_out,
                not_supported=refusal,
                scores=scores,
                **self.model.provenance(),
            )
            with writing("output_dir", self.output_dir):
                write_json(self.output_dir / f"{name}.json", result.to_json())
            return result

        return self._told(on_main(self.accelerator, finish))

    def _told(self, result: TaskResult, remark: str = "") -> str:
        """Remember a result, and put it into words."""
        self.results[result.task] = result.to_json()
        warnings = warnings_of({result.task: self.results[result.task]})
        return "\n  warning: ".join([in_words(result) + remark, *warnings])

    def forget(self, name: str, task: Task) -> None:
        """Remove what an earlier evaluation wrote of a task, which holds no longer."""
        beside = side_files(self.output_dir / task.modality, name)

        def remove() -> None:
            with writing("output_dir", self.output_dir):
                for path in (self.output_dir / f"{name}.json", *beside):
                    path.unlink(missing_ok=True)

        on_main(self.accelerator, remove)

    def close(self) -> None:
        self.model.close()
        if self.accelerator.is_main_process:
            unlock_folder(self.output_dir)

    def _check_dimensions(self, missing: list[int]) -> None:
        """Before anything is encoded.

        Raises:
            ConfigError: the embeddings do not have so many.
        """
        if self.config.dimensions is not None:
            whole = self.model.dimension(missing)
            expected = f"at most {whole}, which is what the model's embeddings have"
            for size in self.config.dimensions:
                require(size <= whole, "dimensions", size, expected)

    def _encode(self, loaded: EvalTask, distinct: DistinctItems, missing: list[int]) -> None:
        def name(place: int) -> str:
            return loaded.name_of(distinct.index.tolist().index(missing[place]))

        self.model.encode(distinct, missing, loaded.name, name)

    def _score(
        self, loaded: EvalTask, task: Task, distinct: DistinctItems, encoded: int, seconds: float
    ) -> Scores:
        """On the main process: rank, measure, and write what reports read beside the result."""
        store = self.model.store
        assert store is not None
        vectors = store.embeddings(distinct.keys)  # (U, D)
        sides = [len(loaded.queries), len(loaded.targets)]
        queries, targets = vectors[distinct.index].split(sides)
        items = distinct.index.split(sides)[1]
        device = self.accelerator.device
        sides_there = queries.to(device), targets.to(device)
        ranking, metrics = score_task(loaded, *sides_there, items)
        scores = summary(loaded, ranking, metrics, task.metric) | embedding_statistics(vectors)
        if self.config.dimensions is not None:
            sizes = sorted({*self.config.dimensions, vectors.shape[1]})
            own = at_sizes(loaded, *sides_there, items, task.metric, sizes)
            scores["dimensions"] = own
        assert ranking.ties is not None
        found = [ranking.targets.cpu(), ranking.scores.cpu(), ranking.ties.shared_first]
        ranked = Ranked(loaded, queries, targets, *found)
        with writing("output_dir", self.output_dir):
            write_side_files(self.output_dir / task.modality, ranked, scores["metrics"])
        return Scores(
            **scores,
            num_items=len(distinct.items),
            num_truncated=store.num_truncated(distinct.keys),
            num_encoded=encoded,
            seconds=seconds,
            items_per_second=encoded / seconds if encoded else None,
        )

    def _kept(self, described: dict[str, Any]) -> TaskResult | None:
        """The result that is there, if it was made with these settings, model and data."""
        path = self.output_dir / f"{described['task']}.json"
        if self.config.overwrite or not path.is_file():
            return None
        try:
            result = TaskResult.from_json(path)
        except DataError:
            return None  # made anew
        same_sizes = result.dimensions == self.config.dimensions
        return result if same_sizes and described.items() <= vars(result).items() else None

    def _data_fingerprint(
        self, loaded: EvalTask, everything: list[Item], distinct: DistinctItems
    ) -> str:
        """Of what is asked and what is right, whatever a model sees of it: of a video the first
        frame and how many there are, so that runs with 8 and with 64 frames can be compared."""
        if any(item.video for item in everything):
            distinct = distinct_items(self.accelerator, map(_told_by_first_frame, everything))
        right = json.dumps([loaded.relevance, loaded.candidates]).encode()
        return digest_of(*distinct.keys, distinct.index.numpy().tobytes(), right)


def digest_of(*parts: bytes) -> str:
    return hashlib.blake2b(b"".join(parts), digest_size=16).hexdigest()


def _told_by_first_frame(item: Item) -> Item:
    count = len(item.video)
    if not count:
        return item
    return replace(item, video=item.video[:1], instruction=f"{item.instruction}, {count} frames")
