"""The stage programs on every engine: equal to one process, resumed after kills, and what they say
when something goes wrong. All of it starts them through accelerate's launcher.

pytest tests/engines/test_engine_runs.py; ./launch.sh test -m engines
"""

from __future__ import annotations

import math
import os
import shutil
import signal
import socket
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor

from eval.miniatures.mmeb import write_rows
from tests.support.launching import Launch, add_results, run
from tests.support.material import adapters, assert_same_run, metrics
from unime.config import ModelConfig, Precision, Quantization, Stage2Config, build_config
from unime.inputs.items import Item
from unime.models.encoder import Encoder
from unime.models.item_processor import BLANK_SIDE

pytestmark = pytest.mark.engines
RESULTS = "UNIME_ENGINES_RESULTS"  # names a file
EXACT = ("lora.dropout=0", "optim.epsilon=1e-3", "optim.chunk_size=3")
TWENTY = {  # stage 2: everything trains, and some batches hold no image at all
    "stage1": (*EXACT, "optim.steps=20"),
    "stage2": (
        *EXACT, "optim.steps=20", "lora.train=[llm, projector, vision]",
        "data.sources.Words.rows=16",
    ),
}  # fmt: skip
EIGHT = ("optim.steps=8", "run.save_every=3", "optim.batch_size_per_device=4")
LONG = ("optim.steps=400", "run.save_every=4")
FAST = ("zero2", "stage2", "nf4")


@pytest.fixture(scope="module")
def material(material: Path) -> Path:
    """And pairs without any picture."""
    words = [
        {"qry": f"What is {n}?", "qry_image_path": "", "pos_text": f"number {n}",
         "pos_image_path": ""}
        for n in range(16)
    ]  # fmt: skip
    write_rows(material / "mmeb", "Words", "original", words)
    return material


@pytest.fixture(scope="module")
def one_process(material: Path) -> dict[str, Path]:
    """Twenty steps of both stages, 12 rows a step, in one process."""
    whole = "optim.batch_size_per_device=12"
    return {
        stage: run(material, f"one/{stage}", *of, whole, stage=stage, config="cpu", ranks=1)
        for stage, of in TWENTY.items()
    }


