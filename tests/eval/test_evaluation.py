"""eval.evaluate from end to end: a real (tiny) 4-bit model, real pictures, one process and two.

./launch.sh test tests/eval/test_evaluation.py
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from eval import evaluate as program
from eval import evaluation
from eval.miniatures.mmeb import write_eval_suite, write_picture, write_rows
from eval.result_files import _plain
from eval.tasks.base import EvalTask
from eval.tasks.mmeb_v1 import MmebRows
from eval.tasks.sources import EvalSource
from tests.support.ranks import Ranks
from unime.config import EvalData, InputConfig, LoraSettings, ModelConfig, Precision
from unime.errors import ConfigError, DataError
from unime.inputs.items import Item
from unime.models.encoder import Encoder
from unime.retrieval import fingerprint as provenance
from unime.retrieval.unime_embedder import UnimeEmbedder

TASKS = ("Words_t2i", "Words_i2t", "Names")


@pytest.fixture
def folder(tmp_path: Path, tiny_model: Callable[..., Path]) -> Path:
    """Data, suite and configuration of an evaluation."""
    write_eval_suite(tmp_path / "data", tmp_path / "suite.yaml")
    (tmp_path / "eval.yaml").write_text(
        f"output_dir: {tmp_path}/out\n"
        f"model: {{name: {tiny_model('qwen2_vl')}, quantization: nf4, precision: float32}}\n"
        f"data: {{root: {tmp_path}/data, suite: {tmp_path}/suite.yaml}}\n"
        "batch_size: 3\n"
    )
    return tmp_path


def evaluate(folder: Path, *words: str) -> None:
    program.main(["--config", str(folder / "eval.yaml"), *words])


def results(folder: Path) -> dict[str, dict[str, Any]]:
    return {path.stem: json.loads(path.read_text()) for path in folder.glob("*.json")}


def expected_hits(folder: Path, task: str) -> list[int]:
    """Every item of every row encoded alone, compared one query at a time."""
    name = json.loads((folder / f"out/{task}.json").read_text())["model"]
    encoder = Encoder.load(ModelConfig(name=name, precision=Precision.float32), InputConfig())

    def embed(item: Item) -> torch.Tensor:
        with torch.no_grad():
            return encoder.eval()(encoder.processor.collate([encoder.processor(item)]))[0]

    rows = MmebRows().read(task, EvalSource(EvalData(root=str(folder / "data"))))
    hits = []
    for query, candidates in zip(rows.queries, rows.candidates or [], strict=True):
        scores = torch.stack([embed(query) @ embed(rows.targets[place]) for place in candidates])
        hits.append(float(scores.argmax() == 0))
    return hits


def test_one_result_a_task_and_a_report(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    evaluate(folder)
    printed = capsys.readouterr().out
    found = results(folder / "out")
    assert sorted(found) == sorted(TASKS)
    facts = {path.name for path in (folder / "out").iterdir() if path.suffix != ".json"}
    assert facts == {"config.yaml", "commit.txt", "versions.txt", "embeddings", "image"}
    for task, result in found.items():
        assert f"{task}: hit@1 {result['score']:.1%} of 5 queries" in printed
        assert result["values"] == expected_hits(folder, task)
        assert result["num_rows"] == result["num_queries"] == 5
        assert result["score"] == pytest.approx(sum(result["values"]) / 5)
        assert result["task"] == task
        assert -1 <= result["mean_similarity"] <= 1
        assert 1 <= result["effective_rank"] <= result["num_items"]
        assert result["tied_queries"] == 0 and result["ci95"][0] <= result["score"]
        assert result["items_per_second"] > 0
        assert (result["inputs"]["prompt"], result["adapter"]) == ("unime", None)
        assert result["config"]["model"]["quantization"] == "nf4"
        assert torch.__version__.startswith(result["versions"]["torch"])
        assert result["device"].startswith("1 x ")
        assert result["commit"]
    assert (found["Names"]["meta_task"], found["Names"]["distribution"]) == ("vqa", "ind")
    assert found["Words_t2i"]["chance"] == pytest.approx(1 / 5)
    assert found["Words_i2t"]["chance"] == pytest.approx(
        (1 / 2 + 1 / 3 + 1 / 4 + 1 / 2 + 1 / 3) / 5
    )
    assert found["Words_i2t"]["num_candidates"] == pytest.approx(14 / 5)
    # Two of the five rows hold the right answer twice: two distinct candidates, not three.
    assert found["Names"]["chance"] == pytest.approx((2 / 2 + 3 / 3) / 5)
    assert found["Words_t2i"]["num_items"] == 10


def evaluate_on_two_ranks(words: str) -> None:
    with pytest.raises(SystemExit):
        program.main(["--config", f"{words}/eval.yaml", f"output_dir={words}/two"])


def test_two_ranks_equal_one_and_a_broken_task_stops_no_other(
    two_ranks: Ranks, folder: Path
) -> None:
    evaluate(folder)
    one = results(folder / "out")
    broken = "Broken: {meta_task: vqa, distribution: ood}\n"
    (folder / "suite.yaml").write_text(broken + (folder / "suite.yaml").read_text())
    copy_task(folder, "Words_i2t", "Broken", "eval_pictures", "broken")
    (folder / "data/eval_images/broken/3.png").write_bytes(b"no picture")
    said = two_ranks.run(evaluate_on_two_ranks, str(folder))
    assert "1 of 4 tasks failed:\n  Broken: " in said
    assert "broken/3.png: not a readable image" in said
    two = results(folder / "two")
    assert sorted(two) == sorted(TASKS)
    for task, result in two.items():
        assert result["device"].startswith("2 x ")
        same = ("values", "chance", "num_items", "settings_fingerprint", "data_fingerprint")
        assert {key: result[key] for key in same} == {key: one[task][key] for key in same}
        for key in ("mean_similarity", "effective_rank"):
            assert result[key] == pytest.approx(one[task][key], rel=1e-6)


def copy_task(folder: Path, task: str, name: str, old: str, new: str) -> None:
    """The same task with its own copy of the pictures."""
    rows = pq.read_table(folder / f"data/{task}/test-00000-of-00001.parquet").to_pylist()
    for number, row in enumerate(rows):
        row["qry_img_path"] = row["qry_img_path"].replace(old, new)
        write_picture(folder / "data/eval_images" / row["qry_img_path"], number)
    write_rows(folder / "data", name, "test", rows)


def test_results_are_kept_while_they_hold(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def made(*words: str) -> list[str]:
        """The tasks that are computed now."""
        capsys.readouterr()
        evaluate(folder, *words)
        lines = [line for line in capsys.readouterr().out.splitlines() if ": hit@1" in line]
        return [line.split(":")[0] for line in lines if not line.endswith("(kept)")]

    assert made("data.tasks=[Names, Words_i2t]") == ["Words_i2t", "Names"]
    assert made() == ["Words_t2i"]
    with monkeypatch.context() as patch:
        patch.setattr(Encoder, "load", lambda *a, **k: pytest.fail("the model is loaded"))
        assert made("batch_size=1") == []
    write_picture(folder / "data/eval_images/eval_pictures/2.png", seed=99)
    assert made() == list(TASKS), "another picture under the same name"
    assert made("inputs.max_text_tokens=400") == list(TASKS)
    assert made("inputs.max_text_tokens=400", "data.tasks=[Names]", "data.limit=3") == ["Names"]
    limited = results(folder / "out")["Names"]
    assert (limited["num_queries"], limited["num_rows"], len(limited["values"])) == (3, 5, 3)
    assert made("inputs.max_text_tokens=400", "overwrite=true", "data.tasks=[Names]") == ["Names"]
    (folder / "out/Names.json").write_text("{")
    assert made("inputs.max_text_tokens=400") == ["Names"]


def test_another_adapter_in_the_same_folder_is_another_model(folder: Path) -> None:
    config = ModelConfig(
        name=json.loads((make_once(folder) / "Names.json").read_text())["model"],
        precision=Precision.float32,
    )
    encoder = Encoder.load(config, InputConfig(), lora=LoraSettings(rank=4))
    fingerprints, similarities = [], []
    for _ in range(2):
        encoder.save_adapters(folder / "adapter")
        evaluate(folder, f"model.adapter={folder}/adapter", "data.tasks=[Names]")
        result = results(folder / "out")["Names"]
        fingerprints.append(result["settings_fingerprint"])
        similarities.append(result["mean_similarity"])
        with torch.no_grad():
            for _, parameter in encoder.trainable_named_parameters():
                parameter.add_(0.1)
    assert fingerprints[0] != fingerprints[1]
    assert similarities[0] != similarities[1]


def make_once(folder: Path) -> Path:
    evaluate(folder, "data.tasks=[Names]", "data.limit=2")
    return folder / "out"


BAD_RUNS = [
    (["data.root=ROOT/lost"], "Names: data.root: no folder 'ROOT/lost'"),
    (["data.suite=ROOT/other.yaml"], "data/Names: no split 'train'; it has test"),
    (["inputs.max_image_pixels=100"], "more than inputs.max_image_pixels=100"),
]


@pytest.mark.parametrize(("words", "message"), BAD_RUNS)
def test_failures_are_named(
    folder: Path, words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    other = "Names: {meta_task: vqa, split: train}\n"
    (folder / "other.yaml").write_text(other)
    with pytest.raises(SystemExit) as stop:
        evaluate(
            folder, "data.tasks=[Names]", *(word.replace("ROOT", str(folder)) for word in words)
        )
    assert stop.value.code == 1
    printed = capsys.readouterr().out
    assert "1 of 1 tasks failed:\n  Names: " in printed
    assert message.replace("ROOT", str(folder)) in printed


def test_other_code_or_packages_make_results_anew(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    evaluate(folder, "data.tasks=[Names]")
    stores = [set((folder / "out/embeddings").iterdir())]
    for name, value in (
        ("code_digest", "other code"),
        ("package_versions", {"transformers": "0.0.1"}),
    ):
        monkeypatch.setattr(provenance, name, lambda value=value: value)
        evaluate(folder, "data.tasks=[Names]")
        assert "(kept)" not in capsys.readouterr().out
        evaluate(folder, "data.tasks=[Names]")
        assert "(kept)" in capsys.readouterr().out
        stores.append(set((folder / "out/embeddings").iterdir()))
    assert [len(found) for found in stores] == [1, 2, 3], "nor are the vectors taken for those"


def test_other_code_of_the_evaluation_scores_anew(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the vectors that are there: no model is loaded."""
    evaluate(folder, "data.tasks=[Names]")
    monkeypatch.setattr(evaluation, "code_digest", lambda *folders: f"other code of {folders}")
    monkeypatch.setattr(Encoder, "load", lambda *a, **k: pytest.fail("the model is loaded"))
    evaluate(folder, "data.tasks=[Names]")
    assert "(kept)" not in capsys.readouterr().out
    assert results(folder / "out")["Names"]["num_encoded"] == 0
    evaluate(folder, "data.tasks=[Names]")
    assert "(kept)" in capsys.readouterr().out


