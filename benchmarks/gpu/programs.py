"""The stage programs and the evaluation on a GPU, as users start them, on synthetic files.
What is measured is whether they work and come to the same: nothing here is timed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from omegaconf import OmegaConf
from safetensors.torch import load_file
from torch import Tensor

from benchmarks.gpu.files import write_material, write_train_rows
from benchmarks.gpu.models import BASE, make_pairs
from unime.retrieval.embedding_store import RECORD

ROOT = Path(__file__).parent.parent.parent
Result = dict[str, Any]
STAGE1, STAGE2, EVALUATE = "stages.stage1_distill", "stages.stage2_instruct", "eval.evaluate"
WITHOUT_GPU = {"CUDA_VISIBLE_DEVICES": "", "ACCELERATE_USE_CPU": "true"}


class Program:
    """One of our programs, running; its output goes to a file."""

    started: list[Program] = []  # noqa: RUF012 (of all: what must not be left behind)

    def __init__(
        self, folder: Path, name: str, module: str, config: Path, *words: str, on_cpu: bool = False
    ) -> None:
        self.name, self.log = name, folder / f"{name}.log"
        self.output = folder / name
        key = "output_dir" if module == EVALUATE else "run.output_dir"
        file = "cpu" if on_cpu or not torch.cuda.is_available() else "one_gpu"
        command = [
            sys.executable, "-m", "accelerate.commands.launch",
            "--config_file", f"configs/accelerate/{file}.yaml", "--quiet", "-m", module,
            "--config", str(config), f"{key}={self.output}", *words,
        ]  # fmt: skip
        offline = {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "OMP_NUM_THREADS": "1"}
        with self.log.open("a") as log:
            self.process = subprocess.Popen(
                command,
                env=os.environ | offline | (WITHOUT_GPU if file == "cpu" else {}),
                cwd=ROOT,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        Program.started.append(self)

    def wait(self, seconds: float = 240) -> Path:
        """Wait until the program has ended, and return its output folder.

        Raises:
            RuntimeError: it failed, or does not end in time; with the end of what it said.
        """
        try:
            status = self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.kill()
            status = -9
        if status:
            raise RuntimeError(f"{self.name}: status {status}: {self.log.read_text()[-1500:]}")
        return self.output

    def kill_at(self, step: int, seconds: float = 240) -> int:
        """SIGKILL once so many steps are taken; the step that metrics.jsonl then ends with."""
        deadline = time.monotonic() + seconds
        while last_step(self.output) < step:
            if self.process.poll() is not None or time.monotonic() > deadline:
                self.kill()
                raise RuntimeError(f"{self.name} ended: {self.log.read_text()[-1500:]}")
            time.sleep(0.01)
        self.kill()
        return last_step(self.output)

    def kill(self) -> None:
        """With everything that it started."""
        try:
            os.killpg(self.process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        self.process.wait()


def last_step(folder: Path) -> int:
    lines = metrics(folder)
    return lines[-1]["step"] if lines else 0


def metrics(folder: Path) -> list[Result]:
    path = folder / "metrics.jsonl"
    lines = path.read_text().splitlines(keepends=True) if path.exists() else []
    return [json.loads(line) for line in lines if line.endswith("}\n")]


def programs(folder: Path, small: bool) -> Result:
    """Both stages, stage 2 once more killed and resumed; evaluation on the GPU and on the CPU; and
    unless `small`, what two equal runs and two equal evaluations differ by."""
    steps = 6 if small else 60
    write_material(folder, steps)
    found: Result = {"steps": steps, "model": str(BASE)}
    stage1 = Program(folder, "stage1", STAGE1, folder / "stage1.yaml").wait()
    found["stage 1"] = ends(metrics(stage1))
    adapter = f"model.adapter={stage1 / 'final'}"
    words = (STAGE2, folder / "stage2.yaml", adapter)
    names = ("straight", "killed") if small else ("straight", "killed", "again")
    runs = [Program(folder, name, *words) for name in names]
    killed = runs[1].kill_at(steps // 2)
    straight, *again = (run.wait() for run in (runs[0], *runs[2:]))
    resumed = Program(folder, "killed", *words).wait()
    found["stage 2"] = ends(metrics(straight))
    found["two equal runs"] = [differences(run, straight) for run in again]
    found["killed and resumed"] = {"killed after step": killed} | differences(resumed, straight)
    words = (EVALUATE, folder / "eval.yaml", f"model.adapter={straight / 'final'}")
    evaluations = {
        place: Program(folder, f"eval on {place}", *words, on_cpu="cpu" in place)
        for place in ("gpu", "cpu", *([] if small else ["cpu again"]))
    }
    outputs = {place: program.wait() for place, program in evaluations.items()}
    found["evaluation"] = {
        "scores": {place: scores(output) for place, output in outputs.items()},
        "against the cpu": {p: cosines(of, outputs["cpu"]) for p, of in outputs.items()},
    }
    return found


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


def adapters(run: Path) -> dict[str, Tensor]:
    return {
        f"{path.parent.name}/{name}": tensor
        for path in sorted((run / "final").rglob("*.safetensors"))
        for name, tensor in load_file(path).items()
    }


def scores(output: Path) -> dict[str, float]:
    return {
        name: json.loads((output / f"{name}.json").read_text())["score"]
        for name in ("ToText", "ToPicture")
    }


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
    write_train_rows(folder / "train", "Pictures", pairs)
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
    run = Program(folder, "full", STAGE2, folder / "stage2.yaml")
    output = run.wait()
    said = [line for line in run.log.read_text().splitlines() if "out of" in line]
    return {"chunk": chunk, "halved": said, **ends(metrics(output))}
