"""The demo's driver, its checks and its picture: pytest tests/stages/test_demo.py

The whole demo runs here on a tiny random model and a handful of rows, in one process.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from data_prep import teacher_embeddings
from data_prep.demo import data as demo_data
from data_prep.demo.emoji import load_concepts
from data_prep.demo.tasks import caption_of
from eval import evaluate
from eval.demo import checks as demo_checks
from eval.demo import filter as demo_filter
from eval.demo import seeds as demo_seeds
from eval.demo.contact_sheet import GAP, HEADING, MARGIN, RIGHT, TILE, WRONG, Answer, draw_sheet
from eval.report.__main__ import main as report_main
from stages import demo, stage1_distill, stage2_instruct
from stages.demo import MODELS, DemoConfig, run_steps, steps
from tests.support.paths import ROOT
from unime.config import (
    EvalConfig,
    ReportConfig,
    Stage1Config,
    Stage2Config,
    TeacherConfig,
    build_config,
)
from unime.errors import ConfigError, DataError

PROGRAMS: dict[str, tuple[type, Callable[[list[str]], None]]] = {
    "prepare demo": (demo_data.DemoDataConfig, demo_data.main),
    "prepare teacher": (TeacherConfig, teacher_embeddings.main),
    "stage1": (Stage1Config, stage1_distill.main),
    "stage2": (Stage2Config, stage2_instruct.main),
    "eval": (EvalConfig, evaluate.main),
    "report": (ReportConfig, report_main),
}
ORDER = ["data", "teacher", "eval_base"]
ORDER += [f"{what}{name}" for name in MODELS[1:] for what in ("", "eval_")]
ORDER += ["report", "checks"]


def shipped(**settings: Any) -> DemoConfig:
    config = build_config(DemoConfig, ROOT / "configs/demo/demo.yaml")
    for name, value in {"output_dir": "runs/demo", **settings}.items():
        setattr(config, name, value)
    return config


def parsed(command: list[str]) -> tuple[str, Path, list[str]]:
    """What launch.sh is asked for: program, configuration, key=value words."""
    assert command[0] == "./launch.sh"
    words = command[1:]
    program = " ".join(words[: 2 if words[0] == "prepare" else 1])
    config, *settings = words[len(program.split()) :]
    return program, Path(config), settings


# The commands --------------------------------------------------------------------------------


def test_every_command_is_one_that_a_user_could_type(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    todo = steps(shipped(seed=3))
    assert list(todo) == ORDER
    assert todo.pop("checks")[1:3] == ["-m", "eval.demo.checks"]
    configs = {}
    for name, command in todo.items():
        program, path, settings = parsed(command)
        configs[name] = build_config(PROGRAMS[program][0], path, settings)
    start = {name: configs[name].model.adapter for name in MODELS[1:]}
    assert start == {
        "stage1": None,
        "stage1_stage2": "runs/demo/stage1/final",
        "stage2": None,
        "infonce": None,
    }
    loss = configs["infonce"].loss
    assert (loss.num_hard_negatives, loss.false_negative_margin) == (None, None)
    for name in MODELS[1:]:
        assert configs[name].run.seed == 3
        assert configs[f"eval_{name}"].model.adapter == f"{configs[name].run.output_dir}/final"
    assert configs["report"].models == {name: configs[f"eval_{name}"].output_dir for name in MODELS}
    assert configs["stage1"].data.teacher == configs["teacher"].output_dir
    assert configs["stage1"].data.texts == configs["teacher"].texts
    same = ("model", "inputs", "data", "optim", "lora")
    for name in same:  # "the same start, the same steps"
        if name != "model":
            assert getattr(configs["stage2"], name) == getattr(configs["stage1_stage2"], name)
        assert getattr(configs["stage2"], name) == getattr(configs["infonce"], name)


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("split=train", "split: got 'train', expected one of test, validation"),
        ("seed=-1", "seed: got -1, expected 0 or more"),
        ("queries=[]", "queries: got .*, expected at least one"),
        ("overrides.stage3=[x=1]", "overrides: got 'stage3', expected only data, teacher"),
    ],
)
def test_mistakes_name_the_key(word: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build_config(DemoConfig, ROOT / "configs/demo/demo.yaml", [word])


def test_what_is_searched_for_is_in_the_test_split() -> None:
    captions = {caption_of(c, "red") for c in load_concepts() if c.split == "test"}
    queries = shipped().queries
    assert len(queries) == 3
    for query in queries:
        assert f"{query} on a red background" in captions


class Runner:
    """Stands in for the commands: notes them, and fails where it is told to."""

    def __init__(self) -> None:
        self.ran: list[str] = []
        self.fails = ""

    def __call__(self, command: list[str]) -> int:
        self.ran.append(command[-1])
        return 3 if command[-1] == self.fails else 0


@pytest.fixture
def runner(monkeypatch: pytest.MonkeyPatch) -> Runner:
    runner = Runner()
    monkeypatch.setattr(demo, "run_command", runner)
    return runner


def test_what_was_made_stays_until_what_decides_it_changes(
    runner: Runner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    todo = {"data": ["a"], "stage1": ["x", "b"], "report": ["table"]}
    result = tmp_path / "stage1/result"

    def made() -> dict[str, float]:
        result.parent.mkdir(exist_ok=True)
        result.touch()
        return run_steps(todo, tmp_path)

    seconds = run_steps(todo, tmp_path)
    assert runner.ran == ["a", "b", "table"]
    assert list(seconds) == list(todo) and min(seconds.values()) >= 0
    assert made() == seconds and result.exists()  # the programs saw that it was done
    assert runner.ran[3:] == ["a", "b", "table"]
    todo["report"] = ["another table"]
    assert made() == seconds and result.exists()
    todo["stage1"] = ["x", "other"]
    made()
    assert not result.exists()
    monkeypatch.setattr(demo, "code_digest", lambda *folders: "other code")
    made()
    assert not result.exists()


def test_a_failure_ends_the_demo_and_the_same_command_goes_on(
    runner: Runner, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    todo = {"data": ["a"], "stage1": ["b"], "c": ["c"]}
    runner.fails = "b"
    with pytest.raises(SystemExit) as stop:
        run_steps(todo, tmp_path)
    assert stop.value.code == 3
    assert "stage1 stopped; ./launch.sh demo goes on from here" in capsys.readouterr().err
    (tmp_path / "stage1").mkdir()  # a checkpoint, which training goes on from
    runner.fails = ""
    run_steps(todo, tmp_path)
    assert runner.ran == ["a", "b", "a", "b", "c"]
    assert (tmp_path / "stage1").exists()


@pytest.mark.parametrize(
    "there",
    [
        ("stage2/final/x",),  # models that were trained by hand
        ("config.yaml", "checkpoints/x"),  # one of them
        ("eval/a.json",),
        ("steps.json", "stage2/final/x"),  # a tuning
    ],
)
def test_a_folder_of_anything_else_stays_as_it_is(
    runner: Runner, tmp_path: Path, there: tuple[str, ...]
) -> None:
    text = json.dumps({"fingerprint": "another", "seconds": {"check": 1.0}, "done": ["check"]})
    for name in there:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    with pytest.raises(ConfigError, match=f"output_dir: {tmp_path} holds what no demo has made"):
        run_steps({"data": ["a"]}, tmp_path)
    with pytest.raises(ConfigError, match="holds what no demo has made"):
        demo.main([f"output_dir={tmp_path}"])
    assert [(tmp_path / name).read_text() for name in there] == [text] * len(there)
    assert runner.ran == []


def test_a_demo_that_was_killed_in_its_first_step_begins_anew(
    runner: Runner, tmp_path: Path
) -> None:
    (tmp_path / "config.yaml").touch()
    run_steps({"data": ["a"]}, tmp_path)
    assert runner.ran == ["a"]


# The picture ---------------------------------------------------------------------------------


def test_right_pictures_are_framed(tmp_path: Path) -> None:
    paths = []
    for name, colour in (("red", (255, 0, 0)), ("blue", (0, 0, 255))):
        paths.append(str(tmp_path / f"{name}.png"))
        Image.new("RGB", (64, 64), colour).save(paths[-1])
    answers = [
        Answer("a red thing", paths, [True, False]),
        Answer("a blue thing", paths[::-1], [True, False]),
    ]
    draw_sheet(answers, tmp_path / "sheet.png")
    with Image.open(tmp_path / "sheet.png") as sheet:
        pixels = sheet.convert("RGB")
    middle = TILE // 2
    for row, colours in enumerate((((255, 0, 0), (0, 0, 255)), ((0, 0, 255), (255, 0, 0)))):
        top = MARGIN + row * (HEADING + TILE + GAP) + HEADING
        for column, (colour, frame) in enumerate(zip(colours, (RIGHT, WRONG), strict=True)):
            left = MARGIN + column * (TILE + GAP)
            assert pixels.getpixel((left + middle, top + middle)) == colour
            assert pixels.getpixel((left + middle, top - 4)) == frame
        heading = pixels.crop((MARGIN, top - HEADING, MARGIN + 80, top - 6))
        assert heading.getextrema()[0][0] < 100  # some ink: the query
    assert [path.name for path in tmp_path.glob("*partial*")] == []


# The whole of it -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def played(
    tiny_model: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, DemoConfig, dict[str, Any]]:
    """A demo of two steps a stage, by the programs' own mains; its folder, config and report."""
    root = tmp_path_factory.mktemp("checkout")
    (root / "assets").mkdir()
    for name in ("configs", "data_prep", "assets/emoji", "unime", "eval", "stages"):
        (root / name).symlink_to(ROOT / name)
    shutil.copytree(tiny_model("qwen2_vl"), root / "assets/base")
    training = ["optim.steps=2", "optim.warmup_steps=0", "run.trackers=[]"]
    config = shipped(
        overrides={
            "data": ["train_rows=64", "test_queries=10", "validation_queries=2",
                     "candidates=6", "train_words=64"],
            "stage1": training,
            "stage2": [*training, "optim.batch_size_per_device=16"],
        }
    )  # fmt: skip

    def run(command: list[str]) -> int:
        if command[0] != "./launch.sh":
            demo_checks.main(command[3:])
            return 0
        program, path, settings = parsed(command)
        PROGRAMS[program][1](["--config", str(path), *settings])
        return 0

    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        patch.setattr(demo, "ROOT", root)
        patch.setattr(demo, "run_command", run)
        patch.setattr(demo_filter, "FILTER_BATCHES", 1)
        patch.setattr(demo_checks, "NAMED", 3)
        folder = Path("runs/demo")
        folder.mkdir(parents=True)
        seconds = run_steps(steps(config), folder)
        demo.finish(config, folder, seconds)
    folder = root / "runs/demo"
    return folder, config, json.loads((folder / "report.json").read_text())


