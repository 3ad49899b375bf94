"""Every setting of every program, given wrongly, is one error; a text stays what was typed.

./launch.sh test tests/config/test_values.py
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
from dataclasses import is_dataclass
from pathlib import Path
from types import UnionType
from typing import Any, get_args, get_origin

import pytest
import yaml

from data_prep.demo.triples import TriplesConfig
from eval.study.settings import RecipeConfig
from tests.support.paths import CONFIGS, ROOT
from tests.support.settings import CLASSES, LEAST, OWN, file_of, settings_of
from unime.config import (
    ReportConfig,
    Stage1Config,
    Stage2Config,
    TeacherConfig,
    build_config,
    dump_config,
    load_config,
)
from unime.config.reading.descriptions import summary
from unime.config.reading.values import without_bounds, without_none
from unime.config.settings import FilePath
from unime.errors import ConfigError


def file_with(cls: type, key: str, value: str) -> str:
    """The right file with this setting in it, written so."""
    settings = yaml.safe_load(LEAST[cls])
    *above, last = key.split(".")
    place = settings
    for name in above:
        place = place.setdefault(name, {})
    place[last] = "HERE"
    return str(yaml.dump(settings)).replace("HERE", value)


WRONG = {  # of each type what it cannot be
    int: ["1.5", "true", "a", "[1]", "{a: 1}", "''", "1e3", "2024-01-01", "${nowhere}", "${"],
    float: ["true", "a", "[1]", "{a: 1}", ".inf", ".nan", "nan", "-inf", "1e999", "''"],
    bool: ["1.5", "5", "a", "[true]", "{a: 1}", "''", "${nowhere}"],
    str: ["[a]", "{a: b}", "${nowhere}", "${oc.env:NO_SUCH_VARIABLE}"],
    list: ["a", "5", "{a: b}", "[[a]]", "[{a: b}]", "true", "[null]", "[${nowhere}]", "''"],
    dict: ["a", "5", "[a]", "true", "{'': a}", "{[a]: b}", "''"],
    "group": ["a", "5", "[a]", "{no_such_key: 1}", "{5: 1}", "''", "{<<: 5}"],
    UnionType: ["a", "[5]", "true", "-1", "{a: b}", "''"],  # auto or a number
    "enum": ["a", "5", "[a]", "true", "1.5", "{a: b}", "''"],
}
NO_YAML = ["[a", "{a: b", "a: b: c", "'a", "*nowhere", "&", "{a: 1, a: 2}", "!!python/name:os.x"]


def wrong_values(hint: Any) -> list[str]:
    inner = without_none(hint)[0]
    if inner == FilePath:
        return [*WRONG[str], "''"]
    inner = without_bounds(inner)
    if is_dataclass(inner):
        return [*WRONG["group"], *NO_YAML]
    if inner is Any:
        return []
    if get_args(inner) == (Any,):  # a list of whatever there is
        return [value for value in WRONG[list] if not value.startswith("[") or "nowhere" in value]
    whole = get_origin(inner) is UnionType and int in get_args(inner)  # auto or a number of steps
    return WRONG.get(get_origin(inner) or inner, WRONG["enum"]) + ["1.5"] * whole


@pytest.mark.parametrize("cls", CLASSES)
def test_a_wrong_value_of_any_setting_names_place_and_key(cls: type, tmp_path: Path) -> None:
    right = file_of(tmp_path, LEAST[cls], "right.yaml")
    build_config(cls, right)
    seen = settings_of(Stage2Config) if cls is Stage1Config else []  # stage 2 has most of them
    for key, hint in (setting for setting in settings_of(cls) if setting not in seen):
        for value in wrong_values(hint):
            is_text = without_bounds(without_none(hint)[0]) is str
            if not (is_text and value[0] in "[{"):  # which a text may begin with
                with pytest.raises(ConfigError) as typed:
                    build_config(cls, right, [f"{key}={value}"])
                assert str(typed.value).startswith("command line: "), (key, value)
                assert key.split(".")[-1] in str(typed.value), (key, value)
            with pytest.raises(ConfigError) as written:
                build_config(cls, file_of(tmp_path, file_with(cls, key, value)))
            assert "file.yaml: " in str(written.value), (key, value)
            assert key.split(".")[-1] in str(written.value), (key, value)


def junk(numbers: random.Random, depth: int = 0) -> str:
    """Text that may be YAML, or nearly."""
    atoms = ["a", "5", "1e3", "~", "null", "yes", "'", '"', "${", "${x}", "???", "#", " ", ": ",
             "\n", "- ", "&a ", "*a", "!!int ", "!!set ", "<<", ",", "%", "@", "`", "|", ">", "\t",
             "---", "=", ".", "\x00", "\ud800", "é", "0x1F", "1:30", "2024-01-01", "_", "{", "}",
             "[", "]", "optim", "run", "models", "data", "sources", "..", "\\"]  # fmt: skip
    if depth < 3 and numbers.random() < 0.4:
        parts = [junk(numbers, depth + 1) for _ in range(numbers.randrange(4))]
        keyed = [f"{numbers.choice(atoms)}: {part}" for part in parts]
        return numbers.choice([f"[{', '.join(parts)}]", f"{{{', '.join(keyed)}}}"])
    return "".join(numbers.choices(atoms, k=numbers.randrange(1, 5)))


@pytest.mark.parametrize("cls", CLASSES)
def test_junk_is_never_another_exception(cls: type, tmp_path: Path) -> None:
    numbers = random.Random(cls.__name__)
    keys = [key for key, _ in settings_of(cls)]
    right = file_of(tmp_path, LEAST[cls], "right.yaml")
    outcomes = set()
    for _ in range(60):
        key = numbers.choice(keys)
        word = numbers.choice([f"{key}={junk(numbers)}", f"{key}{junk(numbers)}", junk(numbers)])
        text = numbers.choice([file_with(cls, key, junk(numbers)), LEAST[cls] + junk(numbers)])
        for path, words in ((right, [word]), (file_of(tmp_path, text), list[str]())):
            try:
                build_config(cls, path, words)
                outcomes.add("taken")
            except ConfigError as error:
                outcomes.add("refused")
                assert str(error).startswith(("command line: ", str(path))), (words, str(error))
    assert outcomes == {"taken", "refused"}


@pytest.mark.parametrize(
    "content",
    [
        b"\xff\xfe\x00", b"a: \xe9", b"a: 1\x00", b"--- 1\n--- 2", b"[" * 5000, b"&a [*a]",
        b"leaderboard: &a {x: *a}", b"<<: &a {<<: *a}", b"models: {<<: [5]}",
        b"seed: " + b"9" * 5000,
    ],
)  # fmt: skip
def test_a_file_that_cannot_be_read_is_named(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "file.yaml").write_bytes(content)
    with pytest.raises(ConfigError, match=r"file\.yaml: "):
        build_config(ReportConfig, tmp_path / "file.yaml")


# Texts -------------------------------------------------------------------------------------------

STAGE2, REPORT = CONFIGS / "stage2/qwen2-vl-2b.yaml", CONFIGS / "report/qwen2-vl-2b.yaml"
TEACHER = CONFIGS / "teacher/nli.yaml"
LOOK_ALIKE = ["4e53218", "0123456", "1.10", "1_000", "0x1F", "1:30", "no", "2024-01-01", "1e5",
              "-5", ".inf", "True"]  # fmt: skip
TEXTS = [*LOOK_ALIKE, "runs/try #2", "title: none | text: ", " a", "a=b", "[a", "{a}", "it's", "'",
         "'a' or 'b'", "a, b", "*", "%x", "- a", "~", "NULL", ""]  # fmt: skip


@pytest.mark.parametrize("text", TEXTS)
def test_a_text_on_the_command_line_is_what_was_typed(text: str, tmp_path: Path) -> None:
    config = build_config(TeacherConfig, TEACHER, [f"prompt={text}", f"revision={text}"])
    assert (config.prompt, config.revision) == (text, text)
    (tmp_path / "resolved.yaml").write_text(dump_config(config))
    assert build_config(TeacherConfig, tmp_path / "resolved.yaml") == config


@pytest.mark.parametrize("text", LOOK_ALIKE)
def test_a_file_has_such_a_text_in_quotes(text: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as error:
        build_config(TeacherConfig, file_of(tmp_path, LEAST[TeacherConfig] + f"revision: {text}"))
    assert f"file.yaml: revision: got {text}, expected a text, or null: write it in quotes" in str(
        error.value
    )
    quoted = file_of(tmp_path, LEAST[TeacherConfig] + f"revision: '{text}'")
    assert build_config(TeacherConfig, quoted).revision == text


def test_quotes_around_the_whole_and_null_are_not_part_of_a_text() -> None:
    words = ["prompt='query: '", 'name="a \\"b\\""', "revision=null"]
    config = build_config(TeacherConfig, TEACHER, words)
    assert (config.prompt, config.name, config.revision) == ("query: ", 'a "b"', None)
    assert build_config(TeacherConfig, TEACHER, ["revision='null'"]).revision == "null"
    with pytest.raises(ConfigError, match="command line: prompt: got 'null', expected a text"):
        build_config(TeacherConfig, TEACHER, ["prompt=null"])


def test_lists_and_mappings_of_texts_keep_them() -> None:
    words = ["texts=[1.10, 0123, 'a, b', no]", "columns=[text, 4e5]"]
    config = build_config(TeacherConfig, TEACHER, words)
    assert config.texts == ["1.10", "0123", "a, b", "no"]
    assert config.columns == ["text", "4e5"]
    words = ["baseline=1.5", "models={a: 007, 1.5: no}", "models.qwen2.5=runs/try #2"]
    models = build_config(ReportConfig, REPORT, words).models
    assert models == {"a": "007", "1.5": "no", "qwen2.5": "runs/try #2"}


def test_interpolations_work_in_words_and_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PLACE", "4e53218")
    words = ["model.revision=${oc.env:PLACE}", "run.output_dir=${data.root}/${run.seed}"]
    config = build_config(Stage2Config, STAGE2, ["data.root=d", *words])
    assert (config.model.revision, config.run.output_dir) == ("4e53218", "d/0")
    with pytest.raises(ConfigError, match="no value for run.output_dir"):
        build_config(Stage2Config, STAGE2, ["run.output_dir=???"])
    path = file_of(tmp_path, LEAST[TeacherConfig] + "prompt: ${name}")
    config = build_config(TeacherConfig, path, ["batch_size=${oc.decode:'8'}"])
    assert (config.batch_size, config.prompt) == (8, "n")


@pytest.mark.parametrize(
    "text",
    [
        "${oc.env:PLACE}",
        "a/${ oc.env :PLACE}",
        "${oc.decode:'8'}",
        "${${name}:PLACE}",
        "${a${name}}",
    ],
)
def test_a_file_calls_no_function(
    text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PLACE", "secret")
    path = file_of(tmp_path, LEAST[TeacherConfig] + f'prompt: "{text}"')
    with pytest.raises(ConfigError, match="prompt: got .* for the command line") as error:
        build_config(TeacherConfig, path)
    assert "secret" not in str(error.value)


# Paths, numbers, mappings ------------------------------------------------------------------------


@pytest.mark.parametrize("cls", CLASSES)
def test_every_path_may_begin_with_the_users_folder(
    cls: type, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", "/home/someone")
    paths = {
        key: hint
        for key, hint in settings_of(cls)
        if FilePath in (hint, *get_args(hint))
        and get_origin(without_bounds(hint)) is not dict
        and not (cls is Stage1Config and key.startswith("validation."))  # which reads no suite
    }
    for key, hint in paths.items():
        words = ["validation.every=5", "validation.suite=s"] if "validation." in key else []
        words += ["data.mixing=mined"] * (key == "data.clusters")
        name = "x.jsonl" if cls is TriplesConfig else "x.json"
        value = f"[~/{name}]" if get_origin(without_bounds(hint)) is list else f"~/{name}"
        config: Any = build_config(cls, file_of(tmp_path, LEAST[cls]), [*words, f"{key}={value}"])
        for part in key.split("."):
            config = config[part] if isinstance(config, dict) else getattr(config, part)
        assert config in (f"/home/someone/{name}", [f"/home/someone/{name}"]), key
    assert paths or cls in (*OWN, RecipeConfig)


def test_two_names_of_one_file_are_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/someone")
    words = ["output=~/r.json", "html=/home/someone/r.json"]
    with pytest.raises(ConfigError, match="html: got '/home/someone/r.json', expected another"):
        build_config(ReportConfig, REPORT, words)


def test_sources_are_replaced_added_changed_and_dropped() -> None:
    def sources(*words: str) -> dict[str, Any]:
        return build_config(Stage2Config, STAGE2, list(words)).data.sources

    assert list(sources("data.sources={T: {rows: 5}}")) == ["T"]
    assert list(sources("data={sources: {T: {}}}")) == ["T"]
    assert list(sources("data.sources={}", "data.sources.A.rows=3", "data.sources.B={}")) == [
        "A",
        "B",
    ]
    assert "CIRR" in sources() and "CIRR" not in sources("data.sources.CIRR=null")
    changed = sources("data.sources.CIRR={weight: 2}")["CIRR"]
    assert (changed.weight, changed.rows) == (2.0, 50_000)
    with pytest.raises(ConfigError, match="data.sources.Nothing: got 'null', expected one that is"):
        sources("data.sources.Nothing=null")
    with pytest.raises(ConfigError, match="data.sources: got {}, expected at least one"):
        sources("data.sources={}")


def test_models_of_a_report_are_dropped_and_replaced() -> None:
    words = ["baseline=null", "models.base=null"]
    assert "base" not in build_config(ReportConfig, REPORT, words).models
    config = build_config(ReportConfig, REPORT, ["models={a: b}", "baseline=a"])
    assert config.models == {"a": "b"}


# Programs ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("words", [["--optim.steps=5"], ["loss.temperature=1", "--optim.steps=5"]])
def test_a_setting_with_dashes_says_how_it_is_written(
    words: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.argv", ["stage2"])  # of a process of several that run tests: -c
    with pytest.raises(SystemExit) as stop:
        load_config(Stage2Config, ["--config", str(STAGE2), *words])
    assert stop.value.code == 2
    said = capsys.readouterr().err
    assert "got --optim.steps=5; settings are written key=value, without dashes: optim.st" in said
    assert "-c:" not in said


def test_the_programs_own_name_is_in_its_usage(tmp_path: Path) -> None:
    script = "from unime.config import TeacherConfig, load_config; load_config(TeacherConfig, [])"
    (tmp_path / "program.py").write_text(script)
    words = [sys.executable, "-m", "program"]
    path = os.pathsep.join([str(tmp_path), str(ROOT)])
    done = subprocess.run(
        words, capture_output=True, text=True, check=False, env=os.environ | {"PYTHONPATH": path}
    )
    assert done.returncode == 2
    assert "python -m program: error: " in done.stderr


@pytest.mark.parametrize("stage", ["stage1", "stage2"])
def test_a_run_begins_with_what_differs_from_the_defaults(stage: str) -> None:
    cls = {"stage1": Stage1Config, "stage2": Stage2Config}[stage]
    config = build_config(cls, CONFIGS / stage / "qwen2-vl-2b.yaml", ["lora.dropout=0.25"])
    lines = summary(config)
    assert len(lines) <= 10 and max(map(len, lines)) < 300
    said = "\n".join(lines)
    assert f"learning_rate={config.optim.learning_rate}" in said and "dropout=0.25" in said
    assert "beta1" not in said and "save_total_limit" not in said
    word = f"lora.{said.split('lora: ')[1].split()[0]}"  # as it is typed
    build_config(cls, CONFIGS / stage / "qwen2-vl-2b.yaml", [word])


def test_print_config_shows_every_setting(capsys: pytest.CaptureFixture[str]) -> None:
    """Options may stand between settings."""
    words = ["run.seed=7", "--config", str(STAGE2), "--print-config", "run.log_every=3"]
    with pytest.raises(SystemExit) as stop:
        load_config(Stage2Config, words)
    assert stop.value.code == 0
    shown = yaml.safe_load(capsys.readouterr().out)
    assert (shown["run"]["seed"], shown["run"]["log_every"]) == (7, 3)
    assert shown["loss"]["on_short"] == "mask"
