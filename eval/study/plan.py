"""A study's cells, each a chain of commands that a user could type.

Where two cells agree in all that decides a command's outcome (the resolved settings, the code, the
model, the data, and the steps before it), they share its folder: a stage 1 that several recipes
start from is trained once.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, fields, replace
from itertools import product
from pathlib import Path
from typing import Any

from eval.study.identity import (
    code_of,
    data_digest,
    forget,
    identity_of,
    model_digest,
    paths_of,
)
from eval.study.settings import (
    DATA,
    JUDGED,
    LAUNCH,
    PAIRS,
    STAGES,
    TRIPLES,
    BaseConfig,
    RecipeConfig,
    StudyConfig,
    load_recipe,
    name_of,
)
from eval.study.words import overlap, typed, words_of
from unime.config import (
    EvalConfig,
    JudgeConfig,
    MineConfig,
    MineData,
    PairData,
    Stage1Config,
    Stage2Config,
    build_config,
    dump_config,
)
from unime.errors import ConfigError, DataError

MINE, JUDGE = "mine", "judge"
# of stage 2 with a prepared set, which is no repository and says the rest itself
OF_SET = ("data.split=null", "data.revision=null", "data.answer_column=null")
STEPS = "steps"  # the folder of what they make
CLASSES: dict[str, Any] = {
    "stage1": Stage1Config,
    "stage2": Stage2Config,
    "eval": EvalConfig,
    MINE: MineConfig,
    JUDGE: JudgeConfig,
}


@dataclass(frozen=True)
class Step:
    """One command of a cell.

    Attributes:
        name: its kind and what decides its outcome; of its folder too.
        command: as a user types it.
        needs: the names of steps that come before it.
        code: of what it runs (identity.py).
        config: what the command's program reads, but for where it writes.
    """

    name: str
    kind: str
    folder: Path
    command: tuple[str, ...]
    needs: tuple[str, ...]
    code: str
    config: Any = field(compare=False)


@dataclass(frozen=True)
class Cell:
    """A recipe with a seed and the grid's values; what it runs, the evaluation last.

    Attributes:
        values: key of the grid -> value; without those of a stage that the recipe does not have.
        problem: why it cannot run; "": it can.
    """

    recipe: str
    seed: int
    values: dict[str, Any]
    steps: tuple[Step, ...] = ()
    problem: str = ""

    @property
    def identity(self) -> str:
        return self.steps[-1].name if self.steps else ""

    @property
    def trained(self) -> tuple[Step, ...]:
        """The stages of its own, and not its judge's: where they are, the first step is stage 1,
        and the one before the evaluation stage 2."""
        ends = dict.fromkeys((*self.steps[:1], *self.steps[-2:-1]))
        return tuple(step for step in ends if step.kind in STAGES)

    @property
    def title(self) -> str:
        """For people."""
        values = [f"{key}={typed(value)}" for key, value in self.values.items()]
        return " ".join([self.recipe, *values, f"seed {self.seed}"])


def cells_of(study: StudyConfig, base: BaseConfig, with_files: bool = True) -> list[Cell]:
    """Every cell once, recipe by recipe; one that cannot be is there with the reason.

    Args:
        with_files: whether models and data, which may be large, are read for the identities; what
            cannot run is seen without.
    """
    forget()
    setup = _Setup(study, base, {kind: code_of(kind) for kind in CLASSES}, with_files)
    found: dict[Any, Cell] = {}
    for name in study.recipes:
        recipe = load_recipe(name)
        for values in product(*study.grid.values()):
            own = _own(dict(zip(study.grid, values, strict=True)), recipe)
            for seed in study.seeds:
                cell = Cell(name_of(name), seed, own)
                key = cell.recipe, seed, repr(own)
                if key not in found:
                    found[key] = _planned(cell, recipe, setup)
    return list(found.values())


def _own(values: dict[str, Any], recipe: RecipeConfig) -> dict[str, Any]:
    """Those of the stages that a recipe has; without a stage 2 it has no data of its own."""
    without = [stage for stage in STAGES if getattr(recipe, stage) is None]
    if recipe.stage2 is None or recipe.data == TRIPLES:
        without.append(DATA)
    return {key: v for key, v in values.items() if key.partition(".")[0] not in without}


@dataclass(frozen=True)
class _Setup:
    """What all cells share."""

    study: StudyConfig
    base: BaseConfig
    code: dict[str, str]  # of each kind of step
    with_files: bool
    read: dict[tuple[str, ...], tuple[str, Any]] = field(default_factory=dict)  # by command

    def words(self, kind: str) -> list[str]:
        return [*self.base.words.get(kind, ()), *self.study.words.get(kind, ())]


def _planned(cell: Cell, recipe: RecipeConfig, setup: _Setup) -> Cell:
    try:
        steps = {step.name: step for step in _Chain(cell, recipe, setup).steps()}
        return replace(cell, steps=tuple(steps.values()))
    except (ConfigError, DataError) as error:
        return replace(cell, problem=str(error))


class _Chain:
    """Makes the steps of one cell."""

    def __init__(self, cell: Cell, recipe: RecipeConfig, setup: _Setup) -> None:
        self.cell, self.recipe, self.setup = cell, recipe, setup
        self.base, self.code = setup.base, setup.code
        self.place = Path(setup.study.output_dir) / STEPS
        self.made: list[Step] = []

    def steps(self) -> Iterator[Step]:
        adapter = "null"
        if self.recipe.stage1 is not None:
            yield (step := self._stage("stage1", self.base.stage1, []))
            adapter = f"{step.folder}/final"
        if self.recipe.stage2 is not None:
            words, taken = [f"model.adapter={adapter}"], tuple[str, ...]()
            kind = self.cell.values.get(DATA, self.recipe.data)
            if kind == TRIPLES:
                words += [*self._triples(), *OF_SET]
            elif kind != PAIRS:
                yield (made := self._mine(adapter))
                if kind == JUDGED:
                    yield from (judges := self._judges())
                    yield (made := self._judge(made, judges))
                words.append(f"data.root={made.folder}")
                taken = OF_SET
            yield (step := self._stage("stage2", self.base.stage2, words, taken))
            adapter = f"{step.folder}/final"
        yield self._step("eval", self.base.eval, [f"model.adapter={adapter}"])

    def _stage(self, kind: str, path: str, words: list[str], taken: tuple[str, ...] = ()) -> Step:
        """A stage with the study's own words, which no grid has.

        Args:
            taken: words for what the step before it was told, which a grid may have.
        """
        words = [*words, f"run.seed={self.cell.seed}"]
        for key, own in product(self.cell.values, [*words, "run.output_dir"]):
            if overlap(key, f"{kind}.{own.partition('=')[0]}"):
                raise ConfigError(f"grid: {key}: the study itself sets {own}")
        return self._step(kind, path, [*self._chosen(kind), *words, *taken])

    def _chosen(self, kind: str) -> list[str]:
        """The recipe's words for a stage, and the grid's."""
        values = self.cell.values.items()
        grid = [f"{key.partition('.')[2]}={typed(value)}" for key, value in values
                if key.startswith(f"{kind}.")]  # fmt: skip
        return [*words_of(CLASSES[kind], getattr(self.recipe, kind)), *grid]

    def _triples(self) -> list[str]:
        if self.base.triples is None:
            raise ConfigError(f"{self.cell.recipe}: the base has no triples of texts")
        root, sources = self.base.triples.root, typed({self.base.triples.task: {}})
        return [f"data.root={root}", f"data.sources={sources}"]

    def _pairs(self) -> PairData:
        """What stage 2 would learn from as it is."""
        fixed = [*self.setup.words("stage2"), *self._chosen("stage2"), "run.output_dir=."]
        return build_config(Stage2Config, Path(self.base.stage2), fixed).data

    def _mine(self, adapter: str) -> Step:
        if self.base.mine is None:
            raise ConfigError(f"{self.cell.recipe}: the base has no configuration to mine with")
        data = self._pairs()
        words = [f"data.root={data.root}", f"data.tasks={typed([*data.sources])}"]
        fixed = [*self.setup.words(MINE), *words, "output_dir=."]
        own = build_config(MineConfig, Path(self.base.mine), fixed).data
        for entry in fields(MineData):
            usual = getattr(own, entry.name)
            if (value := getattr(data, entry.name, usual)) != usual:
                words.append(f"data.{entry.name}={typed(value)}")
        words += [f"model.adapter={adapter}", f"seed={self.cell.seed}"]
        return self._step(MINE, self.base.mine, words)

    def _judges(self) -> list[Step]:
        """What trains the judge, if a recipe does."""
        name = self.base.judged_by
        if name is None:
            return []
        cell = Cell(name_of(name), self.cell.seed, {})
        return [*_Chain(cell, load_recipe(name), self.setup).steps()][:-1]

    def _judge(self, mined: Step, judges: list[Step]) -> Step:
        if self.base.judge is None:
            raise ConfigError(f"{self.cell.recipe}: the base has no judge")
        words = [f"data.root={mined.folder}"]
        words += ["data.follow_links=true"] * self._pairs().follow_links
        words += [f"model.adapter={step.folder}/final" for step in judges[-1:]]
        needs = (mined.name, *(step.name for step in judges[-1:]))
        return self._step(JUDGE, self.base.judge, words, needs)

    def _step(
        self, kind: str, path: str, words: list[str], needs: tuple[str, ...] | None = None
    ) -> Step:
        """A command, after the one before it unless it `needs` others."""
        words = [*self.setup.words(kind), *words]
        key = "run.output_dir" if kind in STAGES else "output_dir"
        known = (kind, path, *words)
        if known not in self.setup.read:  # which cells have in common
            config = build_config(CLASSES[kind], Path(path), [*words, f"{key}=."])
            self.setup.read[known] = f"{kind}-{self._identity(kind, config)}", config
        name, config = self.setup.read[known]
        folder = self.place / name
        command = [LAUNCH, kind, path, *words, f"{key}={folder}"]
        if kind in (MINE, JUDGE):  # whose folder is no setting on their command line
            command = [LAUNCH, kind, path, str(folder), *words]
        if needs is None:
            needs = (self.made[-1].name,) if self.made else ()
        self.made.append(Step(name, kind, folder, tuple(command), needs, self.code[kind], config))
        return self.made[-1]

    def _identity(self, kind: str, config: Any) -> str:
        settings = dump_config(config).replace(f"{self.place}/", "")
        environment = [f"{k}={self._content(v)}" for k, v in sorted(self.base.environment.items())]
        read = [*self._read(config)] if self.setup.with_files else []
        if kind == MINE and config.second.config is not None:
            second = build_config(EvalConfig, Path(config.second.config), ["output_dir=."])
            read += self._read(second) if self.setup.with_files else []
        return identity_of([kind, settings, *environment, self.code[kind], *read])

    def _content(self, value: str) -> str:
        """Of a variable that names a file, accelerate's configuration, what is in it."""
        return data_digest(value) if self.setup.with_files and Path(value).is_file() else value

    def _read(self, config: Any) -> Iterator[str]:
        """Of the model, and of the files and folders that a step reads, but for those that steps
        before it make, whose names stand in its settings."""
        yield model_digest(config.model.name, config.model.revision)
        for path in paths_of(config):
            if not Path(path).is_relative_to(self.place):
                yield data_digest(path)
