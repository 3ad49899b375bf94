"""Clusters of rows that are hard for one another, for batches of stage 2 that teach (B3, arXiv
2505.11293).

    ./launch.sh prepare batches CONFIG [key=value …]
    accelerate launch -m data_prep.batches --config CONFIG   (several processes share the encoding)

The configured model, any that is evaluated, embeds all queries and targets of a training set,
each once. A row's neighbours are the rows whose targets rank p to p + m for its query, less those
that are right; clusters of K rows grow over them, a task's apart from another's. Stage 2 makes
batches of them: data.mixing=mined data.clusters=OUTPUT_DIR. A killed run goes on with the
embeddings that are there.
"""

from __future__ import annotations

from contextlib import closing
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from unime.config import BatchesConfig, ClusterConfig, load_config
from unime.data.datasets import PairDataset
from unime.data.sampling.clusters import FACTS, Clusters, units_of
from unime.data.sampling.growing import grow_clusters, kept_edges
from unime.data.survey import survey
from unime.data.train_subset import load_train_subset
from unime.mining.corpus import Corpus
from unime.mining.places import made_with, refuse_other, tasks_of
from unime.mining.search import ExactSearch
from unime.retrieval.encoding import distinct_items
from unime.retrieval.stored import StoredModel
from unime.runtime.distributed import on_main, patient_accelerator, together
from unime.runtime.files import writing
from unime.runtime.folder_lock import lock_folder, unlock_folder
from unime.runtime.program import run_program
from unime.runtime.progress import progress_bar

PATIENCE = timedelta(hours=12)  # while the main process searches and clusters
SAMPLE = 4096  # rows whose similarities are averaged


def main(argv: list[str] | None = None) -> None:
    config = load_config(BatchesConfig, argv)
    accelerator = patient_accelerator(PATIENCE)
    folder = Path(config.output_dir)
    on_main(accelerator, lambda: lock_folder("output_dir", folder))
    with closing(StoredModel(config, accelerator)) as model:
        model.open()
        made = made_with(config, [model])
        on_main(accelerator, lambda: _refuse_others(folder, made))
        tasks = config.data.tasks or on_main(accelerator, lambda: tasks_of(config))
        sizes: dict[str, int] = {}
        on_main(accelerator, lambda: (folder / FACTS).unlink(missing_ok=True))
        for task in tasks:
            sizes[task], line = _of_task(config, model, task)
            if accelerator.is_main_process:
                tqdm.write(line)
        clusters = Clusters(folder, config.clusters.size, made, sizes)
        with writing("output_dir", folder):
            on_main(accelerator, clusters.write)
    on_main(accelerator, lambda: unlock_folder(folder))


def _refuse_others(folder: Path, made: dict[str, Any]) -> None:
    """Refuse a folder that holds other clusters.

    Raises:
        ConfigError: those there are of other data or settings, or of another model.
    """
    if (folder / FACTS).is_file():
        refuse_other(folder, Clusters.open(folder).made, made)


def _of_task(config: BatchesConfig, model: StoredModel, task: str) -> tuple[int, str]:
    """Embed and cluster a task's rows; returns how many these are, and a line about them.

    Raises:
        DataError: data that cannot be used, or an item that the model cannot embed.
    """
    accelerator = model.accelerator
    subset = together(accelerator, lambda: load_train_subset(config.data.pairs([task]), task))
    pairs = list(subset)
    items = [*(pair.query for pair in pairs), *(pair.target for pair in pairs)]
    distinct = distinct_items(accelerator, items)
    model.complete(distinct, task)

    def cluster() -> str:
        assert model.store is not None
        vectors = model.store.embeddings(distinct.keys).to(accelerator.device)
        queries, targets = vectors[distinct.index.to(vectors.device)].split(len(pairs))
        corpus = Corpus.of(pairs, shared_targets=False)
        found = neighbours(corpus, queries, targets, config.clusters, config.seed)
        keys = survey(PairDataset([subset], [1.0]), {task: len(pairs)}, 1).answers
        assert keys is not None
        with progress_bar(total=len(pairs), desc=f"clusters of {task}", unit="row") as bar:
            labels = grow_clusters(found, config.clusters.size, keys, bar.update)
        folder = Path(config.output_dir)
        with writing("output_dir", folder):
            clusters = Clusters(folder, config.clusters.size)
            clusters.write_task(task, keys, labels)
        return f"{task}: {_in_words(found, labels, queries, targets, config.clusters.size)}"

    return len(pairs), on_main(accelerator, cluster)


def neighbours(
    corpus: Corpus, queries: Tensor, targets: Tensor, config: ClusterConfig, seed: int
) -> np.ndarray:
    """For each row the rows (n, m) whose targets rank ``skip`` to ``skip + neighbours`` for its
    query among those that are not right for it, -1 where there are fewer. Of several rows with one
    target any may stand for it.

    Args:
        queries, targets: of each row (n, D).
    """
    random = np.random.default_rng([seed, 0])
    rows_by_target = corpus.target_of.argsort(stable=True).numpy()
    counts = corpus.target_of.bincount(minlength=len(corpus.targets)).numpy()
    starts = counts.cumsum() - counts
    excluded = torch.cat(list(corpus.excluded.values()))
    wanted = config.skip + config.neighbours
    search = ExactSearch(
        targets[corpus.row_of.to(targets.device)], wanted + corpus.most_excluded, config.memory
    )
    found = []
    for first in range(0, len(queries), search.rows):
        places, _ = search(queries[first : first + search.rows])
        asked = corpus.query_of[first : first + len(places), None]  # (q, 1)
        is_wrong = (places >= 0) & ~torch.isin(asked * len(corpus.targets) + places, excluded)
        rank = is_wrong.cumsum(dim=1) - 1
        kept = is_wrong & (rank >= config.skip) & (rank < wanted)
        block = np.full((len(places), config.neighbours), -1)
        rows, columns = kept.nonzero(as_tuple=True)
        chosen = places[rows, columns].numpy()
        any_row = starts[chosen] + (random.random(len(chosen)) * counts[chosen]).astype(np.int64)
        block[rows, rank[rows, columns] - config.skip] = rows_by_target[any_row]
        found.append(block)
    return np.concatenate(found)


def _in_words(
    found: np.ndarray, labels: np.ndarray, queries: Tensor, targets: Tensor, size: int
) -> str:
    """What the clusters are worth: how similar a query is to the others' targets, in clusters and
    by chance."""
    random = np.random.default_rng(0)
    means = []
    at_random = units_of(random.permutation(labels), size)
    for units in (units_of(labels, size), at_random):
        chosen = torch.from_numpy(units[: max(1, SAMPLE // size)])
        scores = queries[chosen] @ targets[chosen].transpose(1, 2)  # (u, K, K)
        others = ~torch.eye(chosen.shape[1], dtype=torch.bool, device=scores.device)
        means.append(scores[:, others].mean().item())
    alone = int((found < 0).all(axis=1).sum())
    few = f"; {alone:,} rows have no neighbour" if alone else ""
    return (
        f"{len(labels):,} rows in {labels.max() + 1:,} clusters of {size}; similarity to another's"
        f" target {means[0]:.3f} in them, {means[1]:.3f} by chance;"
        f" {kept_edges(found, labels):.0%} of their pairs are neighbours{few}"
    )


if __name__ == "__main__":
    run_program(main)
