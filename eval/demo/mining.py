"""How well mining's rules find the false negatives of the demo's data, which are known, and what
share of its negatives is true, beside those of a batch.

    python -m eval.demo.mining OUTPUT.json [ADAPTER [SECOND_ADAPTER]] [key=value …]

ADAPTER is a run's final/ (none: the base alone), SECOND_ADAPTER another's, which cross-checks; what
follows are settings of an evaluation. Embeddings stay in OUTPUT's folder, so that it goes on after
a stop. Prints Markdown.
"""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor

from eval.demo.mined import BATCH, WINDOW, Counts, Marked, judge_batches, judge_mined, judge_rules
from unime.config import EvalConfig, Stage2Config, build_config
from unime.data.datasets import PairDataset
from unime.data.tables import load_table
from unime.mining.corpus import Corpus
from unime.retrieval.encoding import DistinctItems, distinct_items
from unime.retrieval.stored import StoredModel
from unime.runtime.environment import git_commit
from unime.runtime.files import write_json
from unime.runtime.program import run_program


def load(config: Stage2Config, models: Sequence[StoredModel]) -> Iterator[Marked]:
    """The demo's training tasks, embedded."""
    for name in config.data.sources:
        data = config.data
        subset = PairDataset.load(
            build_config(
                Stage2Config,
                Path("configs/demo/stage2.yaml"),
                [f"data.sources={{{name}: {{}}}}", "data.verify_images=false"],
            ).data,
            0,
        )
        pairs = list(subset)
        table = load_table(data.root, name, "original", None, ("answer_key",), ())
        keys = [row["answer_key"] for row in table.read()]
        numbers = {key: number for number, key in enumerate(dict.fromkeys(keys))}
        items = [*(pair.query for pair in pairs), *(pair.target for pair in pairs)]
        accelerator = models[0].accelerator
        distinct = distinct_items(accelerator, items)
        corpus = Corpus.of(pairs)
        sides = [_sides(model, distinct, name) for model in models]
        vectors = [(asked[corpus.first_rows], wanted[corpus.row_of]) for asked, wanted in sides]
        answers = torch.tensor([numbers[key] for key in keys])
        yield Marked(name, pairs, answers, corpus, vectors, sides[0])


def _sides(model: StoredModel, distinct: DistinctItems, name: str) -> tuple[Tensor, Tensor]:
    """The embeddings of all rows' queries and targets (N, D)."""
    model.encode(distinct, model.missing(distinct), name)
    assert model.store is not None
    queries, targets = model.store.embeddings(distinct.keys)[distinct.index].tensor_split(2)
    return queries, targets


def rule_table(counts: Counts) -> str:
    lines = [
        "| rule, alone | candidates | false | dropped | precision | recall |",
        "|" + " --- |" * 6,
    ]
    for name, (there, false, dropped, both) in ((n, c.tolist()) for n, c in counts.items()):
        precision, recall = (f"{both / of:.3f}" if of else "–" for of in (dropped, false))
        lines.append(f"| {name} | {there:,} | {false:,} | {dropped:,} | {precision} | {recall} |")
    return "\n".join(lines)


def negative_table(sums: dict[str, Tensor]) -> str:
    lines = [
        "| negatives of a row | different | different and true | true of those there are |"
        " similarity of the true | true within 0.1 of the positive |",
        "|" + " --- |" * 6,
    ]
    for name, (places, filled, true, scores, near) in ((n, s.tolist()) for n, s in sums.items()):
        shares = [f"{100 * part / places:.1f} %" for part in (filled, true)]
        shares += [f"{100 * true / max(filled, 1):.1f} %", f"{scores / max(true, 1):.3f}"]
        lines.append(f"| {name} | {' | '.join(shares)} | {100 * near / places:.1f} % |")
    return "\n".join(lines)


def main(words: list[str]) -> None:
    """Judge, print and write."""
    if not words or words[0].startswith("-"):
        raise SystemExit(__doc__)
    settings = [word for word in words if "=" in word]
    output, *adapters = [word for word in words if "=" not in word]
    folder = Path(output).resolve().parent / "mining_embeddings"
    accelerator, commit = Accelerator(cpu=True), git_commit()
    configs = [
        build_config(
            EvalConfig,
            Path("configs/demo/eval.yaml"),
            [f"output_dir={folder}", f"model.adapter={adapter}", *settings],
        )
        for adapter in (adapters or ["null"])
    ]
    models = [StoredModel(config, accelerator) for config in configs]
    stage2 = build_config(Stage2Config, Path("configs/demo/stage2.yaml"))
    rules: Counts = defaultdict(lambda: torch.zeros(4, dtype=torch.long))
    negatives: dict[str, Tensor] = defaultdict(lambda: torch.zeros(5, dtype=torch.double))
    by_task: dict[str, Any] = {}
    for model in models:
        model.open()
    for task in load(stage2, models):
        print(task.name, file=sys.stderr, flush=True)
        own_rules, own = judge_rules(task), judge_mined(task)
        for margin, name in ((0.1, "of the batch, UniME's margin 0.1"), (None, "of the batch")):
            own = {name: judge_batches(task, margin)} | own
        for name, four in own_rules.items():
            rules[name] += four
        for name, five in own.items():
            negatives[name] += five
        by_task[task.name] = {
            "rules": {name: four.tolist() for name, four in own_rules.items()},
            "negatives": {name: five.tolist() for name, five in own.items()},
        }
    for model in models:
        with closing(model):
            pass
    print(f"{rule_table(rules)}\n\n{negative_table(negatives)}")
    facts = {"commit": commit, "models": adapters, "window": WINDOW, "batch": BATCH}
    write_json(Path(output), facts | {"tasks": by_task})


if __name__ == "__main__":
    run_program(lambda: main(sys.argv[1:]))
