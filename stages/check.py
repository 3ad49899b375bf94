"""Whether data hold what they should: pairs before they are trained on, or stores of embeddings.

    python -m stages.check DATA [model=NAME|configs/own/….yaml] [check.near=4 …]
    python -m stages.check configs/stage2/qwen2-vl-2b.yaml [check.against=configs/eval/… …]
    python -m stages.check STORE [repair=true]

DATA is a prepared set, or a stage-2 configuration, whose rows are then looked at as its model will
be shown them. Every row that training leaves out, and every one that is odd, stands with its reason
in rows.jsonl; the counts in check.json, and on a page, check.html. What was read is remembered, so
that it is not read again as long as it stays as it is, by training neither.

STORE is a teacher's output_dir, or an evaluation's store or output_dir, which may hold several.
With repair=true damaged rows are taken out: the command that made the store embeds them again, and
only them.

The exit status is 0 when all is sound (or repaired), 1 when a row is rejected, shows what an
evaluation asks, or is damaged.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from eval.page.data_check import PAGE, write_check_page
from eval.tasks.sources import EvalSource
from eval.tasks.suites import load_suite
from unime.config import (
    CheckConfig,
    DataCheck,
    EvalConfig,
    InputConfig,
    ModelConfig,
    PairData,
    PairSource,
    SetCheckConfig,
    Stage2CheckConfig,
    TuneConfig,
    build_config,
)
from unime.config.loader import built, parse_words, program_parser
from unime.data.checks.check import DataReport, check_data
from unime.data.checks.leakage import HeldItem
from unime.data.prepared.folder import CHECK, PreparedSet
from unime.data.stores.check import check_store, find_stores
from unime.errors import ConfigError, require_package
from unime.models.item_processor import ItemProcessor
from unime.models.loading import load_item_processor
from unime.runtime.program import run_program

if TYPE_CHECKING:
    from rich.console import Console

T = TypeVar("T")
BAR = 40  # characters
YAML = (".yaml", ".yml")


@dataclass(frozen=True)
class Checked:
    """Pairs that are to be checked."""

    data: PairData
    settings: DataCheck
    output_dir: Path
    processor: ItemProcessor | None
    max_pixels: int
    seed: int = 0


def main(argv: list[str] | None = None) -> None:
    place = Path(_parsed(CheckConfig, argv)[1].place)
    if place.suffix in YAML:
        check_pairs(_of_stage2(argv, place))
    elif PreparedSet.of(place) is not None:
        check_pairs(_of_set(argv, place))
    else:
        check_stores(parse(argv))


def check_pairs(checked: Checked) -> None:
    """Check pairs and write what was found; exits with 1 where that is not nothing."""
    require_package("rich", "train", "the check")
    from rich.console import Console

    against = checked.settings.against
    evaluation = asked(Path(against)) if against is not None else ()
    found = check_data(
        checked.data,
        checked.settings,
        checked.processor,
        checked.seed,
        evaluation,
        checked.max_pixels,
    )
    found.write(checked.output_dir)
    page = checked.output_dir / PAGE
    write_check_page(found, checked.data.root, page)
    show(found, Console(highlight=False, soft_wrap=True))
    print(f"written: {checked.output_dir}", flush=True)
    if not found.is_clean:
        raise SystemExit(1)


def show(found: DataReport, console: Console) -> None:
    """Print the counts of each task, and how long items and large pictures are."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Column, Table

    names = ("rows", "accepted", "queries", "of several right answers")
    right = [Column(name, justify="right") for name in names]
    table = Table("task", "split", *right, "found in rows", box=SIMPLE_HEAD)
    for task in found.tasks:
        numbers = (task.rows, task.accepted, task.queries, task.with_several)
        kinds = "\n".join(f"{count:,} {kind}" for kind, count in task.counts.items())
        table.add_row(task.name, task.split, *(f"{n:,}" for n in numbers), kinds or "nothing")
    console.print(table)
    for histogram in (found.lengths, found.sides):
        bars = histogram.bars()
        if bars:
            console.print(f"{histogram.of} (at most {histogram.most:,})")
        most = max((count for _, count in bars), default=1)
        for words, count in bars:
            console.print(f"  {words:>24} {'█' * -(-BAR * count // most):{BAR}} {count:,}")
    left_out = found.rows - found.accepted
    console.print(f"{found.accepted:,} of {found.rows:,} rows can be used, {left_out:,} are not")
    if cut := sum(task.cut for task in found.tasks):
        console.print(f"{cut:,} texts are longer than the model is shown (inputs.max_text_tokens)")
    if found.compared_with:
        console.print(
            f"{found.leaks:,} rows show one of {found.compared_with:,} texts and pictures that are"
            " held out"
        )


