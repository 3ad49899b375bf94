"""Every shipped configuration loads, the paper's numbers are in them, and mistakes are explained.

./launch.sh test tests/config/test_shipped.py
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml
from accelerate.commands.config.config_args import load_config_from_file

from data_prep.demo.data import DemoDataConfig
from data_prep.demo.triples import TriplesConfig
from data_prep.demo_base.pretrain import PretrainConfig
from data_prep.real_llm.data import RealLlmConfig
from eval.study.settings import BaseConfig as StudyBase
from eval.study.settings import RecipeConfig, StudyConfig
from stages.demo import DemoConfig
from tests.support.paths import CONFIGS
from unime.config import (
    BatchesConfig,
    EvalConfig,
    JudgeConfig,
    MineConfig,
    Precision,
    ReportConfig,
    Stage1Config,
    Stage1PlanConfig,
    Stage2Config,
    TeacherConfig,
    TuneConfig,
    build_config,
    dump_config,
    load_config,
)
from unime.errors import ConfigError

CLASSES = {
    "stage1": Stage1Config,
    "stage2": Stage2Config,
    "eval": EvalConfig,
    "released": EvalConfig,
    "baselines": EvalConfig,
    "report": ReportConfig,
    "mine": MineConfig,
    "judge": JudgeConfig,
    "teacher": TeacherConfig,
    "data": DemoDataConfig,
    "demo": DemoConfig,
    "base": PretrainConfig,
    "own": TuneConfig,
    "batches": BatchesConfig,
    "study": StudyConfig,
    "bases": StudyBase,
    "recipes": RecipeConfig,
    "triples": TriplesConfig,
}
OPEN = ["data.root=r", "output_dir=o", "model.name=m"]  # launch.sh says these
LEFT_OPEN = {"mine": OPEN, "judge": OPEN}
BACKBONES = (
    "llava-1.6-7b llava-onevision-7b phi3.5-v qwen2-vl-2b qwen2-vl-7b qwen2.5-vl-3b qwen3-vl-2b"
    " smolvlm-256m".split()
)
NUM_GPUS = 8  # the paper's 8 A100


def shipped(folder: str) -> list[Path]:
    return sorted((CONFIGS / folder).glob("*.yaml"))


def class_of(path: Path) -> type:
    """By the folder; those of examples have one of each, which their names tell apart."""
    if path.parent.name == "real_llm" and path.stem == "data":
        return RealLlmConfig
    of_one_example = ("demo", "stamps", "real_llm", "configs")
    name = path.stem if path.parent.name in of_one_example else path.parent.name
    if name in CLASSES:
        return CLASSES[name]
    raise AssertionError(f"{path}: which dataclass reads it? Say so in {__file__}")


def relative(path: Path) -> str:
    return str(path.relative_to(CONFIGS))


PROGRAM_CONFIGS = [
    path
    for path in sorted(CONFIGS.rglob("*.yaml"))
    if path.parent.name not in ("accelerate", "suites")
]


@pytest.mark.parametrize("path", PROGRAM_CONFIGS, ids=relative)
def test_every_shipped_config_loads(path: Path, tmp_path: Path) -> None:
    kind = path.stem if path.parent == CONFIGS else path.parent.name
    config = build_config(class_of(path), path, LEFT_OPEN.get(kind))
    (tmp_path / "resolved.yaml").write_text(dump_config(config))
    assert build_config(class_of(path), tmp_path / "resolved.yaml") == config


def test_every_backbone_has_every_config() -> None:
    for folder in ("stage1", "stage2", "eval", "report"):
        found = [path.stem for path in shipped(folder) if path.stem != "miniatures"]
        assert found == BACKBONES, folder


@pytest.mark.parametrize("name", BACKBONES)
def test_the_programs_of_a_backbone_fit_together(name: str) -> None:
    stage1 = build_config(Stage1Config, CONFIGS / f"stage1/{name}.yaml")
    stage2 = build_config(Stage2Config, CONFIGS / f"stage2/{name}.yaml")
    evaluation = build_config(EvalConfig, CONFIGS / f"eval/{name}.yaml")
    report = build_config(ReportConfig, CONFIGS / f"report/{name}.yaml")
    for other in (stage2.model, evaluation.model):
        assert (other.name, other.revision) == (stage1.model.name, stage1.model.revision)
        assert other.quantization is stage1.model.quantization
        assert other.trust_remote_code is stage1.model.trust_remote_code
    assert stage2.model.adapter == f"{stage1.run.output_dir}/final"
    assert evaluation.model.adapter == f"{stage2.run.output_dir}/final"
    assert evaluation.inputs == stage2.inputs
    assert report.models["stage1_stage2"] == evaluation.output_dir
    assert report.suite == evaluation.data.suite


@pytest.mark.parametrize("name", BACKBONES)
def test_the_papers_values(name: str) -> None:
    stage1 = build_config(Stage1Config, CONFIGS / f"stage1/{name}.yaml")
    stage2 = build_config(Stage2Config, CONFIGS / f"stage2/{name}.yaml")
    assert stage1.optim.batch_size_per_device * NUM_GPUS == 768
    assert (stage1.optim.learning_rate, stage1.optim.epochs, stage1.lora.rank) == (5e-4, 2, 32)
    assert stage2.optim.batch_size_per_device * NUM_GPUS == 1024
    assert (stage2.optim.steps, stage2.lora.rank) == (1000, 16)
    assert (stage2.loss.num_hard_negatives, stage2.loss.false_negative_margin) == (8, 0.1)
    rates = {"phi3.5-v": 1e-4, "llava-1.6-7b": 2e-5}
    assert stage2.optim.learning_rate == rates.get(name, stage2.optim.learning_rate)


@pytest.mark.parametrize("path", shipped("stage2"), ids=relative)
def test_training_sees_the_20_subsets_and_nothing_else(path: Path) -> None:
    sources = build_config(Stage2Config, path).data.sources
    assert {source.rows for source in sources.values()} == {50_000}
    # MMEB-train's names; old revisions also hold CIFAR_100, FashionIQ and other test sets
    assert sorted(sources) == sorted(
        "A-OKVQA CIRR ChartQA DocVQA HatefulMemes ImageNet_1K InfographicsVQA MSCOCO MSCOCO_i2t"
        " MSCOCO_t2i N24News NIGHTS OK-VQA SUN397 VOC2007 VisDial Visual7W VisualNews_i2t"
        " VisualNews_t2i WebQA".split()
    )


def test_stage1_reads_the_store_that_the_teacher_config_fills() -> None:
    stores = {
        (teacher.output_dir, *teacher.texts, *teacher.columns)
        for teacher in (build_config(TeacherConfig, path) for path in shipped("teacher"))
    }
    for path in shipped("stage1"):
        data = build_config(Stage1Config, path).data
        assert (data.teacher, *data.texts, *data.columns) in stores, path


@pytest.mark.parametrize("path", shipped("accelerate"), ids=relative)
def test_accelerate_files_say_where_and_never_what(path: Path) -> None:
    load_config_from_file(str(path))  # raises on a key that accelerate doesn't know
    text = path.read_text()
    for word in ("batch", "accumulation", "learning", "lr", "clipping"):
        assert word not in yaml.safe_load(text), f"{path}: {word}"
        assert f"{word}_" not in text and f"_{word}" not in text, f"{path}: {word}"


# Mistakes ----------------------------------------------------------------------------------------

STAGE1, STAGE2 = CONFIGS / "stage1/qwen2-vl-2b.yaml", CONFIGS / "stage2/qwen2-vl-2b.yaml"
EVALUATION, REPORT = CONFIGS / "eval/qwen2-vl-2b.yaml", CONFIGS / "report/qwen2-vl-2b.yaml"
TEACHER = CONFIGS / "teacher/nli.yaml"
OUT_OF_BOUNDS = {  # wrong types: test_values.py
    (Stage1Config, STAGE1): "data.limit=0 data.texts=[''] model.precision=float16"
    " loss.student_temperature=-1",
    (Stage1PlanConfig, STAGE1): "gpus=0 plan.utilisation=2",
    (Stage2Config, STAGE2): "data.on_bad_row=keep data.sources.MSCOCO.rows=0"
    " data.sources.MSCOCO.sample=last data.sources.MSCOCO.weight=0 data.sources={}"
    " inputs.max_image_pixels=0 inputs.prompt=haiku inputs.resolution=0"
    " inputs.resolution=20001x336 inputs.resolution=1..400000001"
    " lora.alpha=0 lora.dropout=1 lora.rank=0 lora.train=[] lora.train=[tower]"
    " loss.hard_negatives_after=-1 loss.num_hard_negatives=0 loss.temperature=0"
    " loss.temperature=5e-05 model.precision=float16 optim.batch_size_per_device=0"
    " optim.beta1=1 optim.beta2=-0.1 optim.chunk_size=0 optim.epsilon=0 optim.learning_rate=0"
    " optim.max_grad_norm=0 optim.warmup_steps=1001 optim.weight_decay=-1"
    " run.log_every=0 run.seed=-1 run.trackers=[mlflow]",
    (EvalConfig, EVALUATION): "data.tasks=[] num_workers=-1",
    (ReportConfig, REPORT): "bootstrap_samples=0 meta_tasks=[] seed=-1",
    (TeacherConfig, TEACHER): "batch_size=0",
}


@pytest.mark.parametrize(
    ("cls", "path", "word"),
    [(*of, word) for of, words in OUT_OF_BOUNDS.items() for word in words.split()],
)
def test_a_value_out_of_its_bounds_is_named(cls: type, path: Path, word: str) -> None:
    key, _, value = word.partition("=")
    with pytest.raises(ConfigError) as error:
        build_config(cls, path, [word])
    assert str(error.value).startswith(f"command line: {key}: got ")
    assert value.strip("[]") in str(error.value) and ", expected " in str(error.value)


MISTAKES = [
    (Stage2Config, STAGE2, ["loss.temprature=0.1"],
     "command line: unknown key 'loss.temprature'; the nearest valid key is 'loss.temperature'"),
    (Stage2Config, STAGE2, ["optim.gradient_accumulation_steps=4"],
     "command line: unknown key 'optim.gradient_accumulation_steps'"),
    (Stage2Config, STAGE2, ["data.sources.MSCOCO.row=5"],
     "unknown key 'data.sources.MSCOCO.row'; the nearest valid key is 'data.sources.MSCOCO.rows'"),
    (Stage2Config, STAGE2, ["data.sources.New.weigth=2"], "key is 'data.sources.New.weight'"),
    (Stage2Config, STAGE2, ["data.source.MSCOCO.rows=5"], "nearest valid key is 'data.sources'"),
    (Stage2Config, STAGE2, ["optim=null"], "command line: optim: "),
    (Stage2Config, STAGE2, ["optim.steps=${epochs}"], "optim.steps: Interpolation key"),
    (Stage2Config, STAGE2, ["loss.temperature"], "expected key=value, got 'loss.temperature'"),
    (Stage2Config, STAGE2, ["loss.num_hard_negatives=null", "loss.on_short=repeat"],
     "loss.on_short: got 'repeat', expected mask when loss.num_hard_negatives is null"),
    (Stage2Config, STAGE2, ["optim.epochs=1"],
     "optim.steps: got 'steps=1000, epochs=1.0', expected one of steps and epochs"),
    (Stage2Config, STAGE2, ["optim.steps=null"], "expected one of steps and epochs"),
    (Stage2Config, STAGE2, ["validation.every=5", "validation.share=1"], "validation.share: got 1"),
    (Stage1Config, STAGE1, ["data.rows_together=true", "data.columns=[sent0]"],
     "data.rows_together: got True, expected false with one of data.columns"),
    (Stage1Config, STAGE1, ["lora.train=[llm, vision]"], "expected [llm]: stage 1 runs"),
    (Stage1Config, STAGE2, [], "stage2/qwen2-vl-2b.yaml: unknown key 'data."),
    (Stage1Config, CONFIGS / "stage1/none.yaml", [], "none.yaml"),
]  # fmt: skip


@pytest.mark.parametrize(("cls", "path", "overrides", "message"), MISTAKES)
def test_mistakes_name_the_key(cls: type, path: Path, overrides: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        build_config(cls, path, overrides)


FILES = [
    ("optim: [1, 2]", "optim: got '[1, 2]', expected a mapping"),
    ("loss: {temprature: 0.1}", "unknown key 'loss.temprature'; the nearest valid key is 'loss.t"),
    ("[1, 2]", "got '[1, 2]', expected a mapping"),
    ("run: {output_dir: x", ""),
    ("run: {output_dir: x}", "no value for "),
]


@pytest.mark.parametrize(("text", "message"), FILES)
def test_mistakes_in_a_file_name_the_file(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "file.yaml").write_text(text)
    with pytest.raises(ConfigError, match=re.escape(f"file.yaml: {message}")):
        build_config(Stage2Config, tmp_path / "file.yaml")


def test_a_program_ends_with_the_message(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        load_config(Stage2Config, ["--config", str(STAGE2), "loss.temprature=0.1"])
    assert stop.value.code == 2
    assert capsys.readouterr().err.startswith("error: command line: unknown key 'loss.temprature'")


def test_numbers_with_exponents_are_numbers() -> None:
    config = build_config(Stage2Config, STAGE2, ["optim.learning_rate=2e-4"])
    assert config.optim.learning_rate == 2e-4


def test_float16_is_for_evaluation() -> None:
    config = build_config(EvalConfig, EVALUATION, ["model.precision=float16"])
    assert config.model.precision is Precision.float16
