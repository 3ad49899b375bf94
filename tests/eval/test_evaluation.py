"""eval.evaluate from end to end: a real (tiny) 4-bit model, real pictures, one process and two.

./launch.sh test tests/eval/test_evaluation.py
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from eval import evaluate as program
from eval import evaluation
from eval.miniatures.captions import sugarcrepe_rows, write_sugarcrepe
from eval.miniatures.mmeb import write_eval_suite, write_picture, write_rows
from eval.result_files import _plain
from eval.tasks.base import EvalTask
from eval.tasks.mmeb_v1 import read_mmeb
from tests.support.ranks import Ranks
from unime.config import LoraSettings
from unime.data.mmeb_rows import EVAL_COLUMNS
from unime.data.stores.files import RECORD
from unime.errors import ConfigError, DataError
from unime.inputs.items import Item
from unime.models.encoder import Encoder
from unime.retrieval import fingerprint as provenance
from unime.retrieval import stored
from unime.retrieval.unime_embedder import UnimeEmbedder

TASKS = ("Words_t2i", "Words_i2t", "Names")


def write_config(folder: Path, model: Path, quantization: str, precision: str = "float32") -> None:
    (folder / "eval.yaml").write_text(
        f"output_dir: {folder}/out\n"
        f"model: {{name: {model}, quantization: {quantization}, precision: {precision}}}\n"
        f"data: {{root: {folder}/data, suite: {folder}/suite.yaml, cache: {folder}/cache}}\n"
        "batch_size: 3\n"
    )


@pytest.fixture
def folder(tmp_path: Path, tiny_model: Callable[..., Path]) -> Path:
    """Data, suite and configuration of an evaluation."""
    write_eval_suite(tmp_path / "data", tmp_path / "suite.yaml")
    write_config(tmp_path, tiny_model("qwen2_vl"), "nf4")
    return tmp_path


def evaluate(folder: Path, *words: str) -> None:
    program.main(["--config", str(folder / "eval.yaml"), *words])


def results(folder: Path) -> dict[str, dict[str, Any]]:
    return {path.stem: json.loads(path.read_text()) for path in folder.glob("*.json")}


def predictions(folder: Path, task: str) -> list[dict[str, Any]]:
    lines = (folder / f"{task}_pred.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


@pytest.fixture
def made(folder: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., list[str]]:
    """Evaluates; returns the tasks that are computed now."""

    def made(*words: str) -> list[str]:
        capsys.readouterr()
        evaluate(folder, *words)
        lines = [line for line in capsys.readouterr().out.splitlines() if ": hit@1" in line]
        return [line.split(":")[0] for line in lines if not line.endswith("(kept)")]

    return made


def expected_hits(folder: Path, task: str, encoder: Encoder) -> list[int]:
    """Every item of every row encoded alone, compared one query at a time."""

    def embed(item: Item) -> torch.Tensor:
        with torch.no_grad():
            return encoder.eval()(encoder.processor.collate([encoder.processor(item)]))[0]

    rows = read_mmeb(str(folder / "data"), task)
    hits = []
    for query, candidates in zip(rows.queries, rows.candidate_items(), strict=True):
        scores = torch.stack([embed(query) @ embed(candidate) for candidate in candidates])
        hits.append(float(scores.argmax() == 0))
    return hits


def test_one_result_a_task_and_a_report(
    folder: Path, capsys: pytest.CaptureFixture[str], load_tiny: Callable[..., Encoder]
) -> None:
    encoder = load_tiny("qwen2_vl", quantization="nf4")
    evaluate(folder)
    printed = capsys.readouterr().out
    found = results(folder / "out")
    assert sorted(found) == sorted(TASKS)
    facts = {path.name for path in (folder / "out").iterdir() if path.suffix != ".json"}
    assert facts == {".lock", "config.yaml", "commit.txt", "versions.txt", "embeddings", "image"}
    for task, result in found.items():
        assert f"{task}: hit@1 {result['score']:.1%} of 5 queries" in printed
        assert result["values"] == expected_hits(folder, task, encoder)
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
    chances = (1 / 2, 1 / 3, 1 / 4, 1 / 2, 1 / 3)
    assert found["Words_i2t"]["chance"] == pytest.approx(sum(chances) / 5)
    assert found["Words_i2t"]["num_candidates"] == pytest.approx(14 / 5)
    # Two of the five rows hold the right answer twice: two distinct candidates, not three.
    assert found["Names"]["chance"] == pytest.approx((2 / 2 + 3 / 3) / 5)
    assert found["Words_t2i"]["num_items"] == 10


def evaluate_on_two_ranks(folder: str, status: str) -> None:
    with pytest.raises(SystemExit) if int(status) else nullcontext():
        evaluate(Path(folder), f"output_dir={folder}/two")


def test_two_ranks_equal_one_and_a_broken_task_stops_no_other(
    two_ranks: Ranks, folder: Path
) -> None:
    evaluate(folder)
    one = results(folder / "out")
    broken = "Broken: {meta_task: vqa, distribution: ood}\n"
    (folder / "suite.yaml").write_text(broken + (folder / "suite.yaml").read_text())
    rows = pq.read_table(folder / "data/Words_i2t/test-00000-of-00001.parquet").to_pylist()
    rows[3]["qry_img_path"] = "broken.png"
    write_rows(folder / "data", "Broken", "test", rows)
    (folder / "data/eval_images/broken.png").write_bytes(b"no picture")
    said = two_ranks.run(evaluate_on_two_ranks, str(folder), "1")
    assert "1 of 4 tasks failed:\n  Broken: " in said
    assert "broken.png: not a readable image" in said
    two = results(folder / "two")
    assert sorted(two) == sorted(TASKS)
    for task, result in two.items():
        assert result["device"].startswith("2 x ")
        same = ("values", "chance", "num_items", "settings_fingerprint", "data_fingerprint")
        assert {key: result[key] for key in same} == {key: one[task][key] for key in same}
        for key in ("mean_similarity", "effective_rank"):
            assert result[key] == pytest.approx(one[task][key], rel=1e-6)


def test_results_are_kept_while_they_hold(
    folder: Path, made: Callable[..., list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
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


def test_another_adapter_in_the_same_folder_is_another_model(
    folder: Path, load_tiny: Callable[..., Encoder]
) -> None:
    encoder = load_tiny("qwen2_vl", quantization="nf4", lora=LoraSettings(rank=4))
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


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("data.root=ROOT/lost", "Names: data.root: no folder 'ROOT/lost'"),
        ("data.suite=ROOT/other.yaml", "data/Names: no split 'train'; it has test"),
        ("inputs.max_image_pixels=100", "more than inputs.max_image_pixels=100"),
    ],
)
def test_failures_are_named(
    folder: Path, word: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "other.yaml").write_text("Names: {meta_task: vqa, split: train}\n")
    with pytest.raises(SystemExit) as stop:
        evaluate(folder, "data.tasks=[Names]", word.replace("ROOT", str(folder)))
    assert stop.value.code == 1
    printed = capsys.readouterr().out
    assert "1 of 1 tasks failed:\n  Names: " in printed
    assert message.replace("ROOT", str(folder)) in printed


def test_other_code_or_packages_make_results_anew(
    folder: Path, made: Callable[..., list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Other code of the evaluation from the vectors that are there: no model is loaded."""
    stores = []
    changes: list[dict[str, Any]] = [
        {}, {"code_digest": "other code"}, {"package_versions": {"transformers": "0.0.1"}},
    ]  # fmt: skip
    for change in changes:
        for name, value in change.items():
            monkeypatch.setattr(provenance, name, lambda value=value: value)
        assert [made("data.tasks=[Names]"), made("data.tasks=[Names]")] == [["Names"], []]
        stores.append(set((folder / "out/embeddings").iterdir()))
    assert [len(found) for found in stores] == [1, 2, 3], "nor are the vectors taken for those"
    monkeypatch.setattr(evaluation, "code_digest", lambda *folders: f"other code of {folders}")
    monkeypatch.setattr(Encoder, "load", lambda *a, **k: pytest.fail("the model is loaded"))
    assert [made("data.tasks=[Names]"), made("data.tasks=[Names]")] == [["Names"], []]
    assert results(folder / "out")["Names"]["num_encoded"] == 0


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
        for places, part in inputs[0]:
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
    tied = [line["tied"] for line in predictions(folder / "out/image", "Words_t2i")]
    assert tied == [5] * 5
    warning = "\n  warning: "
    assert f"{warning}not above chance: Words_t2i 20.0% (chance 20.0%)" in printed
    assert f"{warning}tied scores: Words_t2i 5 of 5 queries" in printed
    assert ("collapsed: 10 different items" in printed) == (blind_to == "everything")
    if blind_to == "everything":
        assert all(own["score"] == pytest.approx(own["chance"]) for own in found.values())
        assert "\nwarning: not above chance on 3 of 3 tasks: " in printed