def check_stores(config: CheckConfig) -> None:
    """Check stores of embeddings; exits with 1 where one is damaged."""
    all_sound, helps, half_written = True, False, 0
    for folder in find_stores(Path(config.store)):
        for findings in check_store(folder, config.repair):
            print(findings.in_words(), flush=True)
            all_sound &= findings.is_sound
            helps |= not (findings.is_sound or findings.problem or config.repair)
            half_written += findings.half_written
    if not all_sound:
        print(f"damaged{'; repair=true takes out such rows' if helps else ''}")
        raise SystemExit(1)
    lost = f", but for {half_written} half-written rows: the next run embeds them again"
    print(f"sound{lost if half_written else ''}")


def parse(argv: list[str] | None) -> CheckConfig:
    parser, args = _parsed(CheckConfig, argv)
    config = built(parser, CheckConfig, None, [*args.overrides, "store=STORE"])
    return replace(config, store=args.place)


def _parsed(
    cls: type, argv: list[str] | None
) -> tuple[argparse.ArgumentParser, argparse.Namespace]:
    parser = program_parser(cls)
    parser.add_argument("place", metavar="DATA|CONFIG|STORE", type=os.path.expanduser)
    return parser, parse_words(parser, argv)


def _of_stage2(argv: list[str] | None, path: Path) -> Checked:
    parser, args = _parsed(Stage2CheckConfig, argv)
    config = built(parser, Stage2CheckConfig, path, args.overrides)
    output_dir = config.check.output_dir or Path(config.run.output_dir, CHECK)
    processor = load_item_processor(config.model, config.inputs)
    most, seed = config.inputs.max_image_pixels, config.run.seed
    return Checked(config.data, config.check, Path(output_dir), processor, most, seed)


def _of_set(argv: list[str] | None, root: Path) -> Checked:
    """Of all tasks of a prepared set, what is held out among it."""
    parser, args = _parsed(SetCheckConfig, argv)
    config = built(parser, SetCheckConfig, None, [*args.overrides, "root=SET"])
    prepared = PreparedSet.of(root)
    if prepared is None or not prepared.rows:
        raise ConfigError(f"root: {root} has no tasks in its set.json")
    tasks = [name for name, sizes in prepared.rows.items() if sizes.get("train")]
    data = PairData(str(root), sources={name: PairSource() for name in tasks or prepared.rows})
    output_dir = Path(config.check.output_dir or root / CHECK)
    processor, inputs = None, config.inputs
    if config.model is not None:
        model = ModelConfig(config.model)
        if Path(config.model).suffix in YAML:
            trained = build_config(TuneConfig, Path(config.model))
            model, inputs = trained.model, _over(trained.inputs, inputs)
        processor = load_item_processor(model, inputs)
    return Checked(data, config.check, output_dir, processor, inputs.max_image_pixels)


def _over(inputs: InputConfig, given: InputConfig) -> InputConfig:
    """A configuration's settings, where none is given beside it."""
    usual = asdict(InputConfig())
    return replace(inputs, **{k: v for k, v in asdict(given).items() if v != usual[k]})


def asked(path: Path) -> Iterator[HeldItem]:
    """What an evaluation's tasks ask, and their right answers."""
    config = build_config(EvalConfig, path)
    source = EvalSource(config.data)
    for name, task in load_suite(config.data.suite, config.data.tasks).items():
        loaded = task.read(name, source)
        right = {place for relevant in loaded.relevance for place in relevant}
        yield from ((f"{name}, query {n}", item) for n, item in enumerate(loaded.queries))
        yield from ((f"{name}, target {n}", loaded.targets[n]) for n in sorted(right))


if __name__ == "__main__":
    run_program(main)
