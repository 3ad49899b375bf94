"""The planner's counts against the real encoder's, and stages.plan as a program.

./launch.sh test tests/planning/test_planner.py
"""

from __future__ import annotations

import json
import runpy
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.gpu.models import planned_encoder, step_config, write_llava_next_7b
from benchmarks.planner import CONFIGS, frozen_bytes, kept_bytes, paper_plans
from stages import plan as plan_program
from unime.config import (
    Engine,
    InputConfig,
    LoraSettings,
    ModelConfig,
    Stage1PlanConfig,
    Stage2PlanConfig,
    build_config,
)
from unime.errors import ConfigError
from unime.inputs.items import Item
from unime.models.adapter_files import DESCRIPTION, VERSION
from unime.models.chat_format import CARRIES_PROMPT
from unime.models.encoder import Encoder
from unime.models.sentence_layout import EXPORTED
from unime.planning.architecture import Architecture, read_architecture
from unime.planning.costs import (
    activation_bytes,
    adapter_parameters,
    gathered_bytes,
    memory_parts,
    step_flops,
)
from unime.planning.planner import item_shapes, load_of_step, make_plan
from unime.runtime.program import run_program

ALL_PARTS = ["llm", "projector", "vision"]
WORDS = " the" * 80


def settings(
    folder: Path,
    train: list[str],
    quantization: str = "none",
    precision: str = "float32",
    *more: str,
) -> Stage2PlanConfig:
    return step_config(
        folder, f"lora.train=[{', '.join(train)}]", f"model.quantization={quantization}",
        f"model.precision={precision}", "lora.rank=4", "lora.alpha=4", "lora.dropout=0",
        "inputs.resolution=28x28", "optim.steps=10", "optim.batch_size_per_device=4",
        "optim.chunk_size=8", "gpus=2", "plan.text_tokens=20", *more,
    )  # fmt: skip


def load(config: Stage2PlanConfig) -> tuple[Encoder, Architecture]:
    return planned_encoder(config).train(), read_architecture(config.model, config.lora)


def inputs_of(encoder: Encoder, folder: Path, items: int) -> dict[str, torch.Tensor]:
    path = folder / "blank.png"
    Image.new("RGB", (40, 40), "white").save(path)
    samples = [encoder.processor(Item(WORDS, (str(path),))) for _ in range(items)]
    return encoder.processor.collate(samples)


@pytest.mark.parametrize("train", [["llm"], ALL_PARTS])
@pytest.mark.parametrize("family", ["llava_next", "qwen2_vl", "qwen3_vl"])
def test_parameters_and_bytes_are_the_encoders(tiny_model, family, train):
    for quantization, precision in (("nf4", "bfloat16"), ("none", "float32")):
        config = settings(tiny_model(family), train, quantization, precision)
        encoder, architecture = load(config)
        trained, frozen = adapter_parameters(config, architecture)
        assert frozen == 0
        assert f"{trained:,} (" in encoder.describe()
        assert f"{architecture.parameters + trained:,} parameters" in encoder.describe()
        expected = architecture.quantised_bytes + architecture.other_bytes
        assert frozen_bytes(encoder) == expected
        assert (architecture.quantised_bytes > 0) is (quantization == "nf4")


def test_of_the_decoder_alone(tiny_model):
    model, lora = ModelConfig(str(tiny_model("llava"))), LoraSettings(rank=8)
    encoder = Encoder.load(model, InputConfig(), lora=lora, decoder_only=True)
    architecture = read_architecture(model, lora, decoder_only=True)
    assert {linear.part for linear in architecture.linears} == {"llm"}
    assert frozen_bytes(encoder) == architecture.quantised_bytes + architecture.other_bytes


def test_sizes_of_the_loss(tiny_model):
    """Each has its embeddings and its matrix; what the model does not have is refused."""
    sizes, parts = "loss.matryoshka_dimensions=", []
    for word in ([], [f"{sizes}[8, 4]"]):
        config = settings(tiny_model("qwen2_vl"), ["llm"], "none", "float32", *word)
        parts.append(gathered_bytes(config, read_architecture(config.model, config.lora)))
    pairs, items = 2 * 4, 2 * 2 * 4
    assert parts[1] - parts[0] == 2 * 4 * items * (8 + 4) + 2 * 16 * pairs**2
    with pytest.raises(ConfigError, match="loss.matryoshka_dimensions: got 999"):
        make_plan(settings(tiny_model("qwen2_vl"), ["llm"], "none", "float32", f"{sizes}[999]"))