@pytest.mark.parametrize("key", ["output_dir", "store"])
def test_results_inside_of_the_model_are_refused(
    key: str, folder: Path, tiny_model: Callable[..., Path]
) -> None:
    """They would change its fingerprint each time, and nothing would ever be kept."""
    with pytest.raises(ConfigError, match=f"{key}: got .* expected a folder that is not inside"):
        evaluate(folder, f"{key}={tiny_model('qwen2_vl')}/results")


def test_of_each_video_as_many_frames_are_named_as_matter() -> None:
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
        targets = [Item("a"), Item("b")]
        EvalTask("T", 1, [Item("q")], targets, ["a", "b"], relevance, candidates).checked()


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

    monkeypatch.setattr(stored, "load_embedder", fail)
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
    named = rf"{re.escape(str(pictures[1]))}: .*one side more than 200 times the other"
    assert re.search(rf"Words_i2t: (failed: )?query 1: {named}", told.out + told.err)
    assert re.search(rf"Words_t2i: (failed: )?target \d+ \('.*'\): {named}", told.out + told.err)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_what_is_query_and_target_is_encoded_once(
    precision: str, tmp_path: Path, tiny_model: Callable[..., Path]
) -> None:
    """With one embedding for both, its own score is 1: no other batch, path or precision (as under
    VLM2Vec's autocast, which is around queries only)."""
    for number in range(2):
        write_picture(tmp_path / f"data/eval_images/{number}.png", number)
    ask = "<|image_1|>\nRepresent the given image.\n"
    rows = [
        ("a red bird", "", ["a red bird", "a car, and much more beside it"], ["", ""]),
        (ask, "0.png", [ask, ask], ["0.png", "1.png"]),
    ]
    named = [dict(zip(EVAL_COLUMNS, row, strict=True)) for row in rows]
    write_rows(tmp_path / "data", "Same", "test", named)
    (tmp_path / "suite.yaml").write_text("Same: {meta_task: retrieval}\n")
    write_config(tmp_path, tiny_model("qwen2_vl"), "none", precision)
    evaluate(tmp_path)
    result = results(tmp_path / "out")["Same"]
    assert (result["num_items"], result["num_encoded"], result["score"]) == (4, 4, 1.0)
    sample = load_file(tmp_path / "out/image/Same_sample.safetensors")
    assert torch.equal(sample["queries"], sample["targets"])
    found = [line["gold_score"] for line in predictions(tmp_path / "out/image", "Same")]
    assert found == pytest.approx([1, 1], abs=1e-5)
    (records,) = (tmp_path / "out/embeddings").rglob("records")
    assert records.stat().st_size == 4 * RECORD.itemsize


