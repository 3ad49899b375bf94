"""Computes the teacher's embedding of every text of stage 1, once, into a memory-mapped store.

    python -m data_prep.teacher_embeddings --config configs/teacher/nli.yaml [key=value …]

The teacher is any sentence-transformers model: a hub id, a local folder, or ``pypi:<module>`` for
one that comes inside an installed Python package. Interrupted, it goes on where it stopped; with
more texts than before it computes only the new ones.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from tqdm import tqdm

from unime.config import TeacherConfig, load_config
from unime.data.teacher_store import TeacherMeta, note_cut, write_store
from unime.data.text_limits import longer_than, own_positions, set_text_limit
from unime.data.texts import read_texts
from unime.errors import ConfigError, require_package
from unime.models.sentence_layout import packaged_model
from unime.runtime.program import run_program
from unime.runtime.progress import progress_bar

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

NAMED = 5  # rows of cut texts that are named; the file has all
BATCHES_PER_BLOCK = 16  # batches between two saves; texts are sorted by length within a block


def main(argv: list[str] | None = None) -> None:
    config = load_config(TeacherConfig, argv)
    found = read_texts(config.texts, config.columns)
    model = load_teacher(config)
    dimension = model.get_embedding_dimension()
    if dimension is None:
        raise ConfigError(f"name: {config.name!r} does not say how wide its embeddings are")
    own_limit = set_text_limit(model, None)
    cut_at = set_text_limit(model, config.max_text_tokens)
    cut = [found.row_ids[n] for n in longer_than(model, found.texts, config.prompt, cut_at)]
    set_limit = None if cut_at == own_limit else cut_at
    meta = TeacherMeta(
        config.name, config.revision, config.prompt, dimension, max_text_tokens=set_limit
    )
    total = len(found.texts)
    with progress_bar(total=total, desc="teacher embeddings", unit="text") as bar:
        computed = write_store(
            config.output_dir,
            found.texts,
            meta,
            lambda texts: embed_texts(model, config, texts),
            block_size=config.batch_size * BATCHES_PER_BLOCK,
            progress=lambda done: _show(bar, done),
        )
    print(
        f"{config.output_dir}: {total} texts ({found.num_duplicates} duplicates left out), "
        f"{computed} computed now, {dimension} dimensions"
    )
    listed = note_cut(config.output_dir, cut_at, cut)
    if cut:
        named = ", ".join(cut[:NAMED]) + (", …" if len(cut) > NAMED else "")
        more = own_positions(model) or 0
        hint = f"; max_text_tokens={more} reads more" if more > (cut_at or more) else ""
        print(
            f"cut: {len(cut)} of {total} texts are longer than the {cut_at} tokens that the teacher"
            f" reads, of which it sees no more: {named} (all of them: {listed}){hint}"
        )


def load_teacher(config: TeacherConfig) -> SentenceTransformer:
    """The configured teacher, from the hub, a folder or a package (``pypi:``).

    Raises:
        ConfigError: there is no such model, it cannot be loaded, or a package is missing.
    """
    require_package("sentence_transformers", "train", "the teacher")
    from sentence_transformers import SentenceTransformer

    name = config.name
    if name.startswith("pypi:"):
        name = str(packaged_model(name.removeprefix("pypi:")))
    try:
        return SentenceTransformer(
            name, revision=config.revision, trust_remote_code=config.trust_remote_code
        )
    except (OSError, ValueError, ImportError) as error:
        raise ConfigError(f"name: cannot load the teacher {config.name!r}: {error}") from None


def embed_texts(model: SentenceTransformer, config: TeacherConfig, texts: list[str]) -> np.ndarray:
    """The teacher's embeddings of texts, with the configuration's prompt: (n, T), of unit norm."""
    return model.encode(
        texts,
        batch_size=config.batch_size,
        prompt=config.prompt,  # also when empty: never the model's own default prompt
        normalize_embeddings=True,
        convert_to_numpy=True,
        show_progress_bar=False,
    )


def _show(bar: tqdm, done: int) -> None:
    if bar.n == 0 and done:
        bar.initial = bar.n = done  # what was there already is not part of the rate
        bar.refresh()
    bar.update(done - bar.n)


if __name__ == "__main__":
    run_program(main)
