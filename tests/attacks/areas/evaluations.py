"""Attacks that the evaluation's program meets from end to end: what it keeps and writes."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from tests.attacks.damage import Deeds, link, no_json, not_a_file, remove, renamed, write
from tests.attacks.harness import Area, Attack, each, nothing
from tests.attacks.victims import ADAPTER, EXACT, MODEL, build_evaluation, evaluation

WEIGHTS = f"{MODEL}/model.safetensors"
LAYER = f"{ADAPTER}/00-rank8"
TUNED = {"model": {"name": MODEL, "adapter": ADAPTER, **EXACT}}
SHOWN = "data/eval_images/eval_pictures/0.png"
Results = dict[str, dict[str, Any]]


def build() -> None:
    build_evaluation()
    write("truth.json", json.dumps({name: own["values"] for name, own in evaluation().items()}))
    shutil.rmtree("out")
    shutil.rmtree("store")


def twice() -> Results:
    """After a first evaluation with the adapter and a change of it, the same command."""
    return evaluation(**TUNED)


def replaced(where: str) -> Any:
    """The adapter's weights, which lie where a link leads, are others after a first evaluation."""

    def act() -> None:
        if where == "folder":
            shutil.copytree(LAYER, "../here/elsewhere")
            link(LAYER, "elsewhere")
        elif where == "file":
            os.rename(f"{LAYER}/adapter_model.safetensors", "elsewhere.safetensors")
            os.symlink(
                os.path.abspath("elsewhere.safetensors"), f"{LAYER}/adapter_model.safetensors"
            )
        before = {name: own["settings_fingerprint"] for name, own in evaluation(**TUNED).items()}
        write("before.json", json.dumps(before))
        path = Path(f"{LAYER}/adapter_model.safetensors").resolve()
        found = load_file(path)
        other = {name: -3 * tensor for name, tensor in found.items() if "lora_A" in name}
        save_file(found | other, path)

    return act


def kept(found: Results) -> str | None:
    """The old model's vectors under the new one's name."""
    before = json.loads(Path("before.json").read_text())
    stale = [name for name, own in found.items() if own["settings_fingerprint"] == before[name]]
    return f"kept results of other weights: {', '.join(stale)}" if stale else None


def other_scores(found: Results) -> str | None:
    truth = json.loads(Path("truth.json").read_text())
    other = [name for name in truth if found.get(name, {}).get("values") != truth[name]]
    return f"other scores: {', '.join(other)}" if other else None


def degenerate(found: Results) -> str | None:
    return f"scores of a model without vectors: {', '.join(found)}" if found else None


def weights(change: Any) -> Any:
    def act() -> None:
        found = {name: change(tensor) for name, tensor in load_file(WEIGHTS).items()}
        save_file(found, WEIGHTS, {"format": "pt"})

    return act


def suite(text: str) -> Any:
    return lambda: write("suite.yaml", text)


def evaluated_first(deed: Any) -> Any:
    return lambda: (evaluation(), deed())


def picture(content: Any) -> Any:
    return lambda: (remove(SHOWN), content())


OUT: Deeds = {
    **{f"result-{n}": evaluated_first(d) for n, d in no_json("out/Names.json").items()},
    **{f"result-{n}": evaluated_first(d) for n, d in not_a_file("out/Names.json").items()},
    "result-gone": evaluated_first(lambda: remove("out/Names.json")),
    "out-file": lambda: write("out", "x"),
    "lines-folder": lambda: Path("out/image/Names_pred.jsonl").mkdir(parents=True),
    "result-linked": lambda: (
        Path("out").mkdir(),
        os.symlink("../../outside/notes.txt", "out/Names.json"),
    ),
    "lines-linked": lambda: (
        Path("out/image").mkdir(parents=True),
        os.symlink("../../../outside/notes.txt", "out/image/Names_pred.jsonl"),
    ),
    "config-linked": lambda: (
        Path("out").mkdir(),
        os.symlink("../../outside/notes.txt", "out/config.yaml"),
    ),
    "store-file": lambda: write("store", "x"),
}
SUITES: Deeds = {
    "modality-up": suite("Names: {meta_task: vqa, modality: '..'}\n"),
    "modality-up-twice": suite("Names: {meta_task: vqa, modality: '../..'}\n"),
    "modality-of-the-store": suite("Names: {meta_task: vqa, modality: embeddings}\n"),
    "task-up": suite("'..': {meta_task: vqa, subset: Names}\n"),
    "subset-up": suite("Names: {meta_task: vqa, subset: ../outside}\n"),
    "subset-absolute": suite("Names: {meta_task: vqa, subset: /tmp}\n"),
    "split-up": suite("Names: {meta_task: vqa, split: ../../outside/x}\n"),
    "repository-up": suite("Names: {meta_task: vqa, repository: ../outside}\n"),
}
PICTURES: Deeds = {
    "picture-linked": lambda: link(SHOWN, "../outside/model/config.json"),
    "picture-linked-elsewhere": picture(
        lambda: (shutil.copyfile("picture.png", "elsewhere.png"), link(SHOWN, "elsewhere.png"))
    ),
    **renamed("picture", not_a_file(SHOWN)),
}


def attacks() -> list[Attack]:
    plain = {"control": nothing}
    names = ("out", "store", "Names", "suite.yaml", "output_dir")
    zeros = weights(torch.zeros_like)
    ways = {where: replaced(where) for where in ("in-place", "folder", "file")}
    return [
        *each(plain | OUT, evaluation, names, other_scores),
        *each(SUITES, evaluation, (*names, "data")),
        *each(PICTURES, evaluation, ("eval_pictures/0.png",), degenerate),
        *each(renamed("adapter-replaced", ways), twice, (ADAPTER, "model.adapter"), kept),
        *each(
            {"weights-zero": zeros, "weights-nan": weights(lambda t: t * float("nan"))},
            evaluation,
            ("query", "items", MODEL, "model.name"),
            degenerate,
        ),
    ]


AREA = Area("evaluations", build, attacks, ("modality-up",))
