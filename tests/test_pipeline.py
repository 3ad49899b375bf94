"""Every family from end to end: stages, evaluation, export, and sentence-transformers' vectors.

    ./launch.sh test tests/test_pipeline.py                       three families of the default run
    ./launch.sh test -m backbones                                 and all the others
    UNIME_BACKBONES_RESULTS=docs/results/backbones.json …         also writes what was measured

A family that is added needs an entry in unime/backbones/families.py, a tiny model, and its name in
ALL (tests/support/tiny/models.py).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from sentence_transformers import SentenceTransformer

from eval import evaluate
from eval.miniatures.mmeb import write_eval_suite, write_picture
from stages import export
from tests.support.embedding import difference, embed, exact_model
from tests.support.launching import add_results
from tests.support.material import metrics, stage1, stage2, write_material
from tests.support.tiny.models import ALL, lora_parts
from unime.backbones.layers import is_quantised
from unime.config import InputConfig, LoraSettings, Quantization
from unime.inputs.images import load_image
from unime.inputs.items import Item
from unime.models.encoder import Encoder
from unime.models.item_processor import FRAMES_PER_SECOND

QUICK = ("llava_onevision", "qwen2_vl", "smolvlm")
EVERY = [
    family if family in QUICK else pytest.param(family, marks=pytest.mark.backbones)
    for family in (*ALL, "phi3_v")
]
SHORT = ("optim.steps=3", "run.save_every=3", "inputs.num_frames=4")


def record(family: str, **found: Any) -> None:
    add_results("UNIME_BACKBONES_RESULTS", family, found)


@pytest.fixture(scope="module")
def kinds(pictures: list[str], tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Item]]:
    """Two items of each kind, of different lengths and sizes."""
    folder, (_, a, b, c, _) = tmp_path_factory.mktemp("frames"), pictures
    drawn = [str(write_picture(folder / f"{number}.png", number)) for number in range(8)]
    frames = [tuple(drawn[:4]), tuple(drawn[4:])]
    long = "Which of the two is larger, and what is it for? Say it in one sentence."
    return {
        "text": [Item("a cat"), Item(long)],
        "image": [Item(images=(a,)), Item(images=(b,))],
        "image+text": [Item("what is it?", (c,)), Item(long, (b,))],
        "several images": [Item(long, (a, c)), Item("compare", (b, a))],
        "video": [Item(video=frames[0]), Item("what happens?", video=frames[1])],
    }


def as_inputs(items: list[Item], native_video: bool) -> list[Any]:
    """As sentence-transformers takes them."""

    def load(paths: tuple[str, ...]) -> list[Image.Image]:
        return [load_image(path, InputConfig().max_image_pixels) for path in paths]

    found: list[Any] = []
    for item in items:
        given: dict[str, Any] = {"text": item.text} if item.text else {}
        if item.images:
            given["image"] = load(item.images) if len(item.images) > 1 else load(item.images)[0]
        if item.video and not native_video:
            given["image"] = load(item.video)
        elif item.video:
            count = len(item.video)
            times = {"fps": FRAMES_PER_SECOND, "total_num_frames": count}
            times |= {"frames_indices": list(range(count)), "duration": count / FRAMES_PER_SECOND}
            given["video"] = {"array": load(item.video), "video_metadata": times}
        found.append(given if len(given) > 1 or not item.text else item.text)
    return found


def distances(encoder: Encoder, kinds: dict[str, list[Item]]) -> dict[str, float]:
    """Of each kind's items alone from the same in one batch with all others."""
    everything = [item for items in kinds.values() for item in items]
    together, start, found = embed(encoder, everything), 0, {}
    for kind, items in kinds.items():
        alone = torch.cat([embed(encoder, [item]) for item in items])
        found[kind] = difference(alone, together[start : start + len(items)])
        start += len(items)
    return found


def gradient(encoder: Encoder, items: list[Item]) -> float:
    """The norm of the adapters' gradient of what tells two items apart."""
    encoder.train().zero_grad()
    samples = [encoder.processor(item) for item in items]
    vectors = encoder([batch for _, batch in encoder.processor.parts(samples)])
    (vectors[0] @ vectors[1]).backward()
    named = encoder.trainable_named_parameters()
    total = sum(p.grad.square().sum() for _, p in named if p.grad is not None)
    assert torch.isfinite(total) and total > 0
    return float(total.sqrt())


