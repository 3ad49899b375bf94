"""Attacks on the folders of runs: what they go on from, what says that they are finished, and what
is exported."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from tests.attacks.damage import (
    Deeds,
    changed,
    cut,
    flipped,
    link,
    lying_headers,
    no_json,
    not_a_file,
    pickled,
    remove,
    renamed,
    values,
    write,
)
from tests.attacks.harness import Area, Attack, Deed, each, nothing
from tests.attacks.victims import build_runs, exported, stage1, stage2, teacher

STEPS = 4
RUN, DONE = "run2", "done"
STEP = f"{RUN}/checkpoints/step_00000002"
STATE, OPTIMIZER = f"{STEP}/state.json", f"{STEP}/optimizer.safetensors"
RANDOM, METRICS = f"{STEP}/random_00000.safetensors", f"{RUN}/metrics.jsonl"
TRUTH = "truth.safetensors"


def build() -> None:
    """A run of stage 2 that was stopped after two steps of four, and the same run finished."""
    build_runs(STEPS)
    write("truth.json", json.dumps(trained()))
    shutil.copytree(RUN, DONE)
    remove(f"{RUN}/final")
    remove(f"{RUN}/finished.json")
    remove(f"{RUN}/checkpoints/step_{STEPS:08d}")
    Path("outside").mkdir()


def trained(folder: str = RUN) -> list[float]:
    """A number of every trained tensor."""
    found = sorted(Path(folder, "final").rglob("*.safetensors"))
    return [
        float(t.double().abs().sum()) for path in found for _, t in sorted(load_file(path).items())
    ]


def gone_on() -> list[float]:
    """The run's own command again."""
    stage2(STEPS)
    return trained()


def finished_already() -> list[float]:
    os.rename(RUN, "other")
    os.rename(DONE, RUN)
    return gone_on()


def another(found: list[float]) -> str | None:
    """A run that has ended otherwise than if nobody had touched it."""
    truth = json.loads(Path("truth.json").read_text())
    same = len(found) == len(truth) and torch.allclose(
        torch.tensor(found), torch.tensor(truth), rtol=1e-5
    )
    return None if same else "another model than without the attack"


def named_paths(found: str) -> str | None:
    """Where the files lie is nobody's business (A15)."""
    here = os.getcwd()
    return f"the exported texts name {here}" if here in found else None


def moments(change: Any) -> Deed:
    def act() -> None:
        found = load_file(OPTIMIZER)
        save_file({name: change(tensor).contiguous() for name, tensor in found.items()}, OPTIMIZER)

    return act


def renamed_moments() -> None:
    save_file({f"x.{name}": tensor for name, tensor in load_file(OPTIMIZER).items()}, OPTIMIZER)


def adapter(change: Any) -> Deed:
    def act() -> None:
        path = next(Path(STEP).glob("*/adapter_model.safetensors"))
        found = load_file(path)
        save_file({name: change(tensor).contiguous() for name, tensor in found.items()}, path)

    return act