@pytest.mark.parametrize(
    ("family", "train", "checkpointing"),
    [
        ("llava_next", ALL_PARTS, False),
        ("qwen2_vl", ALL_PARTS, True),
        ("qwen2_vl", ["llm"], False),
        ("qwen3_vl", ALL_PARTS, False),
    ],
)
def test_flops_are_those_of_the_flop_counter(tiny_model, tmp_path, family, train, checkpointing):
    """Forward within a thousandth (class tokens pass no convolution). With the backward pass up to
    5 % too much: in the first trained layer nothing needs the gradient of the input, and LLaVA does
    not read the tower's last layer. Eager attention: the counter knows no fused one on CPU."""
    more = ("model.attention=eager", f"optim.gradient_checkpointing={checkpointing}")
    config = settings(tiny_model(family), train, "none", "float32", *more)
    encoder, architecture = load(config)
    assert encoder.model.config._attn_implementation == "eager"
    inputs = inputs_of(encoder, tmp_path, 4)
    text, image, _ = item_shapes(config, architecture)
    step = replace(load_of_step(config, text, image), texts=0)
    flops = step_flops(config, architecture, step)
    with FlopCounterMode(display=False) as counter:
        embeddings = encoder(inputs)
    assert flops["embedding every item"] == pytest.approx(counter.get_total_flops(), rel=1e-3)
    with FlopCounterMode(display=False) as both:
        embeddings.square().sum().backward()
    measured = counter.get_total_flops() + both.get_total_flops()
    assert measured <= sum(flops.values()) * 1.005 <= 1.05 * measured


@pytest.mark.parametrize("family", ["llava_next", "qwen2_vl", "qwen3_vl"])
def test_activations_are_what_autograd_keeps(tiny_model, tmp_path, family):
    """Within a tenth: the blocks are all that is counted, and heads as if they were repeated."""
    config = settings(tiny_model(family), ALL_PARTS, "nf4", "bfloat16")
    encoder, architecture = load(config)
    text, image, _ = item_shapes(config, architecture)
    chunk = replace(load_of_step(config, text, image), texts=0)
    kept = kept_bytes(encoder, inputs_of(encoder, tmp_path, 4))
    assert activation_bytes(config, architecture, chunk) == pytest.approx(kept, rel=0.1)


def test_items_are_the_processors(tiny_model, tmp_path):
    for family in ("llava_next", "qwen2_vl", "idefics3"):
        config = settings(tiny_model(family), ["llm"])
        architecture = read_architecture(config.model, config.lora)
        _, image, _ = item_shapes(config, architecture)
        inputs = replace(config.inputs, max_text_tokens=20)
        encoder = Encoder.load(replace(config.model), inputs)
        assert image.tokens == inputs_of(encoder, tmp_path, 1)["input_ids"].shape[1]


def test_inputs_are_those_that_a_model_was_trained_with(tiny_model, tmp_path):
    """An export's, then its adapter's; what is set goes before both."""
    folder = tmp_path / "export"
    shutil.copytree(tiny_model("qwen2_vl"), folder)
    described = {"version": 1, "merged": [], "inputs": {"prompt": "chat", "resolution": "56x56"}}
    (folder / EXPORTED).write_text(json.dumps(described))
    template = folder / "chat_template.jinja"
    template.write_text(CARRIES_PROMPT + template.read_text())
    config = settings(folder, ["llm"])
    config.inputs.resolution = None

    def pictures() -> str:
        return item_shapes(config, read_architecture(config.model, config.lora))[2]

    assert pictures().endswith("images of 56×56 pixels")
    run = tmp_path / "run"
    (run / "final").mkdir(parents=True)
    described = {"version": VERSION, "base": {}, "adapters": ["adapter"], "merged": 0,
                 "inputs": {"resolution": "84x84"}}  # fmt: skip
    (run / "final" / DESCRIPTION).write_text(json.dumps(described))
    config.model.adapter = str(run)
    assert pictures().endswith("images of 84×84 pixels")
    config.model.adapter = str(run / "final")
    assert pictures().endswith("images of 84×84 pixels")
    config.inputs.resolution = "28x28"
    assert pictures().endswith("images of 28×28 pixels")


