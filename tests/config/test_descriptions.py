"""Every setting says what it takes and means: in --help, --print-config and docs/settings.md.

./launch.sh test tests/config/test_descriptions.py
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from data_prep.demo_base.pretrain import PretrainConfig
from tests.support.paths import CONFIGS, ROOT
from tests.support.settings import CLASSES, LEAST, file_of, settings_of
from unime.config import (
    EvalConfig,
    HardNegativeLossConfig,
    LoraSettings,
    Stage1Config,
    Stage2Config,
    build_config,
    load_config,
)
from unime.config.evaluation import EmbeddingConfig
from unime.config.reading.descriptions import commented, help_of
from unime.config.settings import Settings
from unime.errors import ConfigError

STAGE2 = CONFIGS / "stage2/qwen2-vl-2b.yaml"


@pytest.mark.parametrize("cls", CLASSES)
def test_every_setting_says_what_it_means_and_takes(cls: type, tmp_path: Path) -> None:
    config: Any = build_config(cls, file_of(tmp_path, LEAST[cls]))
    text = commented(config)
    assert build_config(cls, file_of(tmp_path, text, "commented.yaml")) == config
    said = help_of(cls)
    for key, _ in settings_of(cls):
        if not key.endswith((".a", ".A", ".b", ".stage1", ".eval", ".stage2.seed")):  # free names
            assert f"  {key}: ".replace(".A.", ".NAME.").replace(".a.", ".NAME.") in said


def test_odd_texts_are_commented_too(tmp_path: Path) -> None:
    least = file_of(tmp_path, LEAST[EvalConfig], "least.yaml")
    for text in ["", " a ", "'", "a # b", "1e5", "a\n\n  b: c\n", "a: b\n" * 50, "word " * 50]:
        config = build_config(EvalConfig, least, [f"model.revision={text}"])
        assert build_config(EvalConfig, file_of(tmp_path, commented(config))) == config


def test_type_bounds_default_and_meaning_stand_in_help_and_page(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    said = " ".join(help_of(Stage1Config).split())
    assert "lora.rank: of the low-rank matrices (a whole number, positive; default 32)" in said
    assert "model.name: hub id" in said and "that names them (a path; required)" in said
    monkeypatch.syspath_prepend(ROOT / "docs")
    page = importlib.import_module("make_pages").settings_page()
    assert (ROOT / "docs/settings.md").read_text("utf-8") == page, "run python -m docs.make_pages"
    assert "| `lora.rank` | a whole number, positive | 32 | of the low-rank matrices |" in page
    assert page.count("## All settings") == 1


def test_every_program_is_on_the_page_and_in_the_tests(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ROOT / "docs")
    shown = set(importlib.import_module("make_pages").PROGRAMS.values())
    classes = set(classes_of_files(Settings)) - {EmbeddingConfig}  # what several programs share
    assert classes - shown == {PretrainConfig}  # which made assets/base
    assert classes == set(LEAST)


def classes_of_files(cls: type[Settings]) -> Iterator[type[Settings]]:
    """The classes below one that have no section of a file, but all of it."""
    for below in cls.__subclasses__():
        yield from classes_of_files(below)
        if not below.section and not below.__module__.startswith("tests."):
            yield below


def test_programs_show_them(capsys: pytest.CaptureFixture[str]) -> None:
    for words, shown in {
        ("--help",): "  loss.temperature: divides; ",
        (
            "--config",
            str(CONFIGS / "stage2/qwen2-vl-2b.yaml"),
            "--print-config",
        ): "  # divides; 0.02 as in the paper's",
    }.items():
        with pytest.raises(SystemExit) as stop:
            load_config(Stage2Config, list(words))
        assert stop.value.code == 0 and shown in capsys.readouterr().out


def test_bounds_hold_in_python_too() -> None:
    with pytest.raises(ConfigError, match="lora.rank: got 0, expected positive"):
        LoraSettings(rank=0)
    with pytest.raises(ConfigError, match="loss.temperature: got inf, expected a finite number"):
        HardNegativeLossConfig(temperature=float("inf"))
    assert LoraSettings().train is not LoraSettings().train
