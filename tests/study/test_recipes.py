"""Recipes and bases: ./launch.sh test tests/study/test_recipes.py"""

from __future__ import annotations

from pathlib import Path

import pytest

from eval.study import plan
from eval.study.plan import CLASSES, cells_of
from eval.study.settings import (
    RECIPES,
    STUDIES,
    BaseConfig,
    RecipeConfig,
    StudyConfig,
    load_recipe,
    preparations,
)
from eval.study.words import words_of
from tests.support.paths import ROOT
from unime.config import Stage1PlanConfig, Stage2PlanConfig, build_config
from unime.errors import ConfigError
from unime.planning.planner import make_plan

NAMES = sorted(path.stem for path in (ROOT / RECIPES).glob("*.yaml"))
BASES = sorted(path.stem for path in (ROOT / STUDIES / "bases").glob("*.yaml"))
ASKED_FOR = {
    *("unime", "stage1-only", "stage2-only", "infonce-after-stage1", "vlm2vec", "e5v"),
    *("unime-v2", "hardness-weighted", "score-mse", "learnt-temperature"),
}


@pytest.fixture(autouse=True)
def in_the_checkout(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    for looked_at in ("data_digest", "model_digest"):  # what lies on a developer's disk
        monkeypatch.setattr(plan, looked_at, lambda *_: "x")


def base_named(name: str) -> BaseConfig:
    return build_config(BaseConfig, STUDIES / f"bases/{name}.yaml")


def test_all_recipes_are_there() -> None:
    assert {*NAMES} >= ASKED_FOR
    shipped = build_config(StudyConfig, STUDIES / "recipes.yaml")
    assert {*shipped.recipes} == {*NAMES}
    assert len(shipped.seeds) == 3


@pytest.mark.parametrize("base", BASES)
@pytest.mark.parametrize("name", NAMES)
def test_a_recipe_is_a_valid_configuration_on_every_base(name: str, base: str) -> None:
    recipe, own = load_recipe(name), base_named(base)
    assert recipe.source
    for stage in ("stage1", "stage2"):
        sections = getattr(recipe, stage)
        if sections is not None:
            path = Path(getattr(own, stage))
            before = build_config(CLASSES[stage], path)
            after = build_config(CLASSES[stage], path, words_of(CLASSES[stage], sections))
            # what makes the recipe and no more: the base's batch, steps and model stay
            for section in ("optim", "model", "run", "inputs"):
                assert getattr(after, section) == getattr(before, section)
            assert (after == before) == (not sections)


@pytest.mark.parametrize("base", BASES)
def test_every_cell_of_the_recipes_can_be_planned(base: str) -> None:
    study = build_config(StudyConfig, STUDIES / "recipes.yaml", ["seeds=[0]"])
    cells = cells_of(study, base_named(base))
    assert [cell.problem for cell in cells] == [""] * len(NAMES)
    kinds = {cell.recipe: [step.kind for step in cell.steps] for cell in cells}
    assert kinds["base"] == ["eval"]
    assert kinds["stage1-only"] == ["stage1", "eval"]
    assert kinds["vlm2vec"] == kinds["e5v"] == ["stage2", "eval"]
    trained = ["stage2"] * (base == "demo")  # the judge, a model of the same seed
    assert kinds["unime-v2"] == ["stage1", "mine", *trained, "judge", "stage2", "eval"]
    assert kinds["unime"] == kinds["infonce-after-stage1"] == ["stage1", "stage2", "eval"]


def test_turning_a_recipe_to_mmeb_is_another_base_and_nothing_else() -> None:
    """The same words, and ./launch.sh plan takes what a cell runs on 8 GPUs."""
    own: dict[str, set[str]] = {}
    for base in BASES:
        study = build_config(
            StudyConfig, STUDIES / "recipes.yaml", ["seeds=[0]", "recipes=[vlm2vec]"]
        )
        step = cells_of(study, base_named(base))[0].steps[0]
        own[base] = {word for word in step.command if word.startswith("loss.")}
        assert step.command[2] == base_named(base).stage2
    assert own["demo"] == own["mmeb_qwen2-vl-2b"] and len(own["demo"]) == 3
    mmeb = base_named("mmeb_qwen2-vl-2b")
    study = build_config(StudyConfig, STUDIES / "recipes.yaml", ["seeds=[0]", "recipes=[unime]"])
    for step, cls in zip(
        cells_of(study, mmeb)[0].steps, (Stage1PlanConfig, Stage2PlanConfig), strict=False
    ):
        words = [*step.command[3:], "gpus=8", "gpu=a100-80g"]
        planned = build_config(cls, Path(step.command[2]), words)
        assert planned.gpus * planned.optim.batch_size_per_device in (768, 1024)


@pytest.mark.parametrize("name", ["vlm2vec", "unime"])
def test_a_plan_of_a_cell_on_8_gpus(name: str) -> None:
    """Of the small model that is here; the words are the cell's."""
    words = ["seeds=[0]", f"recipes=[{name}]", "words={stage2: [model.name=assets/base]}"]
    study = build_config(StudyConfig, STUDIES / "recipes.yaml", words)
    cell = cells_of(study, base_named("mmeb_qwen2-vl-2b"))[0]
    step = next(step for step in cell.steps if step.kind == "stage2")
    words = [*step.command[3:], "model.adapter=null", "gpus=8", "gpu=a100-80g"]
    found = make_plan(build_config(Stage2PlanConfig, Path(step.command[2]), words))
    assert found.fits and found.steps == 1000 and found.hours > 0


def test_e5v_sees_texts_alone_with_a_negative_each() -> None:
    for base in BASES:
        own = base_named(base)
        study = build_config(StudyConfig, STUDIES / "recipes.yaml", ["seeds=[0]", "recipes=[e5v]"])
        stage2 = cells_of(study, own)[0].steps[0].config
        assert own.triples is not None
        assert stage2.data.root == own.triples.root
        assert list(stage2.data.sources) == [own.triples.task]
        assert stage2.lora.train == ["llm"] and stage2.model.adapter is None
        made = [" ".join(command) for command in preparations(study, own).values()]
        assert any(own.triples.root in command and "prepare own" in command for command in made)
        others = build_config(StudyConfig, STUDIES / "recipes.yaml", ["recipes=[unime]"])
        assert len(preparations(others, own)) < len(made)


@pytest.mark.parametrize(
    "path", sorted((ROOT / STUDIES).glob("*.yaml")), ids=lambda path: path.stem
)
def test_shipped_studies_can_be_planned(path: Path) -> None:
    study = build_config(StudyConfig, path, ["seeds=[0]"])
    study.grid = {
        key: values if key == "data" else values[-1:] for key, values in study.grid.items()
    }
    cells = cells_of(study, build_config(BaseConfig, Path(study.base)))
    assert {cell.problem for cell in cells} == {""}
    assert len({cell.identity for cell in cells}) == len(cells)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["grid.stage3=[1]"], "grid: got 'stage3', expected stage1.… or stage2.… or data"),
        (["grid.data=[other]"], "grid.data: got .*, expected some of pairs"),
        (
            ["grid={stage2.loss.temperature: []}"],
            "grid.stage2.loss.temperature: got .*at least one",
        ),
        (["seeds=[1, 1]"], "seeds: got .*, expected each once"),
        (["recipes=[unime, lab/unime.yaml]"], "recipes: got .*, expected each once"),
        (["grid={stage2.lora.rank: [8, '8']}"], "grid.stage2.lora.rank: got .*, expected each"),
        (
            ["grid={stage2.loss: [{temperature: 1}], stage2.loss.temperature: [2]}"],
            "grid: got 'stage2.loss', expected a setting apart from stage2.loss.temperature",
        ),
        (["baseline=none"], "baseline: got 'none', expected one of recipes"),
        (["reference={stage2.loss.temperature: 1}"], "reference.stage2.loss.temperature: got 1"),
        (["words={train: [a=b]}"], "words: got 'train', expected only stage1"),
    ],
)
def test_mistakes_name_the_key(words: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build_config(StudyConfig, STUDIES / "recipes.yaml", words)


def test_an_unknown_recipe_is_refused_with_those_there_are() -> None:
    with pytest.raises(
        ConfigError, match="recipes: got 'unim', expected a file, or one of .*unime"
    ):
        load_recipe("unim")


def test_a_recipe_without_stage_2_has_no_data_of_its_own() -> None:
    with pytest.raises(ConfigError, match="data: got 'mined', expected pairs without a stage 2"):
        RecipeConfig(source="s", stage2=None, data="mined")
