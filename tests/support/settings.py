"""Every setting of every program, in files that are right."""

from __future__ import annotations

from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

import pytest

from data_prep.demo.data import DemoDataConfig
from data_prep.demo_base.pretrain import PretrainConfig
from stages.demo import DemoConfig
from unime.config import (
    EvalConfig,
    ExportConfig,
    MineConfig,
    OwnDataConfig,
    ReportConfig,
    Stage1Config,
    Stage2Config,
    Stage2PlanConfig,
    TeacherConfig,
    TuneConfig,
)
from unime.config.reading.values import without_bounds

OPTIM = "steps: 1, batch_size_per_device: 2, chunk_size: 2, learning_rate: 1.0"

LEAST = {  # of each class a file that is right
    Stage1Config: "run: {output_dir: o}\nmodel: {name: m}\ndata: {texts: [t], teacher: s}\n"
    f"optim: {{{OPTIM}}}\n",
    Stage2Config: "run: {output_dir: o}\nmodel: {name: m}\ndata: {root: r, sources: {A: {}}}\n"
    f"optim: {{{OPTIM}}}\n",
    EvalConfig: "output_dir: o\nmodel: {name: m}\ndata: {suite: s}\n",
    MineConfig: "output_dir: o\nmodel: {name: m}\ndata: {root: r}\n",
    ReportConfig: "models: {a: x}\nsuite: s\noutput: r.json\nleaderboard: {a: {model_name: n}}\n",
    ExportConfig: "run: r\noutput_dir: o\n",
    TeacherConfig: "name: n\ntexts: [t]\noutput_dir: o\n",
    OwnDataConfig: "path: p\noutput_dir: o\ncolumns: {A: image}\n",
    DemoConfig: "queries: [a]\noverrides: {stage1: [a=b]}\n",
    DemoDataConfig: "output_dir: o\n",
    PretrainConfig: "output_dir: o\nsteps: 1\nphases: {a: {mixture: {b: 1.0}}}\n",
}

LEAST[TuneConfig] = LEAST[Stage2Config]
LEAST[Stage2PlanConfig] = LEAST[Stage2Config]  # stage 1's has the same settings of its own

CLASSES = [pytest.param(cls, id=cls.__name__) for cls in LEAST]


def settings_of(cls: type, prefix: str = "") -> list[tuple[str, Any]]:
    """Every key of a class and its type; of mappings with free keys the entry that LEAST has."""
    found = []
    hints = get_type_hints(cls, include_extras=True)
    entries = {"sources": "A", "models": "a", "leaderboard": "a", "overrides": "stage1",
               "phases": "a", "mixture": "b", "columns": "A"}  # fmt: skip
    for entry in fields(cls):
        key, hint = prefix + entry.name, hints[entry.name]
        if cls is Stage2PlanConfig and not key.startswith(("gpu", "plan")):
            continue  # as in Stage2Config
        if cls is TuneConfig and not key.startswith(("stage1", "eval_")):
            continue
        found.append((key, hint))
        hint = without_bounds(hint)
        if get_origin(hint) is dict:
            key, hint = f"{key}.{entries[entry.name]}", get_args(hint)[1]
            found.append((key, hint))
        if is_dataclass(hint):
            found += settings_of(hint, f"{key}.")  # type: ignore[arg-type]
    return found


def file_of(folder: Path, text: str, name: str = "file.yaml") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8", errors="surrogatepass")
    return path