Played = tuple[Path, DemoConfig, dict[str, Any]]


def test_the_report_has_what_is_promised(played: Played) -> None:
    folder, config, found = played
    assert list(found["models"]) == list(MODELS)
    for name, entry in found["models"].items():
        overall = entry["averages"][found["overall"]]
        low, high = overall["ci95"]
        assert 0 <= low <= overall["score"] <= high <= 1, name
        metas = {f"image/{m}" for m in ("classification", "vqa", "retrieval", "grounding")}
        assert set(entry["averages"]) == metas | {"image-ind", "image-ood", "macro-4", "micro-11"}
        assert len(entry["tasks"]) >= 8
        assert entry["mean_similarity"] <= 1 and entry["effective_rank"] >= 1
    assert 0 < found["chance"] < 0.5
    assert list(found["seconds"]) == ORDER
    assert 0 <= found["base_naming_accuracy"] <= 1
    assert list(found["text"]) == ["teacher", *MODELS]
    assert found["text"]["teacher"]["Definition_t2t"] > 0.5
    for judged in found["filter"].values():
        assert judged["pairs"] > 0 and 0 <= judged["precision"] <= 1 >= judged["recall"] >= 0
    for rows in ("training", "flags"):
        before, after = (
            found["filter"][f"{rows}_{moment}_stage2"] for moment in ("before", "after")
        )
        assert before["pairs"] == after["pairs"]
        assert before["false_negatives"] == after["false_negatives"]
    assert list(found["search"]) == config.queries


