"""A study of real programs on a tiny model: ./launch.sh test -m study tests/study/test_whole.py"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from eval import evaluate
from eval.miniatures.__main__ import write_miniatures
from eval.miniatures.mmeb import train_rows, write_eval_suite, write_rows
from eval.study.marks import Marks
from eval.study.negatives import KINDS, measure
from eval.study.plan import cells_of
from eval.study.rows import row_of
from eval.study.settings import STUDIES, BaseConfig, StudyConfig
from eval.study.table import read_table
from stages import stage2_instruct, study
from tests.support.material import write_material
from tests.support.paths import ROOT
from unime.config import build_config
from unime.config.preparing import TRAIN_SUBSETS

pytestmark = pytest.mark.study

# As launch.sh does it, in one process on the CPU.
LAUNCH = """#!/bin/sh
cd "$(dirname "$0")" || exit 1
command=$1; shift
case $command in
  stage1) set -- stages.stage1_distill --config "$@" ;;
  stage2) set -- stages.stage2_instruct --config "$@" ;;
  eval) set -- eval.evaluate --config "$@" ;;
  mine) config=$1; out=$2; shift 2; set -- stages.mine --config "$config" "output_dir=$out" "$@" ;;
  judge) config=$1; out=$2; shift 2
    set -- data_prep.judge --config "$config" "output_dir=$out" "$@" ;;
  prepare) shift; set -- data_prep.own "$@" ;;