def apart(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> float:
    """Relative distance of two sets of adapters."""
    assert ours.keys() == theirs.keys()
    difference = sum(float((ours[n] - theirs[n]).double().square().sum()) for n in ours)
    return (difference / sum(float(t.double().square().sum()) for t in theirs.values())) ** 0.5


@pytest.mark.parametrize(
    ("config", "ranks"),
    [("ddp", 2), ("ddp", 3), ("zero1", 2), ("zero2", 2), ("zero3", 2), ("zero3_offload", 2),
     ("fsdp2", 2)],
)  # fmt: skip
@pytest.mark.parametrize("stage", ["stage1", "stage2"])
def test_twenty_steps_equal_one_process(
    stage: str, config: str, ranks: int, material: Path, one_process: dict[str, Path]
) -> None:
    settings = (*TWENTY[stage], f"optim.batch_size_per_device={12 // ranks}")
    many = run(
        material, f"{config}{ranks}/{stage}", *settings, stage=stage, config=config, ranks=ranks
    )
    losses = [
        abs(ours["loss"] - theirs["loss"])
        for ours, theirs in zip(metrics(many), metrics(one_process[stage]), strict=True)
    ]
    distance = apart(adapters(many), adapters(one_process[stage]))
    add_results(
        RESULTS, f"parity-{config}-{ranks}-{stage}", {"loss": max(losses), "adapters": distance}
    )
    assert len(losses) == 20 and max(losses) < 1e-4
    assert distance < 1e-4


RESUMED = [
    pytest.param(config, *of, marks=[pytest.mark.fast] if (config, *of) == FAST else [])
    for config in ("cpu", "ddp", "zero1", "zero2", "zero3", "zero3_offload", "fsdp2")
    for of in (("stage1", "nf4"), ("stage2", "nf4"), ("stage2", "none"))
]


@pytest.fixture(scope="module")
def straight(material: Path) -> Callable[[str, str, str], Path]:
    """``straight("zero2", "stage2", "nf4")``: a run from start to end, made once."""

    @cache
    def made(config: str, stage: str, quantization: str) -> Path:
        name = f"straight/{config}_{stage}_{quantization}"
        settings = (*EIGHT, f"model.quantization={quantization}")
        return run(material, name, *settings, stage=stage, config=config, ranks=ranks_of(config))

    return made


def ranks_of(config: str) -> int:
    return 1 if config == "cpu" else 2


@pytest.mark.parametrize(("config", "stage", "quantization"), RESUMED)
def test_killed_and_resumed_bit_for_bit(
    config: str,
    stage: str,
    quantization: str,
    material: Path,
    straight: Callable[[str, str, str], Path],
) -> None:
    """SIGKILL of everything in the middle, with dropout, at a step that no checkpoint is of."""
    ranks = ranks_of(config)
    settings = (*EIGHT, f"model.quantization={quantization}")
    options = {"stage": stage, "config": config, "ranks": ranks}
    name = f"resume/{config}_{stage}_{quantization}"
    killed = Launch(material, name, *settings, **options)  # type: ignore[arg-type]
    killed.until_step(5)
    killed.kill()
    assert not (killed.output_dir / "finished.json").exists()
    resumed = run(material, name, *settings, **options)
    assert_same_run(resumed, straight(config, stage, quantization))
    add_results(RESULTS, f"resume-{config}-{ranks}-{stage}-{quantization}", {"equal": True})


@pytest.mark.parametrize(
    ("first", "then"),
    [(("zero2", 2), ("cpu", 1)), (("ddp", 2), ("ddp", 3)), (("cpu", 1), ("zero3", 2)),
     (("zero3", 2), ("fsdp2", 2)), (("fsdp2", 2), ("zero2", 2))],
)  # fmt: skip
def test_going_on_with_other_ranks_or_engines(
    first: tuple[str, int], then: tuple[str, int], material: Path, one_process: dict[str, Path]
) -> None:
    name = f"other/{first[0]}_{then[0]}"

    def settings(ranks: int) -> tuple[str, ...]:
        batch = f"optim.batch_size_per_device={12 // ranks}"
        return (*TWENTY["stage2"], "run.save_every=2", batch)

    killed = Launch(material, name, *settings(first[1]), config=first[0], ranks=first[1])
    killed.until_step(7)
    killed.kill()
    launch = Launch(material, name, *settings(then[1]), config=then[0], ranks=then[1])
    distance = apart(adapters(launch.done()), adapters(one_process["stage2"]))
    assert "going on from" in launch.said
    if first[1] != then[1]:
        assert f"written by {first[1]} processes and is continued by {then[1]}" in launch.said
    assert distance < 1e-4


# What can happen to a run


def after_signal_to_rank_1(launch: Launch, signum: signal.Signals, key: str) -> None:
    """All of it ends with an error, within a minute."""
    launch.until_step(4)
    os.kill(launch.ranks[1], signum)
    began = time.monotonic()
    assert launch.wait(60) != 0
    add_results(RESULTS, key, {"seconds": time.monotonic() - began})


@pytest.mark.parametrize("config", ["ddp", "zero2", "fsdp2"])
def test_a_killed_rank_is_named(config: str, material: Path) -> None:
    launch = Launch(material, f"lost/{config}", *LONG, config=config)
    after_signal_to_rank_1(launch, signal.SIGKILL, f"lost-{config}")
    assert "rank 0 lost another rank" in launch.said
    assert "rank      : 1 (local_rank: 1)" in launch.said and "SIGKILL" in launch.said
    assert "Traceback" not in launch.said.split("rank 0 lost another rank")[0]


@pytest.mark.parametrize("config", [pytest.param("zero2", marks=pytest.mark.fast), "ddp", "fsdp2"])
def test_sigterm_of_a_preempted_job(config: str, material: Path) -> None:
    """To the launcher alone, as a cluster's scheduler does; all ranks save the step before."""
    launch = Launch(material, f"preempted/{config}", *LONG, config=config)
    launch.until_step(5)
    os.kill(launch.process.pid, signal.SIGTERM)
    assert launch.wait() != 0
    assert "everything is saved; to go on:" in launch.said
    (newest, *_) = sorted((launch.output_dir / "checkpoints").iterdir(), reverse=True)
    step = int(newest.name[5:])
    assert f"stopped at step {step} of 400" in launch.said and step >= 5
    assert len(list(newest.glob("random_*"))) == 2


def poison(model: Path, folder: Path) -> None:
    """A copy of a model in which tokens are NaN that only one of the two tasks, Captions, has."""
    shutil.copytree(model, folder)
    processor = Encoder.load(
        ModelConfig(str(model), quantization=Quantization.none, precision=Precision.float32)
    ).processor
    blank = Image.new("RGB", (BLANK_SIDE, BLANK_SIDE))
    digits = " ".join(map(str, range(16)))
    asked = f"Represent the given image with the question: What is {digits}?"
    texts = ("a", f"answer {digits}", "", asked)  # tried out; a target; tried out; a query
    samples = [
        processor(Item(text, ("blank",) if number > 1 else ()), lambda _: blank)
        for number, text in enumerate(texts)
    ]
    padding = torch.tensor([processor.tokenizer.pad_token_id])
    known = torch.cat([padding, *(sample["input_ids"] for sample in samples)])
    for path in folder.glob("*.safetensors"):
        tensors = load_file(path)
        for name, tensor in tensors.items():
            if name.endswith("embed_tokens.weight"):
                kept = tensor[known].clone()
                tensor.fill_(math.nan)
                tensor[known] = kept
        save_file(tensors, path, {"format": "pt"})


@pytest.fixture(scope="module")
def poisoned(material: Path) -> Path:
    words = [f"run.output_dir={material}/unused"]
    config = build_config(Stage2Config, material / "stage2.yaml", words)
    poison(Path(config.model.name), material / "poisoned")
    return material / "poisoned"


@pytest.mark.parametrize(
    ("config", "ranks"), [("cpu", 1), ("ddp", 2), ("zero2", 2), ("zero3", 2), ("fsdp2", 2)]
)
def test_steps_that_are_not_finite_are_skipped(
    config: str, ranks: int, material: Path, poisoned: Path
) -> None:
    """Of one task they are: nothing moves in them, and in the others something does."""
    skipping = run(
        material, f"skipped/{config}", f"model.name={poisoned}",
        "optim.on_nonfinite=skip", "optim.steps=6", "optim.learning_rate=0.01",
        "run.save_every=1", "run.save_total_limit=9", config=config, ranks=ranks,
    )  # fmt: skip
    skipped = [bool(line["skipped_steps"]) for line in metrics(skipping)]
    assert len(skipped) == 6 and 0 < sum(skipped) < 6
    for step, is_skipped in enumerate(skipped, 1):
        files = list(skipping.glob(f"not_finite_step{step}_rank*.json"))
        assert len(files) == (ranks if is_skipped else 0)
        now = trained_at(skipping, step)
        assert all(tensor.isfinite().all() for tensor in now.values())
        before = trained_at(skipping, step - 1) if step > 1 else None
        if before is not None:
            assert is_skipped == all(torch.equal(now[name], before[name]) for name in now)


def trained_at(folder: Path, step: int) -> dict[str, Tensor]:
    """The adapter in a checkpoint."""
    checkpoint = folder / f"checkpoints/step_{step:08d}"
    found = {
        name: tensor
        for path in checkpoint.rglob("adapter_model.safetensors")
        for name, tensor in load_file(path).items()
    }
    assert found
    return found


@pytest.mark.parametrize("config", ["ddp", "zero2", "fsdp2"])
def test_a_stuck_rank_times_out_with_a_hint(config: str, material: Path) -> None:
    launch = Launch(material, f"stuck/{config}", *LONG, "run.collective_timeout=10", config=config)
    after_signal_to_rank_1(launch, signal.SIGSTOP, f"stuck-{config}")
    assert "rank 0 has been in step" in launch.said
    assert "rank 0 waited for the others longer than run.collective_timeout" in launch.said


@pytest.mark.parametrize(
    "config",
    [pytest.param("zero2_multi_node", marks=pytest.mark.fast), "ddp_multi_node"],
)
def test_two_hosts(config: str, material: Path, straight: Callable[[str, str, str], Path]) -> None:
    """Two launchers that meet on loopback, one rank each, equal two ranks of one launcher."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    where = ("--num_machines", "2", "--main_process_ip", "127.0.0.1")
    hosts = [
        Launch(
            material, f"hosts/{config}", *EIGHT, config=config,
            launcher=(*where, "--main_process_port", str(port), "--machine_rank", str(host)),
        )
        for host in (0, 1)
    ]  # fmt: skip
    for host in hosts:
        host.done()
    assert "(4 on each of 2 processes" in hosts[0].said
    one_host = straight(config.removesuffix("_multi_node"), "stage2", "nf4")
    assert_same_run(hosts[0].output_dir, one_host)


def test_ten_kills(material: Path) -> None:
    """At random moments; the adapters are those of the run that was left alone."""
    settings = ("optim.steps=60", "run.save_every=2", "optim.batch_size_per_device=4")
    straight = run(material, "ten/straight", *settings)
    torch.manual_seed(int(time.time()))
    for _ in range(10):
        launch = Launch(material, "ten/killed", *settings)
        launch.until(lambda: "training from step" in launch.said)  # noqa: B023
        time.sleep(float(torch.rand(())) * 2)
        launch.kill()
        shutil.rmtree(launch.output_dir / "tensorboard", ignore_errors=True)
    assert_same_run(run(material, "ten/killed", *settings), straight)