STOPPED: Deeds = {
    **no_json(STATE),
    **not_a_file(STATE),
    **values(STATE, "step", -1, 0, 3, 10**9, "x", None, 1.5, [2]),
    **values(STATE, "world_size", 0, -1, "x", None),
    **changed(STATE, {f"{key}-gone": lambda own, key=key: own.pop(key) for key in
                      ("step", "world_size", "data", "metrics", "validation", "identity")}),
    **changed(STATE, {f"{key}-number": lambda own, key=key: own.update({key: 7}) for key in
                      ("data", "metrics", "validation", "identity")}),
    **cut(OPTIMIZER, 5),
    **flipped(OPTIMIZER, 4, first=800),
    **lying_headers(OPTIMIZER),
    **not_a_file(OPTIMIZER),
    "moments-turned": moments(lambda t: t.T if t.dim() == 2 else t),  # A18
    "moments-smaller": moments(lambda t: t[:1] if t.dim() else t),
    "moments-int8": moments(lambda t: t.to(torch.int8)),
    "moments-nan": moments(lambda t: t * float("nan")),
    "moments-of-others": renamed_moments,
    "moments-gone": lambda: remove(OPTIMIZER),
    **renamed("random", cut(RANDOM, 4)),
    "random-gone": lambda: remove(RANDOM),
    "random-lies": lying_headers(RANDOM)[f"{Path(RANDOM).name}-other-tensor"],
    "adapter-turned": adapter(lambda t: t.T),
    "adapter-nan": adapter(lambda t: t * float("nan")),
    "description-gone": lambda: remove(f"{STEP}/encoder.json"),
    **{f"description-{n}": d for n, d in no_json(f"{STEP}/encoder.json").items()},
    **{f"metrics-{n}": (lambda c=c: write(METRICS, c)) for n, c in {
        "list": "[]\n", "number": "7\n", "no-step": "{}\n", "step-text": '{"step": "x"}\n',
        "latin-1": b'{"step": 1, "x": "\xe9"}\n', "nul": b"\0" * 4096, "deep": "[" * 90_000 + "}\n",
        "no-json": "x}\n", "half": '{"step": 1, "lo',
    }.items()},
    **not_a_file(METRICS),
    "lock-fifo": lambda: (remove(f"{RUN}/.lock"), os.mkfifo(f"{RUN}/.lock")),
    "lock-linked": lambda: link(f"{RUN}/.lock", "../outside/notes.txt"),
    "lock-folder": lambda: (remove(f"{RUN}/.lock"), os.mkdir(f"{RUN}/.lock")),
    "checkpoint-huge": lambda: shutil.copytree(STEP, f"{RUN}/checkpoints/step_99999999"),
    "checkpoint-empty": lambda: write(f"{RUN}/checkpoints/step_00000003/state.json", ""),
    "checkpoint-file": lambda: write(f"{RUN}/checkpoints/step_00000003", "x"),
    "checkpoints-file": lambda: (remove(f"{RUN}/checkpoints"), write(f"{RUN}/checkpoints", "x")),
    "starts-garbage": lambda: write(f"{RUN}/starts.jsonl", b"\xff\0"),
    "best-garbage": lambda: write(f"{RUN}/best.json", b"\xff\0"),
    "final-file": lambda: write(f"{RUN}/final", "x"),
    "final-linked": lambda: link(f"{RUN}/final", "../outside"),
    "config-linked": lambda: link(f"{RUN}/config.yaml", "../outside/notes.txt"),
    "metrics-linked": lambda: link(METRICS, "../outside/notes.txt"),
    "starts-linked": lambda: link(f"{RUN}/starts.jsonl", "../outside/notes.txt"),
}  # fmt: skip
FINISHED: Deeds = {
    **no_json(f"{DONE}/finished.json"),
    **not_a_file(f"{DONE}/finished.json"),
    **values(f"{DONE}/finished.json", "steps", 2, "x", None, -1),
    "final-gone": lambda: remove(f"{DONE}/final"),
    "final-empty": lambda: (remove(f"{DONE}/final"), os.mkdir(f"{DONE}/final")),
    "weights-cut": lambda: os.truncate(
        next(Path(DONE, "final").rglob("*.safetensors")), 100
    ),
}  # fmt: skip
EXPORTED: Deeds = {
    **{f"config-{n}": (lambda c=c: write(f"{DONE}/config.yaml", c)) for n, c in {
        "python": "a: !!python/object/apply:os.system ['touch ../outside/pwned']\n",
        "list": "[]\n", "deep": "a: " + "[" * 9_000, "latin-1": b"a: caf\xe9\n", "empty": "",
        "wrong": "model: 7\ndata: 7\n", "template": "model: {name: '{{ 7 * 7 }}'}\n",
    }.items()},
    **{f"done-{n}": (lambda c=c: write(f"{DONE}/metrics.jsonl", c)) for n, c in {
        "list": "[]\n", "latin-1": b"\xe9\n", "deep": "[" * 90_000,
    }.items()},
    **{f"done-{n}": d for n, d in no_json(f"{DONE}/finished.json").items()},
    **{f"exported-{n}": d for n, d in not_a_file(f"{DONE}/config.yaml").items()},
    "out-file": lambda: write("out", "x"),
    "config-html": lambda: write(f"{DONE}/config.yaml", "model: {name: '<script>1</script>'}\n"),
}  # fmt: skip
TEACHERS: Deeds = {
    "teacher-pickle": lambda: (remove("teacher-model/model.safetensors"),
                               pickled("teacher-model/pytorch_model.bin")),  # A13
    "teacher-fifo": lambda: (remove("teacher-model/model.safetensors"),
                             os.mkfifo("teacher-model/model.safetensors")),
    **renamed("teacher", cut("teacher-model/model.safetensors", 4)),
    **renamed("teacher", no_json("teacher-model/config.json")),
    **renamed("teacher", no_json("teacher-model/modules.json")),
    "teacher-code": lambda: write("teacher-model/modules.json", json.dumps(
        [{"idx": 0, "name": "0", "path": "", "type": "evil.Evil"}])),
    "teacher-code-of-os": lambda: write("teacher-model/modules.json", json.dumps(
        [{"idx": 0, "name": "0", "path": "", "type": "os.system"}])),
    "teacher-path": lambda: write("teacher-model/modules.json", json.dumps(
        [{"idx": 0, "name": "0", "path": "../../outside", "type":
          "sentence_transformers.models.Transformer"}])),
}  # fmt: skip
NO_NEGATIVE = {"loss": {"num_hard_negatives": 4, "temperature": 0.05, "false_negative_margin": -2,
                         "hard_negatives_after": 0}}  # fmt: skip


def learns(found: dict[str, Any]) -> str | None:
    """A20: a run in which no query has a negative."""
    return None if found["metrics"]["loss"] else f"a run without negatives ends well: {found}"


def diverging() -> list[float]:
    """A6: a learning rate by which stage 1 is not finite."""
    stage1(STEPS, learning_rate=1e30)
    return trained("run1")


def finite(found: list[float]) -> str | None:
    return None if all(map(float, found)) and torch.tensor(found).isfinite().all() else "not finite"


def attacks() -> list[Attack]:
    names = (RUN, "run.output_dir")
    alone = lambda: remove(RUN)  # noqa: E731
    export_done = lambda: exported(DONE)  # noqa: E731
    return [
        *each({"control": nothing} | STOPPED, gone_on, names, another),
        *each(
            {"control-of-finished": nothing} | renamed("finished", FINISHED),
            finished_already,
            names,
            another,
        ),
        *each(
            {"control-of-exports": nothing} | EXPORTED,
            export_done,
            (DONE, "output_dir"),
            named_paths,
        ),
        *each({"control-of-teachers": nothing} | TEACHERS, teacher, ("name", "teacher-model")),
        Attack(
            "no-negatives",
            alone,
            lambda: stage2(STEPS, **NO_NEGATIVE),
            ("loss", "negative"),
            learns,
        ),
        Attack("diverging", nothing, diverging, ("step", "finite"), finite),
    ]


AREA = Area("runs", build, attacks, ("state.json-list",))