@pytest.mark.parametrize("blind_to", ["pictures", "everything"])
def test_what_a_model_cannot_tell_apart_is_at_chance(
    blind_to: str,
    folder: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """MMEB lists the right candidate first: a model that gives all pictures one vector would find
    every one of them. Log, result and predictions say what it is."""
    sees = UnimeEmbedder.embed

    def embed(self: UnimeEmbedder, inputs: Any) -> torch.Tensor:
        rows = sees(self, inputs)
        for places, part in inputs:
            if blind_to == "everything" or "pixel_values" in part:
                rows[places] = self.dimension**-0.5
        return rows

    monkeypatch.setattr(UnimeEmbedder, "embed", embed)
    evaluate(folder)
    printed = capsys.readouterr().out
    found = results(folder / "out")
    of_pictures = found["Words_t2i"]
    assert of_pictures["score"] == pytest.approx(of_pictures["chance"]) == 0.2
    assert of_pictures["metrics"]["mrr@10"] < 1
    assert (of_pictures["tied_queries"], of_pictures["num_queries"]) == (5, 5)
    assert of_pictures["values"] == pytest.approx([0.2] * 5)
    assert of_pictures["ci95"] == pytest.approx([0.2, 0.2])
    lines = (folder / "out/image/Words_t2i_pred.jsonl").read_text().splitlines()
    assert [json.loads(line)["tied"] for line in lines] == [5] * 5
    warning = "\n  warning: "
    assert f"{warning}not above chance: Words_t2i 20.0% (chance 20.0%)" in printed
    assert f"{warning}tied scores: Words_t2i 5 of 5 queries" in printed
    assert ("collapsed: 10 different items" in printed) == (blind_to == "everything")
    if blind_to == "everything":
        assert all(own["score"] == pytest.approx(own["chance"]) for own in found.values())
        assert "\nwarning: not above chance on 3 of 3 tasks: " in printed


def test_results_inside_of_the_model_are_refused(folder: Path) -> None:
    """They would change its fingerprint each time, and nothing would ever be kept."""
    model = json.loads((make_once(folder) / "Names.json").read_text())["model"]
    for key in ("output_dir", "store"):
        with pytest.raises(
            ConfigError, match=f"{key}: got .* expected a folder that is not inside"
        ):
            evaluate(folder, f"{key}={model}/results")


def test_of_each_video_as_many_frames_are_named_as_matter(tmp_path: Path) -> None:
    frames = tuple(f"/frames/{number}.png" for number in range(64))
    item = Item("what", video=frames, spacing=(" ", ""))
    assert _plain(item) == {
        "text": "what",
        "video": [frames[place] for place in (0, 9, 18, 27, 36, 45, 54, 63)],
        "num_saved_frames": 64,
    }


@pytest.mark.parametrize(
    ("candidates", "relevance", "message"),
    [
        ([[0, 0, 1]], [{0: 1.0}], "query 0: a candidate comes twice or is no target"),
        ([[0, 2]], [{0: 1.0}], "query 0: a candidate comes twice or is no target"),
        ([[0]], [{1: 1.0}], "query 0: its right targets are {1: 1.0}"),
        (None, [{2: 1.0}], "query 0: its right targets are {2: 1.0}"),
        (None, [{}], "query 0: its right targets are {}"),
        ([[]], [{}], "query 0: its right targets are {}"),
        (None, [{0: 0.0}], "query 0: its right targets are {0: 0.0}"),
    ],
)
def test_tasks_that_make_no_sense(candidates: Any, relevance: Any, message: str) -> None:
    with pytest.raises(DataError, match=f"task T, {re.escape(message)}"):
        EvalTask("T", 1, [Item("q")], [Item("a"), Item("b")], ["a", "b"], relevance, candidates)


def test_a_task_that_fails_leaves_no_result(folder: Path) -> None:
    """Else a report would average what an earlier evaluation found on other data."""
    evaluate(folder)
    for path in (folder / "data/eval_images").rglob("*.png"):
        path.write_bytes(b"no picture")
    with pytest.raises(SystemExit):
        evaluate(folder)
    assert not results(folder / "out") and not list((folder / "out/image").iterdir())


def test_a_model_that_cannot_be_loaded_ends_it(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No task can go on without it, and on several ranks none may go on alone."""

    def fail(*_: Any) -> None:
        raise DataError("damaged")

    monkeypatch.setattr(evaluation, "load_embedder", fail)
    with pytest.raises(ConfigError, match="model.name: .* cannot be loaded: damaged"):
        evaluate(folder)


def test_an_item_that_cannot_be_prepared_is_named_by_its_row(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pictures = sorted((folder / "data/eval_images").rglob("*.png"))
    Image.new("RGB", (1200, 5)).save(pictures[1])
    with pytest.raises(SystemExit):
        evaluate(folder, "num_workers=1")
    told = capsys.readouterr()
    named = rf"{re.escape(str(pictures[1]))}: the processor refuses it: absolute aspect ratio"
    assert re.search(rf"Words_i2t: (failed: )?query 1: {named}", told.out + told.err)
    assert re.search(rf"Words_t2i: (failed: )?target \d+ \('.*'\): {named}", told.out + told.err)
