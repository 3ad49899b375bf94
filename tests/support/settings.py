"""Every setting of every program, in files that are right."""

from __future__ import annotations

from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

import pytest

from data_prep.demo.data import DemoDataConfig
from data_prep.demo.triples import TriplesConfig
from data_prep.demo_base.pretrain import PretrainConfig
from data_prep.real_llm.data import RealLlmConfig
from eval.study.settings import BaseConfig, RecipeConfig, StudyConfig
from stages.demo import DemoConfig
from unime.config import (
    AppConfig,
    BatchesConfig,
    CheckConfig,
    EvalConfig,
    ExportConfig,
    IndexConfig,
    JudgeConfig,
    MineConfig,
    MmebConfig,
    OwnDataConfig,
    ReportConfig,
    SearchConfig,
    ServeConfig,
    SetCheckConfig,
    Stage1Config,
    Stage1PlanConfig,
    Stage2CheckConfig,
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
    TriplesConfig: "texts: t\noutput: o.jsonl\n",
    RealLlmConfig: "output_dir: o\n",
    PretrainConfig: "output_dir: o\nsteps: 1\nphases: {a: {mixture: {b: 1.0}}}\n",
    MmebConfig: "seed: 0\n",
    IndexConfig: "folder: f\n",
    SearchConfig: "text: t\n",
    AppConfig: "port: 0\n",
    ServeConfig: "model: m\n",
    SetCheckConfig: "root: r\n",
    CheckConfig: "store: s\n",
    StudyConfig: "base: b\nrecipes: [a]\ngrid: {stage2.seed: [1]}\nwords: {eval: [a]}\n",
    BaseConfig: "stage1: a\nstage2: b\neval: c\ntriples: {root: r, task: t}\n",
    RecipeConfig: "source: s\n",
}

for _like, _others in {
    Stage1Config: [Stage1PlanConfig],
    Stage2Config: [Stage2PlanConfig, Stage2CheckConfig, TuneConfig],
    MineConfig: [BatchesConfig, JudgeConfig],
}.items():
    LEAST |= dict.fromkeys(_others, LEAST[_like])
OWN = {  # of each class that has the settings of another too: those of its own
    Stage1PlanConfig: ("gpu", "plan"),
    Stage2PlanConfig: ("gpu", "plan"),
    Stage2CheckConfig: ("check",),
    TuneConfig: ("stage1", "eval_"),
    BatchesConfig: ("clusters", "seed"),
    JudgeConfig: ("judge",),
}

CLASSES = [pytest.param(cls, id=cls.__name__) for cls in LEAST]


def settings_of(cls: type, prefix: str = "") -> list[tuple[str, Any]]:
    """Every key of a class and its type; of mappings with free keys the entry that LEAST has."""
    found = []
    hints = get_type_hints(cls, include_extras=True)
    entries = {"sources": "A", "models": "a", "leaderboard": "a", "overrides": "stage1",
               "mixture": "b", "columns": "A", "grid": "stage2.seed", "words": "eval"}  # fmt: skip
    for entry in fields(cls):
        key, hint = prefix + entry.name, hints[entry.name]
        if not key.startswith(OWN.get(cls, "")):
            continue
        found.append((key, hint))
        hint = without_bounds(hint)
        if get_origin(hint) is dict:
            key, hint = f"{key}.{entries.get(entry.name, 'a')}", get_args(hint)[1]
            found.append((key, hint))
        if is_dataclass(hint):
            found += settings_of(hint, f"{key}.")  # type: ignore[arg-type]
    return found


def file_of(folder: Path, text: str, name: str = "file.yaml") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8", errors="surrogatepass")
    return path