def test_gradient_caching_and_checkpointing_cost_a_pass_each(tiny_model):
    folder = tiny_model("qwen2_vl")
    plain = (folder, ["llm"], "none", "float32")
    once = make_plan(settings(*plain))
    cached = make_plan(settings(*plain, "optim.chunk_size=2", "optim.graph_memory=0"))
    words = ("optim.chunk_size=2", "optim.graph_memory=0", "optim.gradient_checkpointing=true")
    again = make_plan(settings(*plain, *words))
    assert (once.chunks, cached.chunks) == (1, 4)
    forward = once.flops["embedding every item"]
    second = cached.flops["embedding again what kept no graph"]
    assert 0 < second < forward  # the frozen tower sees a picture once
    assert sum(cached.flops.values()) == pytest.approx(sum(once.flops.values()) + second)
    every = [f"lora.train=[{', '.join(ALL_PARTS)}]", "optim.chunk_size=2", "optim.graph_memory=0"]
    trained = make_plan(settings(*plain, *every)).flops
    assert trained["embedding again what kept no graph"] == trained["embedding every item"]
    recomputed = again.flops["recomputed (checkpointing)"]
    assert 0 < recomputed < forward  # the frozen tower is not
    assert again.memory["activations of one chunk"] < cached.memory["activations of one chunk"]


def test_graphs_that_fit_are_kept(tiny_model):
    """As many as the setting, or what is left of the GPU, has room for; where weights are sharded
    none."""
    words = (tiny_model("qwen2_vl"), ["llm"], "none", "float32", "optim.chunk_size=2")
    all_kept = make_plan(settings(*words))
    graph = all_kept.memory["activations of one chunk"]
    assert (all_kept.chunks, all_kept.kept) == (4, 4)
    assert all_kept.flops["embedding again what kept no graph"] == 0
    image = all_kept.step.image.image_tokens
    width = read_architecture(ModelConfig(str(words[0])), LoraSettings()).hidden_size
    assert all_kept.memory["vision features of a step"] == 4 * image * width * 4
    assert graph < all_kept.memory["graphs that are kept beside it"] < 3 * graph  # texts are short
    some = make_plan(settings(*words, f"optim.graph_memory={1.1 * graph / 2**30:.12f}"))
    assert (some.kept, some.memory["graphs that are kept beside it"]) == (1, 0)
    config = settings(*words)
    config.plan.engine = Engine.zero3
    assert make_plan(config).kept == 0


def test_engines_share_what_they_say(tiny_model):
    config = settings(tiny_model("qwen2_vl"), ["llm"], "nf4", "bfloat16")
    sizes = {}
    for engine in Engine:
        config.plan.engine = engine
        plan = make_plan(config)
        sizes[engine.value] = list(plan.memory.values())[:5]
    ddp, zero2, zero3 = sizes["ddp"], sizes["zero2"], sizes["zero3"]
    assert sizes["zero1"] == [*ddp[:3], ddp[3] / 2, ddp[4] / 2]  # DDP's buckets are gone
    assert zero2[:3] == ddp[:3] and zero2[3] == ddp[3] / 4 and zero2[4] == ddp[4] / 2
    assert zero3 == sizes["fsdp2"] == [*(size / 2 for size in ddp[:3]), *zero2[3:]]


def test_an_adapter_below_counts_but_is_not_trained(tiny_model):
    config = settings(tiny_model("qwen2_vl"), ["llm"])
    alone = make_plan(config)
    config.model.adapter = "runs/that/will/be"
    stacked = make_plan(config)
    assert stacked.trained == alone.trained
    assert stacked.parameters == alone.parameters + 8 * alone.trained  # rank 32 beside 4
    assert stacked.hours > alone.hours