@pytest.mark.parametrize("family", EVERY)
def test_a_family(family: str, kinds: Any, tiny_model: Any, tmp_path: Path) -> None:
    own_code = family == "phi3_v"
    model = tiny_model(family)
    write_material(tmp_path, model)
    trust = f"model.trust_remote_code={str(own_code).lower()}"

    # both stages, on 4-bit weights
    first = stage1(tmp_path, "first", trust, *SHORT)
    train = lora_parts(family)
    second = stage2(
        tmp_path, "second", trust, *SHORT,
        f"model.adapter={first}/final", f"lora.train=[{','.join(train)}]",
    )  # fmt: skip
    for run in (first, second):
        assert all(np.isfinite(line["loss"]) and line["grad_norm"] > 0 for line in metrics(run))

    # evaluation, with the inputs of training by default
    write_eval_suite(tmp_path / "eval", tmp_path / "suite.yaml")
    (tmp_path / "eval.yaml").write_text(
        f"output_dir: {tmp_path}/results\n"
        f"model: {{name: {model}, adapter: {second}/final, precision: float32}}\n"
        f"data: {{root: {tmp_path}/eval, suite: {tmp_path}/suite.yaml}}\nbatch_size: 4\n"
    )
    evaluate.main(["--config", str(tmp_path / "eval.yaml"), trust])
    results = [json.loads(path.read_text()) for path in (tmp_path / "results").glob("*.json")]
    assert len(results) == 3 and all(result["inputs"]["prompt"] == "unime" for result in results)

    # vectors of an item alone and among others
    trusts = {"trust_remote_code": own_code}
    nf4 = Quantization.nf4
    config = exact_model(model, adapter=f"{second}/final", quantization=nf4, **trusts)
    encoder = Encoder.load(config, InputConfig())
    alone = distances(encoder, kinds)
    assert max(alone.values()) < 1e-5
    layers = sum(is_quantised(module) for module in encoder.modules())
    assert layers > 0
    learner = Encoder.load(config, InputConfig(), lora=LoraSettings(rank=2, train=train))
    learned = {kind: gradient(learner, items) for kind, items in kinds.items()}
    record(family, alone=alone, learned=learned, trained=train, video=encoder.backbone.video)

    # exported, and loaded by unime and by sentence-transformers
    words = ["trust_remote_code=true"] if own_code else []
    export.main([str(second), str(tmp_path / "out"), *words])
    again = Encoder.load(exact_model(tmp_path / "out", **trusts), InputConfig())
    expected = {
        kind: torch.cat([embed(again, [item]) for item in items]) for kind, items in kinds.items()
    }
    rounded = max(difference(embed(encoder, kinds[kind]), expected[kind]) for kind in kinds)
    assert rounded < 1e-4  # the de-quantised weights and adapters are summed otherwise
    record(family, exported=rounded)
    theirs = sentence_transformers(tmp_path / "out", again, kinds, expected)
    record(family, sentence_transformers=theirs)


def sentence_transformers(
    folder: Path, encoder: Encoder, kinds: dict[str, list[Item]], expected: dict[str, torch.Tensor]
) -> dict[str, Any]:
    """The difference of each kind, and of all in one batch, or why there is none."""
    limits: dict[str, Any] = dict(encoder.backbone.st_limits)
    if "all" in limits:
        return limits
    model = SentenceTransformer(str(folder), device="cpu", trust_remote_code=True)
    usable = {kind: items for kind, items in kinds.items() if kind not in limits}
    batches = usable | {"mixed": [item for items in usable.values() for item in items]}
    vectors = expected | {"mixed": torch.cat([expected[kind] for kind in usable])}
    found: dict[str, Any] = dict(limits)
    for kind, items in batches.items():
        if kind in limits:
            continue
        given = as_inputs(items, encoder.backbone.video)
        theirs = model.encode(given, batch_size=len(given), convert_to_tensor=True)
        found[kind] = difference(theirs, vectors[kind])
        assert found[kind] < 1e-5, kind
    return found
