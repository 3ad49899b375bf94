"""The stage programs and the evaluation on a GPU, as users start them, on synthetic files.
What is measured is whether they work and come to the same: nothing here is timed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from omegaconf import OmegaConf

from benchmarks.gpu.models import BASE, make_pairs
from benchmarks.gpu.steps import Result
from eval.miniatures.mmeb import write_eval_suite, write_rows
from tests.support.launching import ON_CPU, Launch
from tests.support.material import adapters, metrics, write_material
from unime.data.stores.files import RECORD
from unime.runtime.files import read_json

PATIENCE = 240  # seconds
STARTED: list[Launch] = []  # what must not be left behind


def start(folder: Path, name: str, stage: str, *words: str, on_cpu: bool = False) -> Launch:
    """A program on the GPU, or on the CPU if there is none."""
    on_cpu = on_cpu or not torch.cuda.is_available()
    offline = {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "OMP_NUM_THREADS": "1"}
    launch = Launch(
        folder, name, *words, stage=stage, config="cpu" if on_cpu else "one_gpu", ranks=1,
        environment=offline | (ON_CPU | {"CUDA_VISIBLE_DEVICES": ""} if on_cpu else {}),
    )  # fmt: skip
    STARTED.append(launch)
    return launch


def programs(folder: Path, small: bool) -> Result:
    """Both stages, stage 2 once more killed and resumed; evaluation on the GPU and on the CPU; and
    unless `small`, what two equal runs and two equal evaluations differ by."""
    steps = 6 if small else 60
    write_material(folder, BASE)
    write_evaluation(folder)
    shared = (
        f"optim.steps={steps}", f"run.save_every={max(2, steps // 6)}", "optim.chunk_size=8",
        "optim.batch_size_per_device=16", "optim.learning_rate=1e-3", "optim.on_collapse=warn",
    )  # fmt: skip
    found: Result = {"steps": steps, "model": str(BASE)}
    stage1 = start(folder, "stage1", "stage1", *shared).done(PATIENCE)
    found["stage 1"] = ends(metrics(stage1))
    words = (f"model.adapter={stage1 / 'final'}", "lora.train=[llm, projector, vision]", *shared)
    names = ("straight", "killed") if small else ("straight", "killed", "again")
    runs = [start(folder, name, "stage2", *words) for name in names]
    runs[1].until_step(steps // 2, PATIENCE)
    runs[1].kill()
    killed = metrics(runs[1].output_dir)[-1]["step"]
    straight, *again = (run.done(PATIENCE) for run in (runs[0], *runs[2:]))
    resumed = start(folder, "killed", "stage2", *words).done(PATIENCE)
    found["stage 2"] = ends(metrics(straight))
    found["two equal runs"] = [differences(run, straight) for run in again]
    found["killed and resumed"] = {"killed after step": killed} | differences(resumed, straight)
    trained = f"model.adapter={straight / 'final'}"
    evaluations = {
        place: start(folder, f"eval on {place}", "eval", trained, on_cpu="cpu" in place)
        for place in ("gpu", "cpu", *([] if small else ["cpu again"]))
    }
    outputs = {place: program.done(PATIENCE) for place, program in evaluations.items()}
    found["evaluation"] = {
        "scores": {place: scores(output) for place, output in outputs.items()},
        "against the cpu": {p: cosines(of, outputs["cpu"]) for p, of in outputs.items()},
    }
    return found


def write_evaluation(folder: Path) -> None:
    write_eval_suite(folder / "eval", folder / "suite.yaml", queries=32)
    config = {
        "model": {"name": str(BASE), "quantization": "nf4", "precision": "float32"},
        "data": {"root": str(folder / "eval"), "suite": str(folder / "suite.yaml")},
        "batch_size": 16,
    }
    OmegaConf.save(OmegaConf.create(config), folder / "eval.yaml")


def ends(lines: list[Result]) -> Result:
    """The first and the last line of a run, without empty values."""
    return {
        name: {key: value for key, value in line.items() if value is not None}
        for name, line in (("first step", lines[0]), ("last step", lines[-1]))
    }


def differences(run: Path, expected: Path) -> Result:
    """How far apart what two runs trained is, and their losses."""
    ours, theirs = adapters(run), adapters(expected)
    rows = {name: (ours[name].double() - theirs[name].double()) for name in theirs}
    moved = sum(float(t.double().square().sum()) for t in theirs.values()) ** 0.5
    losses = [[line["loss"] for line in metrics(folder)] for folder in (run, expected)]
    return {
        "equal": ours.keys() == theirs.keys() and not any(bool(row.any()) for row in rows.values()),
        "relative": sum(float(row.square().sum()) for row in rows.values()) ** 0.5 / moved,
        "most": max(float(row.abs().max()) for row in rows.values()),
        "equal losses": sum(one == other for one, other in zip(*losses, strict=True)),
        "lines": len(losses[0]),
    }


def scores(output: Path) -> dict[str, float]:
    return {path.stem: read_json(path)["score"] for path in output.glob("*.json")}


def cosines(one: Path, other: Path) -> Result:
    """Of the vectors that two evaluations stored, by item."""
    ours, theirs = vectors(one), vectors(other)
    found = [float(ours[key] @ theirs[key]) for key in theirs]
    return {"items": len(found), "same items": ours.keys() == theirs.keys(), "least": min(found)}


def vectors(output: Path) -> dict[bytes, np.ndarray]:
    (folder,) = [path.parent for path in (output / "embeddings").rglob("records")]
    records = np.fromfile(folder / "records", dtype=RECORD)
    rows = np.fromfile(folder / "vectors", dtype="<f4").reshape(len(records), -1)
    return {bytes(r["key"]): row.astype(np.float64) for r, row in zip(records, rows, strict=True)}


def memory_full(folder: Path, model: Path, small: bool) -> Result:
    """Stage 2 of a real size with chunks that are too large for the GPU, and optim.auto_chunk."""
    side, size, chunk = (96, 4, 8) if small else (336, 64, 64)
    pairs = make_pairs(folder / "train/images/Pictures", 2 * size, side, 32)
    rows = [
        {
            "qry": f"<|image_1|>\n{pair.query.text}\n",
            "qry_image_path": f"images/Pictures/{pair.row_id}.png",
            "pos_text": pair.target.text,
            "pos_image_path": "",
        }
        for pair in pairs
    ]
    write_rows(folder / "train", "Pictures", "original", rows)
    config = {
        "run": {"log_every": 1, "trackers": []},
        "model": {"name": str(model), "quantization": "none", "attention": "sdpa"},
        "lora": {"rank": 16, "train": ["llm", "projector", "vision"]},
        "inputs": {"max_text_tokens": 32},
        "data": {"root": str(folder / "train"), "sources": {"Pictures": {}}},
        "optim": {"steps": 2, "batch_size_per_device": size, "chunk_size": chunk,
                  "learning_rate": 1e-5, "auto_chunk": True},
    }  # fmt: skip
    OmegaConf.save(OmegaConf.create(config), folder / "stage2.yaml")
    run = start(folder, "full", "stage2")
    output = run.done(PATIENCE)
    said = [line for line in run.said.splitlines() if "out of" in line]
    return {"chunk": chunk, "halved": said, **ends(metrics(output))}