@pytest.mark.evaluation
def test_two_ranks_count_each_pair_once(
    two_ranks: Ranks, tmp_path: Path, tiny_model: Callable[..., Path]
) -> None:
    """UniME's published code counts what its ranks are padded with: up to 1.2 points too much."""
    pairs = 7  # an odd number: one rank has one less
    write_sugarcrepe(tmp_path / "data", "swap_obj", sugarcrepe_rows(tmp_path / "data", pairs))
    suite = "Swap: {meta_task: swap, modality: pairs, format: sugarcrepe, file: data/swap_obj.json}"
    (tmp_path / "suite.yaml").write_text(suite)
    write_config(tmp_path, tiny_model("qwen2_vl"), "none")
    evaluate(tmp_path)
    two_ranks.run(evaluate_on_two_ranks, str(tmp_path), "0")
    one, two = (results(tmp_path / name)["Swap"] for name in ("out", "two"))
    assert two["device"].startswith("2 x ")
    for found, name in ((one, "out"), (two, "two")):
        assert len(found["values"]) == found["num_queries"] == found["num_rows"] == pairs
        assert found["num_items"] == found["num_encoded"] == 3 * pairs
        assert found["score"] == pytest.approx(sum(found["values"]) / pairs)
        labels = [line["label"] for line in predictions(tmp_path / name / "pairs", "Swap")]
        assert labels == [[f"{n}.caption"] for n in range(pairs)]
    assert two["values"] == one["values"]
