"""Writes a miniature of every benchmark where the shipped suites look for it: MMEB in both
encodings, the video and document tasks of MMEB-V2, UniME's retrieval suite and SugarCrepe.

    ./launch.sh prepare miniatures data/miniatures
    ./launch.sh eval configs/eval/miniatures.yaml
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from omegaconf import OmegaConf

from eval.miniatures.captions import write_retrieval_sets
from eval.miniatures.documents import write_beir
from eval.miniatures.mmeb import tasks_in_both_encodings, write_rows
from eval.miniatures.videos import write_video_tasks
from eval.tasks.beir import Beir
from eval.tasks.mmeb_instruct import MmebInstructRows
from eval.tasks.suites import load_suite
from unime.config.settings import is_path
from unime.errors import require
from unime.runtime.folder_lock import new_folder
from unime.runtime.program import run_program

SUITES = Path(__file__).parents[2] / "configs/suites"
CONFIG = SUITES.parent / "eval/miniatures.yaml"


def write_miniatures(root: Path, queries: int = 4) -> None:
    """Everything below `root`, which must not be there yet."""
    write_images(root, queries)
    write_video_tasks(root, queries)
    write_documents(root)
    write_retrieval_sets(root)


def write_images(root: Path, queries: int = 4) -> None:
    """MMEB's tasks in both encodings, each with the rows that its parser reads."""
    written = tasks_in_both_encodings(root, queries)
    (root / "eval_images").symlink_to("image-tasks")  # where those of the first encoding lie
    by_parser = {(task.reads.parser, task.reads.blank_line): task for task in written.values()}
    for name, task in load_suite(str(SUITES / "mmeb_instruct.yaml")).items():
        rows = task.format
        assert isinstance(rows, MmebInstructRows)
        twice = by_parser[rows.parser, rows.blank_line]
        write_rows(root, name, "test", twice.v1)
        write_rows(root / str(rows.repository), name, "test", twice.instruct)


def write_documents(root: Path) -> None:
    """A small corpus for each repository of documents; ids are numbers in some, texts in others."""
    for number, task in enumerate(load_suite(str(SUITES / "mmeb_v2_visdoc.yaml")).values()):
        triple = task.format
        assert isinstance(triple, Beir)
        folder = root / str(triple.repository)
        if not folder.exists():  # two tasks may share one
            write_beir(folder, split=triple.split, texts=bool(number % 2))


def main(words: list[str]) -> None:
    if len(words) != 1 or words[0].startswith("-"):
        raise SystemExit(__doc__)
    require(is_path(words[0]), "FOLDER", words[0], "a path")
    with new_folder("FOLDER", Path(os.path.expanduser(words[0]))) as aside:
        write_miniatures(aside)
    data = OmegaConf.load(CONFIG).data
    print(f"written: {words[0]} ({CONFIG.name} looks in {data.root})")


if __name__ == "__main__":
    run_program(lambda: main(sys.argv[1:]))