def test_the_pictures_found_are_saved(played: Played) -> None:
    with Image.open(played[0] / "contact_sheet.png") as sheet:
        assert sheet.width > 3 * TILE and sheet.height > 3 * (TILE + HEADING)


def test_seeds_are_collected(played: Played, tmp_path: Path) -> None:
    folder, _, found = played
    other = tmp_path / "seed1"
    other.mkdir()
    changed = json.loads(json.dumps(found)) | {"seed": 1}
    changed["models"]["stage2"]["averages"]["micro-11"]["score"] += 0.1
    (other / "report.json").write_text(json.dumps(changed))
    demo_seeds.main([str(tmp_path / "results/seeds.json"), str(folder), str(other)])
    collected = json.loads((tmp_path / "results/seeds.json").read_text())
    assert collected["seeds"] == [0, 1]
    one = found["models"]["stage2"]["averages"]["micro-11"]["score"]
    overall = collected["models"]["stage2"]["averages"]["micro-11"]
    assert overall["values"] == [one, one + 0.1]
    assert overall["mean"] == pytest.approx(one + 0.05)
    assert overall["sd"] == pytest.approx(0.1 / 2**0.5)
    gain = found["models"]["infonce"]["averages"]["micro-11"]["score"]
    assert collected["differences"]["stage2 - infonce"]["values"] == [
        pytest.approx(one - gain), pytest.approx(one + 0.1 - gain)
    ]  # fmt: skip
    table = (tmp_path / "results/seeds.md").read_text()
    assert "over 2 seeds" in table and "| Scene-Grounding |" in table


def test_seeds_that_cannot_be_collected(played: Played, tmp_path: Path) -> None:
    output = str(tmp_path / "seeds.json")
    with pytest.raises(DataError, match="a seed came twice: 0, 0"):
        demo_seeds.main([output, str(played[0]), str(played[0])])
    with pytest.raises(DataError, match="none/report.json: cannot read it"):
        demo_seeds.main([output, str(tmp_path / "none")])
    (tmp_path / "report.json").write_text('{"models": {}}')
    with pytest.raises(DataError, match="has not finished, no commit, filter"):
        demo_seeds.main([output, str(tmp_path)])
