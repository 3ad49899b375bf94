"""What a study is made of, as YAML: a grid, the base that it runs on, and recipes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from omegaconf import MISSING

from eval.study.words import overlap, shown
from unime.config import build_config
from unime.config.settings import FilePath, NotEmpty, Positive, Seed, Settings, one_of, setting
from unime.errors import ConfigError, require

LAUNCH = "./launch.sh"
CONFIGS = Path("configs")
STUDIES, RECIPES = CONFIGS / "study", CONFIGS / "recipes"
STAGES = ("stage1", "stage2")
PAIRS, TRIPLES, MINED, JUDGED = KINDS = ("pairs", "triples", "mined", "judged")
DATA = "data"  # the key of a grid that says which of them
PROGRAMS = ("stage1", "stage2", "eval", "mine", "judge")


@dataclass
class RecipeConfig(Settings):
    """What makes a recipe: the settings of both stages that differ from the base's."""

    source: str = setting(MISSING, "the paper that it is of, in a line")
    stage1: dict[str, Any] | None = setting({}, "sections of stage 1; null: no stage 1")
    stage2: dict[str, Any] | None = setting({}, "sections of stage 2; null: no stage 2")
    data: Annotated[str, one_of(*KINDS)] = setting(
        PAIRS,
        "what stage 2 learns from: the base's pairs, its triples of texts, its pairs with "
        "negatives that the model before stage 2 mines, or these with a judge's scores",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        needs = self.stage2 is not None or self.data == PAIRS
        require(needs, "data", self.data, f"{PAIRS} without a stage 2")


@dataclass
class Triples(Settings, section="triples"):
    """Texts with their positive and their negative, as a prepared set."""

    prepare: dict[str, str] = setting({}, "name -> words after ./launch.sh that make it, in order")
    root: FilePath = setting(MISSING, "the prepared set")
    task: str = setting(MISSING, "its only task")


@dataclass
class BaseConfig(Settings):
    """Which model, data, batch and steps: the programs' own files, of which a recipe changes what
    makes it."""

    stage1: FilePath = setting(MISSING, "a file of ./launch.sh stage1")
    stage2: FilePath = setting(MISSING, "a file of ./launch.sh stage2")
    eval: FilePath = setting(MISSING, "a file of ./launch.sh eval")
    mine: FilePath | None = setting(None, "a file of ./launch.sh mine; null: nothing can be mined")
    judge: FilePath | None = setting(None, "a file of ./launch.sh judge; null: there is no judge")
    judged_by: str | None = setting(
        None, "the recipe that trains the judge, with the cell's seed; null: the file names it all"
    )
    triples: Triples | None = setting(None, "for recipes of texts alone; null: there are none")
    prepare: dict[str, str] = setting(
        {}, "name -> words after ./launch.sh that make the data, which know when they are made"
    )
    words: dict[str, list[str]] = setting({}, "program -> key=value words for all cells")
    environment: dict[str, str] = setting({}, "of the programs; what decides a number of ranks")

    def __post_init__(self) -> None:
        super().__post_init__()
        check_programs(self.words)


@dataclass
class StudyConfig(Settings):
    """Recipes times seeds times a grid (stages.study)."""

    base: FilePath = setting(MISSING, "model, data, batch and steps (configs/study/bases/)")
    recipes: NotEmpty[list[str]] = setting(MISSING, "names in configs/recipes/, or files")
    seeds: NotEmpty[list[Seed]] = setting([0, 1, 2], "of adapters and the order of the data")
    grid: dict[str, list[Any]] = setting(
        {}, "stage1.… or stage2.… or data -> its values; every combination is a cell"
    )
    baseline: str | None = setting(
        None,
        "the recipe that others are compared to; null: the first, and with a reference each"
        " recipe's own cells",
    )
    reference: dict[str, Any] = setting(
        {}, "key of the grid -> the value of the cell that others are compared to, where they agree"
    )
    words: dict[str, list[str]] = setting({}, "program -> more key=value words for all cells")
    workers: Positive[int] = setting(1, "cells side by side, which divide cores and GPUs")
    output_dir: FilePath = setting("runs/study", "of all studies: they share what they have made")
    retry: bool = setting(False, "run what has failed again")

    def __post_init__(self) -> None:
        super().__post_init__()
        check_programs(self.words)
        for key, values in self.grid.items():
            stage, _, rest = key.partition(".")
            expected = "stage1.… or stage2.… or data"
            require(key == DATA or (stage in STAGES and bool(rest)), "grid", key, expected)
            require(len(values) > 0, f"grid.{key}", values, "at least one value")
            if key == DATA:
                kinds = ", ".join(KINDS)
                require(set(values) <= set(KINDS), f"grid.{key}", values, f"some of {kinds}")
            told = [shown(value) for value in values]
            require(len(set(told)) == len(told), f"grid.{key}", values, "each once")
            others = [other for other in self.grid if other != key and overlap(key, other)]
            expected = f"a setting apart from {', '.join(others)}"
            require(not others, "grid", key, expected)
        if self.recipes != MISSING:
            names = [name_of(recipe) for recipe in self.recipes]
            expected = "each once: names, or files of other names"
            require(len(set(names)) == len(names), "recipes", self.recipes, expected)
        require(len(set(self.seeds)) == len(self.seeds), "seeds", self.seeds, "each once")
        for key, value in self.reference.items():
            expected = f"one of grid.{key}"
            require(value in self.grid.get(key, ()), f"reference.{key}", value, expected)
        if self.baseline is not None:
            expected = f"one of recipes: {', '.join(self.recipes)}"
            require(self.baseline in self.recipes, "baseline", self.baseline, expected)


def check_programs(words: dict[str, list[str]]) -> None:
    """Refuse words for a program that no cell runs.

    Raises:
        ConfigError: there are some.
    """
    for program in words:
        require(program in PROGRAMS, "words", program, f"only {', '.join(PROGRAMS)}")


def name_of(recipe: str) -> str:
    """Of a recipe that is named, or given as a file."""
    return Path(recipe).stem if recipe.endswith(".yaml") else recipe


def load_recipe(recipe: str, folder: Path = RECIPES) -> RecipeConfig:
    """A recipe by its name in `folder`, or by its file.

    Raises:
        ConfigError: there is none, or it is no recipe.
    """
    path = Path(recipe) if recipe.endswith(".yaml") else folder / f"{recipe}.yaml"
    if not path.is_file():
        known = ", ".join(sorted(found.stem for found in folder.glob("*.yaml")))
        raise ConfigError(f"recipes: got {recipe!r}, expected a file, or one of {known}", "recipes")
    return build_config(RecipeConfig, path)


def preparations(study: StudyConfig, base: BaseConfig) -> dict[str, list[str]]:
    """The commands that make the data of all cells, by their names, in order."""
    found = dict(base.prepare)
    if base.triples is not None and any(load_recipe(r).data == TRIPLES for r in study.recipes):
        found |= base.triples.prepare
    return {name: [LAUNCH, *words.split()] for name, words in found.items()}