def test_the_papers_runs(tmp_path):
    """The shipped configurations of its two models: sizes known from elsewhere, and hours that its
    hardware can reach."""
    plans = {name: (plan, hours) for name, plan, hours in paper_plans(tmp_path)}
    for plan, hours in plans.values():
        least = plan.hours * plan.config.plan.utilisation
        assert least < hours and plan.fits
    llava = plans["llava-1.6-7b, stage 2, tiles as its processor"][0]
    assert llava.step.image.image_tokens == 1176  # 24 · 24, and 24 rows of 24 and a newline
    memory = memory_parts(llava.config, read_architecture(llava.config.model, llava.config.lora),
                          llava.step)  # fmt: skip
    quantised = memory["weights of the language model, nf4"]
    assert quantised == pytest.approx(6.979e9 * 0.5159, rel=1e-3)
    assert plans["phi3.5-v, stage 1"][0].steps == 710


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["gpu=a1000"], "gpu: got 'a1000', expected one of a100-40g, a100-80g, "),
        (["gpu=custom"], "gpu: custom needs plan.gpu_tflops and plan.gpu_memory_gib"),
        (["plan.utilisatoin=0.4"], "unknown key 'plan.utilisatoin'; the nearest valid key is"),
        (["plan.utilisation=40"], "plan.utilisation: got 40.0, expected in (0, 1]"),
        (["model.quantization=int8", "plan.engine=zero3"], "got 'int8' with zero3, expected nf4"),
        (["gpus=0"], "gpus: got 0, expected positive"),
        (["model.name=/no/such/folder"], "model.name: /no/such/folder cannot be planned"),
    ],
)
def test_mistakes_are_one_line(capsys, words, message):
    path = str(CONFIGS / "demo" / "stage2.yaml")
    with pytest.raises(SystemExit) as stopped:
        run_program(lambda: plan_program.main(["--config", path, *words]))
    error = capsys.readouterr().err
    assert stopped.value.code == 2
    assert message in error and error.count("\n") == 1


@pytest.mark.parametrize("stage", ["stage1", "stage2"])
def test_shipped_configurations_are_told_apart(stage):
    expected = {"stage1": Stage1PlanConfig, "stage2": Stage2PlanConfig}[stage]
    paths = sorted((CONFIGS / stage).glob("*.yaml"))
    assert len(paths) == 8
    for path in paths:
        assert plan_program._class_of(["--config", str(path), "gpus=4"]) is expected
        build_config(expected, path, ["gpus=4", "gpu=h200", "plan.engine=zero2"])


def test_stage1_has_no_images():
    path = CONFIGS / "demo" / "stage1.yaml"
    assert build_config(Stage1PlanConfig, path).plan.images_per_pair == 0
    with pytest.raises(ConfigError, match="plan.images_per_pair: got 1.0, expected 0"):
        build_config(Stage1PlanConfig, path, ["plan.images_per_pair=1"])


def test_without_a_processor_the_image_tokens_are_asked_for(tmp_path: Path) -> None:
    folder = write_llava_next_7b(tmp_path / "llava")
    for path in folder.iterdir():
        if path.name != "config.json":
            path.unlink()
    config = settings(folder, ["llm"])
    with pytest.raises(ConfigError, match="plan.image_tokens: .* has no processor"):
        make_plan(config)
    config.plan.image_tokens = 1152
    image = make_plan(config).step.image
    assert (image.tokens, image.patches, image.tiles) == (20 + 24 + 1152, 2 * 577, 2)


def test_program(tiny_model, monkeypatch, capsys):
    arguments = ["--config", str(CONFIGS / "stage2" / "qwen2-vl-2b.yaml")]
    arguments += [f"model.name={tiny_model('qwen2_vl')}", "inputs.resolution=32x32"]
    arguments += ["gpus=4", "gpu=custom", "plan.gpu_tflops=100", "plan.gpu_memory_gib=3"]
    monkeypatch.setattr(sys, "argv", ["stages.plan", *arguments])
    monkeypatch.delitem(sys.modules, "stages.plan")  # else runpy warns that it is there
    runpy.run_module("stages.plan", run_name="__main__")  # as python -m does
    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert "1000 steps of 4 × 128 = 512 rows;" in lines
    assert "256 items on each GPU in 32 chunks, of 32 one pass" in lines
    assert not any(line.startswith("vision features") for line in lines)  # its tower trains
    assert any(line.startswith("graphs that are kept beside it") for line in lines)
    assert any(line.startswith("all (fits custom, 3) 2.") for line in lines)
    for name in ("weights of the language model, nf4", "activations of one chunk", "backward"):
        assert any(line.startswith(name) for line in lines), name
    assert any("hours in all" in line for line in lines)
    assert "plan.utilisation=0.1 of the GPU's dense bf16 peak" in lines
