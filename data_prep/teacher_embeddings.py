"""Computes the teacher's embedding of every text of stage 1, once, into a memory-mapped store.

    python -m data_prep.teacher_embeddings --config configs/teacher/nli.yaml [key=value …]

The teacher is any sentence-transformers model: a hub id, a local folder, or ``pypi:<module>`` for
one that comes inside an installed Python package. Or it is asked over the network
(``endpoint=https://…/v1/embeddings``), or has embedded the texts before (``vectors=FILE.npy``).
Interrupted, the program goes on where it stopped; with more texts than before it computes only the
new ones. A store that an earlier version wrote in another layout becomes one of this layout, and
what it holds is not computed again.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

from tqdm import tqdm

from data_prep.teachers.base import Teacher
from data_prep.teachers.endpoint import endpoint_teacher
from data_prep.teachers.sentence_model import sentence_teacher
from data_prep.teachers.vectors import vectors_teacher
from unime.config import TeacherConfig, load_config
from unime.data.teacher_store import write_store
from unime.data.texts import Texts, read_texts
from unime.retrieval.on_ray import map_on_ray
from unime.runtime.folder_lock import lock_folder
from unime.runtime.program import run_program
from unime.runtime.progress import progress_bar


def main(argv: list[str] | None = None) -> None:
    config = load_config(TeacherConfig, argv)
    found = read_texts(config.texts, config.columns)
    lock_folder("output_dir", Path(config.output_dir))  # before a model is loaded for nothing
    teacher = teacher_of(config, found)
    total = len(found.texts)
    with progress_bar(total=total, desc="teacher embeddings", unit="text") as bar:
        computed = write_store(
            config.output_dir,
            found.texts,
            teacher.meta,
            teacher.embed,
            block_size=teacher.block,
            progress=lambda done: _show(bar, done),
            cut=teacher.cut,
            mapped=partial(map_on_ray, config.ray) if config.ray else map,
        )
    print(
        f"{config.output_dir}: {total} texts ({found.num_duplicates} duplicates left out), "
        f"{computed} computed now, {teacher.meta.dimension} dimensions"
    )
    for remark in teacher.remarks():
        print(remark)


def teacher_of(config: TeacherConfig, found: Texts) -> Teacher:
    """The kind of teacher that a configuration names."""
    if config.endpoint is not None:
        return endpoint_teacher(config, found)
    if config.vectors is not None:
        return vectors_teacher(config, found)
    return sentence_teacher(config, found)


def _show(bar: tqdm, done: int) -> None:
    if bar.n == 0 and done:
        bar.initial = bar.n = done  # what was there already is not part of the rate
        bar.refresh()
    bar.update(done - bar.n)


if __name__ == "__main__":
    run_program(main)
