"""Evaluates a model on MMEB-format tasks: hit@1 of every query among its own candidates.

    python -m eval.mmeb --config configs/eval/qwen2-vl-2b.yaml [key=value …]
    accelerate launch -m eval.mmeb --config …        (several processes share the encoding)

Writes one JSON file a task into output_dir. A task whose file was made with the same settings,
model and data is kept, so an interrupted evaluation goes on where it stopped. A task that fails is
reported and the others go on; the exit status is then 1.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from omegaconf import OmegaConf
from tqdm import tqdm

from eval.suites import Task, load_suite
from unime.checkpoint import write_json
from unime.config import EvalConfig, load_config
from unime.encoder import Encoder
from unime.facts import device_name, git_commit, installed_versions, write_facts
from unime.items import DataError
from unime.mmeb import load_eval_task
from unime.published import locate
from unime.retrieval import (
    DistinctItems,
    candidate_index,
    distinct_items,
    embedding_statistics,
    encode_distinct,
    hit_at_1,
    score_candidates,
    together,
)
from unime.runlog import run_program

PACKAGES = (
    "python",
    "torch",
    "transformers",
    "peft",
    "accelerate",
    "bitsandbytes",
    "datasets",
    "pillow",
)


def main(argv: list[str] | None = None) -> None:
    config = load_config(EvalConfig, argv)
    suite = load_suite(config.data.suite, config.data.tasks)
    accelerator = Accelerator(cpu=not torch.accelerator.is_available())
    evaluation = Evaluation(config, accelerator)
    failed: dict[str, str] = {}
    for name, task in suite.items():
        try:
            line = evaluation.run(name, task)
        except DataError as error:
            failed[name] = str(error)
            line = f"{name}: failed: {error}"
        if accelerator.is_main_process:
            tqdm.write(line)
    accelerator.wait_for_everyone()
    if failed and accelerator.is_main_process:
        reasons = "".join(f"\n  {name}: {reason}" for name, reason in failed.items())
        tqdm.write(f"{len(failed)} of {len(suite)} tasks failed:{reasons}")
    if failed:
        raise SystemExit(1)


class Evaluation:
    """One model on any number of tasks; the model is loaded when the first of them needs it."""

    def __init__(self, config: EvalConfig, accelerator: Accelerator):
        self.config = config
        self.accelerator = accelerator
        self.output_dir = Path(config.output_dir)
        self.settings: Any = OmegaConf.to_container(OmegaConf.structured(config), enum_to_str=True)
        self.facts: dict[str, Any] = {}
        self.checkpoint = locate(config.model)
        if accelerator.is_main_process:
            self.facts = _facts(accelerator)
            write_facts(self.output_dir, config, self.facts["commit"])
        self.fingerprint = self._from_main(self._settings_fingerprint)

    @cached_property
    def encoder(self) -> Encoder:
        config = self.config
        return Encoder.load(config.model, config.inputs, device=self.accelerator.device)

    def run(self, name: str, task: Task) -> str:
        """Evaluate one task, unless its result is there; returns a line about it.

        Raises:
            DataError: data that cannot be used, or a failure of the model, on any rank.
        """
        started = time.monotonic()
        data = self.config.data
        rows = together(
            self.accelerator,
            lambda: load_eval_task(
                data.root,
                name,
                data.split,
                data.revision,
                image_root=data.image_root,
                limit=data.limit,
            ),
        )
        sizes = [len(candidates) for candidates in rows.candidates]
        everything = rows.queries + [item for row in rows.candidates for item in row]
        distinct = distinct_items(self.accelerator, everything)
        data_fingerprint = _digest(distinct.keys, distinct.index, torch.tensor(sizes))
        path = self.output_dir / f"{name}.json"
        kept = self._from_main(lambda: self._kept(path, rows.num_rows, data_fingerprint))
        if kept is not None:
            return f"{_line(kept)} (kept)"
        result = {"num_rows": rows.num_rows} | self._evaluate(name, distinct, sizes)
        result["seconds"] = time.monotonic() - started
        result["items_per_second"] = len(distinct.items) / result["seconds"]
        described = {"task": name, "meta_task": task.meta_task, "distribution": task.distribution}
        result = described | result | self._provenance(data_fingerprint)
        if self.accelerator.is_main_process:
            write_json(path, result)
        return _line(result)

    def _evaluate(self, name: str, distinct: DistinctItems, sizes: list[int]) -> dict[str, Any]:
        encoded = encode_distinct(
            self.accelerator,
            self.encoder,
            distinct.items,
            self.config.batch_size,
            self.config.num_workers,
            description=name,
        )
        queries, candidates = distinct.index[: len(sizes)], distinct.index[len(sizes) :]
        lists = [row.tolist() for row in candidates.split(sizes)]
        vectors = encoded.embeddings
        scores = score_candidates(vectors[queries], vectors, candidate_index(lists))  # (Q, C)
        hits = hit_at_1(scores)
        return {
            "hit_at_1": hits.double().mean().item(),
            "num_queries": len(sizes),
            "num_candidates": sum(sizes) / len(sizes),
            "chance": _chance(lists),
            "num_items": len(distinct.items),
            "num_truncated": encoded.num_truncated,
            "hits": hits.int().tolist(),
            **embedding_statistics(vectors),
        }

    def _kept(self, path: Path, num_rows: int, data_fingerprint: str) -> dict[str, Any] | None:
        """The result that is there, if it was made with these settings, model and data."""
        if self.config.overwrite or not path.is_file():
            return None
        try:
            result = json.loads(path.read_text(encoding="utf-8"))
            same = (
                result["settings_fingerprint"] == self.fingerprint
                and result["data_fingerprint"] == data_fingerprint
                and result["num_rows"] == num_rows
            )
            return result if same else None
        except (OSError, ValueError, KeyError, TypeError):
            return None  # not a result: made anew

    def _settings_fingerprint(self) -> str:
        """Of everything that decides a result but the data: settings, and the content of model,
        adapter and processor."""
        settings = json.dumps([self.settings["model"], self.settings["inputs"]], sort_keys=True)
        digest = hashlib.blake2b(settings.encode(), digest_size=16)
        self.checkpoint.add_to(digest)
        return digest.hexdigest()

    def _provenance(self, data_fingerprint: str) -> dict[str, Any]:
        return {
            "model": self.config.model.name,
            "adapter": self.config.model.adapter,
            "resolved": self.checkpoint.describe(),  # where the two lead: an adapter to its base
            "inputs": asdict(self.encoder.processor.inputs),  # as they were, nulls filled in
            "settings_fingerprint": self.fingerprint,
            "data_fingerprint": data_fingerprint,
            "config": self.settings,
            **self.facts,
        }

    def _from_main(self, work: Callable[[], Any]) -> Any:
        """What `work` returns on the main process, on every rank."""
        box = [work() if self.accelerator.is_main_process else None]
        return broadcast_object_list(box)[0]


def _chance(lists: list[list[int]]) -> float:
    """Expected hit@1 of a random order of each query's distinct candidates: copies of one candidate
    score alike, so they count as one."""
    return sum(1 / len(set(row)) for row in lists) / len(lists)


def _line(result: dict[str, Any]) -> str:
    return (
        f"{result['task']}: hit@1 {result['hit_at_1']:.1%} of {result['num_queries']} queries "
        f"(chance {result['chance']:.1%}); {result['num_items']} items in {result['seconds']:.1f} s"
    )


def _facts(accelerator: Accelerator) -> dict[str, Any]:
    versions = installed_versions()
    return {
        "commit": git_commit(),
        "versions": {package: versions.get(package) for package in PACKAGES},
        "device": f"{accelerator.num_processes} x {device_name()}",
    }


def _digest(*tensors: torch.Tensor) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for tensor in tensors:
        digest.update(tensor.numpy().tobytes())
    return digest.hexdigest()


if __name__ == "__main__":
    run_program(main)
