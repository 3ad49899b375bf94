"""A training set with mined negatives, task by task: what `./launch.sh mine` writes.

<output_dir>/
    <task>/train-00000-of-00001.parquet   the rows as they were, with their negatives
    set.json                              a prepared set; how it was mined
    mining/<task>.json                    what became of the candidates
    embeddings/                           every item once, where the settings name no store
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from torch import Tensor

from unime.config import EvalConfig, MineConfig, build_config
from unime.config.evaluation import STORE
from unime.data.train_subset import TrainSubset
from unime.errors import ConfigError, DataError
from unime.inputs.items import Pair
from unime.mining.corpus import Corpus, content
from unime.mining.miner import Mined, Miner
from unime.mining.near_duplicates import NearDuplicates
from unime.mining.outcome import as_report
from unime.mining.places import REPORTS
from unime.mining.rules import Rule, SecondModel
from unime.mining.written_set import WrittenSet
from unime.retrieval.encoding import DistinctItems, distinct_items
from unime.retrieval.fingerprint import package_versions, plain
from unime.retrieval.stored import StoredModel
from unime.runtime.distributed import on_main
from unime.runtime.environment import installed_versions
from unime.runtime.files import read_json, write_json, writing


class MinedSet(WrittenSet):
    """A set in the making."""

    key = "mined"
    taken = (REPORTS, STORE)

    def __init__(self, config: MineConfig, accelerator: Accelerator) -> None:
        self.config = config
        super().__init__(config, accelerator)
        self.reports: dict[str, dict[str, Any]] = {}

    def _find_models(self) -> list[StoredModel]:
        config, models = self.config, [StoredModel(self.config, self.accelerator)]
        if config.second.config is not None:
            own = [f"output_dir={config.output_dir}"]  # whatever the file says
            second = build_config(EvalConfig, Path(config.second.config), own)
            second = replace(second, store=str(config.stores))
            models.append(StoredModel(second, self.accelerator))
            if models[0].vectors == models[1].vectors:
                raise ConfigError(
                    f"second.config: got {config.second.config!r}, expected another model than the"
                    " one that mines, or other inputs",
                    "second.config",
                )
        return models

    def mine(self, task: str) -> str:
        """One task, unless it is there as these settings, model and data make it; a line about it.

        Raises:
            DataError: data that cannot be used, or a failure of the model, on any rank.
        """
        subset, pairs = self._load(task)
        items = [*(pair.query for pair in pairs), *(pair.target for pair in pairs)]
        distinct = distinct_items(self.accelerator, items)
        rows = _digest_of(pairs, distinct)
        if self.former.get("rows", {}).get(task, rows) != rows:
            other = f"{self.output_dir} was made with other rows of {task}"
            raise ConfigError(f"output_dir: {other}; name another folder", "output_dir")
        described = {"task": task, "rows of": rows, "fingerprint": self._fingerprint(rows)}
        kept = on_main(self.accelerator, lambda: self._kept(described))
        if kept is None:
            for model in self.models:
                model.complete(distinct, task)
            kept = on_main(
                self.accelerator, lambda: described | self._write(task, subset, pairs, distinct)
            )
            on_main(self.accelerator, partial(self._note, task, kept))
        self.reports[task] = kept
        short = f"; {kept['short']['rows']:,} got fewer" if kept["short"]["rows"] else ""
        left_out = f"; {len(kept['left_out']):,} bad rows left out" if kept["left_out"] else ""
        return (
            f"{task}: {kept['rows']:,} rows, {kept['negatives']:,} negatives of"
            f" {kept['targets']:,} targets{short}{left_out}"
        )

    def finish(self) -> None:
        """Write set.json, on the main process: the set is whole."""
        reports = self.reports.items()
        more = {
            "tasks": {task: report["fingerprint"] for task, report in reports},
            "rows": {task: report["rows of"] for task, report in reports},
        }
        self._write_set(more, {task: report["rows"] for task, report in reports})

    def _fingerprint(self, rows: str) -> str:
        """Of everything that decides what is written of a task."""
        config, versions = self.config, installed_versions()
        words = [
            plain(config.mining), asdict(config.second), config.seed, config.examples,
            [model.vectors for model in self.models], package_versions(),
            [versions.get(name) for name in ("faiss-cpu", "imagehash", "pyarrow")], rows,
        ]  # fmt: skip
        return hashlib.blake2b(json.dumps(words).encode(), digest_size=16).hexdigest()

    def _kept(self, described: dict[str, Any]) -> dict[str, Any] | None:
        """The report that is there, if it is of just this."""
        task = described["task"]
        with suppress(DataError):
            found: dict[str, Any] = read_json(self._report(task))
            if described.items() <= found.items() and (self.output_dir / task).is_dir():
                return found
        return None

    def _report(self, task: str) -> Path:
        return self.output_dir / REPORTS / f"{task}.json"

    def _note(self, task: str, report: dict[str, Any]) -> None:
        path = self._report(task)
        with writing("output_dir", path):
            path.parent.mkdir(exist_ok=True)
            write_json(path, report)

    def _write(
        self, task: str, subset: TrainSubset, pairs: Sequence[Pair], distinct: DistinctItems
    ) -> dict[str, Any]:
        """Mine, and write the rows; on the main process."""
        corpus = Corpus.of(pairs, self.config.mining.shared_targets)
        vectors = [self._vectors(model, corpus, pairs, distinct) for model in self.models]
        device = self.accelerator.device
        queries, targets = (side.to(device) for side in vectors[0])
        more = self._more_rules(corpus, vectors[1:])
        miner = Miner(corpus, queries, targets, self.config.mining, more, self.config.seed)
        mined = miner.mine()
        self._write_rows(task, self._rows(corpus, pairs, mined), len(pairs))
        examples = -(-self.config.examples // len(self.tasks))
        row_ids = [pair.row_id for pair in pairs]
        return {"left_out": subset.dropped} | as_report(
            miner, mined, row_ids, examples, self.config.seed
        )

    def _vectors(
        self, model: StoredModel, corpus: Corpus, pairs: Sequence[Pair], distinct: DistinctItems
    ) -> tuple[Tensor, Tensor]:
        """The embeddings of a corpus (Q, D) and (T, D)."""
        assert model.store is not None
        places = [distinct.index[corpus.first_rows], distinct.index[corpus.row_of + len(pairs)]]
        queries, targets = (
            model.store.embeddings([distinct.keys[place] for place in own.tolist()])
            for own in places
        )
        return queries, targets

    def _more_rules(self, corpus: Corpus, seconds: Sequence[tuple[Tensor, Tensor]]) -> list[Rule]:
        """Those that look at more than one model's scores."""
        config, rules = self.config, list[Rule]()
        if config.mining.near_duplicates is not None:
            pixels = config.inputs.max_image_pixels
            rules.append(NearDuplicates.of(corpus, config.mining.near_duplicates, pixels))
        for queries, targets in seconds:
            limits = config.second.max_score, config.second.margin
            rules.append(SecondModel(queries, targets, *limits))
        return rules

    def _rows(self, corpus: Corpus, pairs: Sequence[Pair], mined: Mined) -> Iterator[Pair]:
        """All rows with what was mined after what they had, as they are written."""
        for pair, numbers in zip(pairs, mined.negatives.tolist(), strict=True):
            mined_ones = (corpus.targets[n] for n in numbers if n >= 0)
            yield self._relative(pair, (*pair.negatives, *mined_ones))


def _digest_of(pairs: Sequence[Pair], distinct: DistinctItems) -> str:
    """Of a task's rows."""
    words = [[pair.row_id, [content(n).hex() for n in pair.negatives]] for pair in pairs]
    digest = hashlib.blake2b(json.dumps(words).encode(), digest_size=16)
    digest.update(b"".join(distinct.keys) + distinct.index.numpy().tobytes())
    answers = [pair.answer for pair in pairs]
    digest.update(json.dumps(answers).encode() if any(answers) else b"")
    return digest.hexdigest()
