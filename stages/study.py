"""A study: recipes, seeds and a grid of settings, each combination trained and evaluated once.

    ./launch.sh study recipes                       configs/study/recipes.yaml
    ./launch.sh study recipes --dry-run             what its cells are, and which are done
    ./launch.sh study recipes workers=2 'seeds=[0]' base=configs/study/bases/mmeb_qwen2-vl-2b.yaml

Every cell is a chain of commands that are shown and can be typed by hand: stage 1, stage 2, the
evaluation. What cells have in common is run once, whichever study asked for it, and what is done is
never run again as long as settings, code, model and data are the same. Killed or stopped, the same
command goes on. A cell that fails is a row with the reason and ends no other; retry=true runs it
again. Written into OUTPUT_DIR/NAME: table.parquet (a row a cell), comparison.md and .json, figures/
and, of each recipe's first seed, report.html.
"""

from __future__ import annotations

import os
import shlex
import sys
from argparse import ArgumentParser
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from eval.study.marks import DONE, FAILED, Mark, Marks
from eval.study.outcome import write_outcome
from eval.study.plan import Cell, Step, cells_of
from eval.study.rows import row_of
from eval.study.running import LOGS, Runner, environments, with_ranks
from eval.study.settings import STUDIES, BaseConfig, StudyConfig, preparations
from eval.study.table import TABLE, write_table
from unime.config import build_config, dump_config
from unime.config.loader import built, parse_words, program_parser
from unime.errors import ConfigError
from unime.runtime.environment import git_commit, write_facts
from unime.runtime.folder_lock import lock_folder
from unime.runtime.interruption import heed_sigterm
from unime.runtime.program import run_program

ROOT = Path(__file__).resolve().parent.parent


def main(argv: list[str] | None = None) -> None:
    os.chdir(ROOT)
    heed_sigterm()
    name, study, is_dry = parse(argv)
    base = build_config(BaseConfig, Path(study.base))
    base.environment = with_ranks(study.workers, base.environment)
    if is_dry:
        show_environment(study, base)
        if not show(cells_of(study, base), Marks(Path(study.output_dir))):
            sys.exit(1)
        return
    planned = cells_of(study, base, with_files=False)  # before the data are made
    if all(cell.problem for cell in planned):
        raise ConfigError(f"no cell can run: {planned[0].title}: {planned[0].problem}")
    folder = Path(study.output_dir)
    lock_folder("output_dir", folder)
    commit = git_commit()
    write_facts(folder / name, dump_config(study), commit)
    runner = Runner(folder, environments(study.workers, base.environment), commit, study.retry)
    runner.prepare(preparations(study, base))
    cells = cells_of(study, base)
    progress = Progress(name, cells, runner)
    progress.write()
    try:
        runner.run(progress.steps, progress.ended)
    finally:
        progress.write()
    write_outcome(folder / name, name, study, progress.rows())
    sys.exit(progress.finish())


def parse(argv: list[str] | None) -> tuple[str, StudyConfig, bool]:
    """The study's name, its settings, and whether it is only looked at."""
    parser: ArgumentParser = program_parser(StudyConfig)
    parser.add_argument("study", metavar="NAME|FILE", help=f"a name in {STUDIES}, or a file")
    parser.add_argument("--dry-run", action="store_true", help="list the cells and run nothing")
    args = parse_words(parser, argv)
    path = Path(os.path.expanduser(args.study))
    if path.suffix != ".yaml":
        path = STUDIES / f"{args.study}.yaml"
    if not path.is_file():
        known = ", ".join(sorted(found.stem for found in STUDIES.glob("*.yaml")))
        parser.exit(2, f"error: no such study: {args.study}; a file, or one of {known}\n")
    return path.stem, built(parser, StudyConfig, path, args.overrides), args.dry_run


def show_environment(study: StudyConfig, base: BaseConfig) -> None:
    """What goes before the commands when they are typed by hand."""
    if base.environment:
        print("export " + " ".join(f"{k}={shlex.quote(v)}" for k, v in base.environment.items()))
    for name, command in preparations(study, base).items():
        print(f"{shlex.join(command)}  # {name}")


def show(cells: Sequence[Cell], marks: Marks) -> bool:
    """Every cell and what is done of it; every command once. Returns whether all can run."""
    states = [marks.state(cell) for cell in cells]
    shared = Counter(step.name for cell in cells for step in cell.steps)
    for number, (cell, (status, reason)) in enumerate(zip(cells, states, strict=True), 1):
        done = sum((m := marks.of(s)) is not None and m.status == DONE for s in cell.steps)
        why = f" ({reason})" if reason else ""
        print(f"[{number}/{len(cells)}] {cell.title}: {status}, {done} of {len(cell.steps)}{why}")
        for step in cell.steps:
            if shared[step.name] > 0:
                several = f"  # for {shared[step.name]} cells" * (shared[step.name] > 1)
                print(f"    {shlex.join(step.command)}{several}")
            shared[step.name] = 0
    counts = Counter(status for status, _ in states)
    found = {step.name: step for cell in cells for step in cell.steps}
    todo = sum((m := marks.of(s)) is None or m.status != DONE for s in found.values())
    print(", ".join(f"{count} {status}" for status, count in counts.items()))
    print(f"{len(found)} commands, of which {todo} are to be run")
    return not any(cell.problem for cell in cells)


class Progress:
    """What became of a study's cells, on the terminal and in its table."""

    def __init__(self, name: str, cells: Sequence[Cell], runner: Runner) -> None:
        self.name, self.cells, self.runner = name, cells, runner
        self.marks = Marks(runner.folder)
        found = {step.name: step for cell in cells for step in cell.steps}
        self.steps = list(found.values())
        self.users = Counter(step.name for cell in cells for step in cell.steps)
        for cell in cells:
            if cell.problem:
                print(f"cannot run: {cell.title}: {cell.problem}")
        print(f"{len(cells)} cells, {len(self.steps)} commands")

    def ended(self, step: Step, mark: Mark) -> None:
        done = sum(self.marks.state(cell)[0] == DONE for cell in self.cells)
        why = f": {mark.reason}" if mark.reason else ""
        print(
            f"{mark.status} after {mark.seconds:.0f} s{why}\n  {shlex.join(step.command)}\n"
            f"  {done} of {len(self.cells)} cells are done",
            flush=True,
        )
        if step.kind == "eval" or mark.status == FAILED:
            self.write()

    def rows(self) -> list[dict[str, object]]:
        return [row_of(cell, self.name, self.marks) for cell in self.cells]

    def write(self) -> None:
        write_table(self.runner.folder / self.name / TABLE, self.rows())

    def finish(self) -> int:
        """List what failed; returns the exit status."""
        failed = [pair for pair in zip(self.cells, self.rows(), strict=True)
                  if pair[1]["status"] != DONE]  # fmt: skip
        for cell, row in failed:
            print(f"{row['status']}: {cell.title}: {row['reason']}")
        if failed:
            logs = self.runner.folder / LOGS
            print(f"{len(failed)} of {len(self.cells)} cells are not done; logs: {logs};"
                  " retry=true runs what failed again")  # fmt: skip
        print(f"written: {self.runner.folder / self.name}")
        return 1 if failed else 0


if __name__ == "__main__":
    run_program(main)
