"""One table from the results of several models, with intervals, averages and published rows.

    python -m eval.report --config configs/report/qwen2-vl-2b.yaml [key=value …]

Prints the table and writes it as JSON (`output`), as Markdown (beside it), as a page (`html`) and
for MMEB's leaderboard (`leaderboard`). What each average is a mean of: averages.py. With a result
missing there is no average: the report is refused. Where a model cannot do a task, the averages
that need it have "–".
"""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

from eval.report.build import build_report
from eval.report.leaderboard import write_leaderboard
from eval.report.printing import markdown_report, print_report
from unime.config import ReportConfig, load_config
from unime.errors import require, require_package
from unime.runtime.files import write_aside, write_json, writing
from unime.runtime.folder_lock import locked
from unime.runtime.program import run_program


def main(argv: list[str] | None = None) -> None:
    require_package("rich", "eval", "the report")
    config = load_config(ReportConfig, argv)
    if config.html is not None:
        require_package("sklearn", "eval", "html")
    with ExitStack() as locks:
        for key, path in config.written().items():
            require(not path.is_dir(), key, str(path), "a file, which is a folder already")
            locks.enter_context(locked(key, path.parent))
        write_report(config)


def write_report(config: ReportConfig) -> None:
    """Build the report, write all of its files, and print it."""
    report = build_report(config)
    boards = [config.leaderboard_file(name) for name in config.leaderboard]
    for name, board in zip(config.leaderboard, boards, strict=True):
        with writing(f"leaderboard.{name}", board):
            write_leaderboard(report, name, board, config.leaderboard[name])
    last: list[str] = []
    if config.html is not None:  # first: what is damaged there would leave half a report
        from eval.page.build import write_page  # which needs torch

        models = {name: Path(folder) for name, folder in config.models.items()}
        figures = None if config.figures is None else Path(config.figures)
        last.append(write_page(report, models, Path(config.html), figures=figures))
    output = Path(config.output)
    with writing("output", output):
        write_json(output, report)
        write_aside(output.with_suffix(".md"), markdown_report(report))
    print_report(report)
    written = [output, output.with_suffix(".md"), *boards]
    print("\n".join([*(f"written: {path}" for path in written), *last]))


if __name__ == "__main__":
    run_program(main)