esac
exec "$PYTHON" -m "$@"
"""
STUDY = """base: base.yaml
recipes: [infonce-after-stage1, unime, e5v, unime-v2, learnt-temperature, score-mse]
seeds: [0]
"""


@pytest.fixture(scope="module")
def studied(tiny_model: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a checkout in which the study has run."""
    folder = tmp_path_factory.mktemp("checkout")
    model = tiny_model("qwen2_vl")
    write_material(folder, model)
    write_eval_suite(folder / "tasks", folder / "suite.yaml")
    rows = [{"anchor": f"word {n}", "positive": f"the meaning of {n}", "negative": f"no {n}"}
            for n in range(24)]  # fmt: skip
    (folder / "t.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    own = f"model: {{name: {model}, quantization: nf4, precision: float32}}\n"
    (folder / "eval.yaml").write_text(f"data: {{root: tasks, suite: suite.yaml}}\n{own}")
    (folder / "mine.yaml").write_text(f"{own}mining: {{num_negatives: 2}}\n")
    (folder / "judge.yaml").write_text(own)
    (folder / "base.yaml").write_text(
        "stage1: stage1.yaml\nstage2: stage2.yaml\neval: eval.yaml\nmine: mine.yaml\n"
        "judge: judge.yaml\njudged_by: infonce-after-stage1\n"
        "triples:\n  prepare: {set: prepare own t.jsonl triples held_out=0}\n"
        "  root: triples\n  task: t\n"
        "environment: {CUDA_VISIBLE_DEVICES: '', ACCELERATE_USE_CPU: 'true'}\n"
    )
    (folder / "small.yaml").write_text(STUDY)
    (folder / "launch.sh").write_text(LAUNCH)
    (folder / "launch.sh").chmod(0o755)
    (folder / "configs").mkdir()
    shutil.copytree(ROOT / "configs/recipes", folder / "configs/recipes")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(study, "ROOT", folder)
        patch.setattr(signal, "signal", lambda *_: None)
        patch.setenv("PYTHON", sys.executable)
        patch.setenv("PYTHONPATH", f"{ROOT}:{os.environ.get('PYTHONPATH', '')}")
        with pytest.raises(SystemExit) as end:
            study.main(["small.yaml"])
        assert end.value.code == 0
    return folder


def rows_of(folder: Path) -> list[dict[str, Any]]:
    return read_table(folder / "runs/study/small/table.parquet")


def test_every_recipe_trains_and_is_scored(studied: Path) -> None:
    rows = rows_of(studied)
    assert {row["status"] for row in rows} == {"done"}
    names = [row["recipe"] for row in rows]
    assert len(names) == len(set(names)) == 6
    for row in rows:
        assert len(row["hits/Words_t2i"]) == 5 and 0 <= row["average/micro-3"] <= 1
        assert row["seconds"] > 0 and row["cpu_seconds"] > 0
        assert row["uniformity/Words_t2i"] <= 0 <= row["gap/Words_t2i"]
        assert len(row["curve/stage2/grad_norm"]) == 4
    losses = {name: row["stage2/loss"] for name, row in zip(names, rows, strict=True)}
    assert losses.pop("unime") == losses["infonce-after-stage1"]  # hard ones have not begun yet
    assert len(set(losses.values())) == len(losses)  # each other recipe does something of its own
    folder = studied / "runs/study"
    kinds = [path.name.split("-")[0] for path in (folder / "steps").iterdir()]
    # score-mse has a stage 1 of its own; the judge is infonce-after-stage1's model
    assert {kind: kinds.count(kind) for kind in set(kinds)} == {
        "stage1": 2, "mine": 1, "judge": 1, "stage2": 6, "eval": 6
    }  # fmt: skip


def test_the_page_and_the_comparison_are_of_these_cells(studied: Path) -> None:
    folder = studied / "runs/study/small"
    compared = json.loads((folder / "comparison.json").read_text())
    assert len(compared["arms"]) == 6
    page = (folder / "report.html").read_text()
    if (folder / "figures").exists():  # matplotlib is there
        listed = json.loads((folder / "figures/figures.json").read_text())
        names = {entry["name"] for entry in listed}
        assert names >= {"recipes", "differences", "training", "matrices", "space"}
        assert page.count("data:image/svg+xml;base64,") == len(listed)


def test_negatives_of_each_kind_on_a_run(studied: Path) -> None:
    runs = sorted((studied / "runs/study/steps").glob("stage2-*"))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(studied)
        found = measure(runs[0], batches=2, pairs=8)
    assert list(found["kinds"]) == list(KINDS)
    easy, random, hard = (found["kinds"][kind] for kind in KINDS)
    assert [point["step"] for point in easy] == [0, 2, 4]
    for a, b, c in zip(easy, random, hard, strict=True):
        assert 0 < a["loss"] <= b["loss"] <= c["loss"]
        assert min(a["grad_norm"], c["grad_norm"]) > 0


def test_recipes_on_mmebs_layout_with_words_for_data_and_model_alone(
    tiny_model: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The base of MMEB and 8 GPUs, on miniatures of its 20 training sets and 36 tasks: the cell's
    own commands, with other data and another model."""
    monkeypatch.chdir(ROOT)
    write_miniatures(tmp_path / "eval")
    train = tmp_path / "train"
    for subset in TRAIN_SUBSETS:
        write_rows(train, subset, "original", train_rows(train, subset, 4))
    model = f"model.name={tiny_model('qwen2_vl')}"
    small = "inputs.resolution=null"
    words = {
        "stage2": [model, small, f"data.root={train}", "optim.steps=1",
                   "optim.warmup_steps=0", "optim.batch_size_per_device=4", "run.num_workers=0",
                   "run.trackers=[]"],
        "eval": [model, small, f"data.root={tmp_path}/eval", f"data.cache={tmp_path}/cache",
                 "num_workers=0", "data.tasks=[N24News, MSCOCO_t2i, RefCOCO]"],
    }  # fmt: skip
    own = ["seeds=[0]", "recipes=[vlm2vec]", f"output_dir={tmp_path}/runs"]
    own.append(f"words={json.dumps(words)}")
    config = build_config(StudyConfig, STUDIES / "recipes.yaml", own)
    base = build_config(BaseConfig, STUDIES / "bases/mmeb_qwen2-vl-2b.yaml")
    (cell,) = cells_of(config, base)
    assert cell.problem == ""
    for step, main in zip(cell.steps, (stage2_instruct.main, evaluate.main), strict=True):
        main(["--config", *step.command[2:]])
    row = row_of(cell, "mmeb", Marks(tmp_path / "runs"))
    assert row["stage2/step"] == 1 and row["status"] == "not run"  # nobody has marked it
    assert len(list(cell.steps[-1].folder.glob("*.json"))) == 3
