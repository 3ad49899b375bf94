"""Every setting of the stages, teacher, evaluation and report, as typed dataclasses, from top to
bottom as a run is described.

    load_config(Stage2Config, ["--config", "configs/demo/stage2.yaml", "loss.temperature=0.03"])

Defaults here, then the YAML file, then ``key=value`` words. Unknown keys, wrong types and
impossible combinations are a :class:`ConfigError` that names the key (and the nearest valid one)
before anything is loaded. What runs *where* (GPUs, ZeRO) is accelerate's configuration, not ours.
"""

from unime.config.checks import CheckConfig, DataCheck, SetCheckConfig, Stage2CheckConfig
from unime.config.data import Mixing, PairData, PairSource, TeacherConfig, TextData
from unime.config.evaluation import (
    EmbeddingConfig,
    EncoderKind,
    EvalConfig,
    EvalData,
    ReportConfig,
)
from unime.config.export import ExportConfig, ExportForm
from unime.config.loader import build_config, dump_config, load_config
from unime.config.losses import (
    DistillationLossConfig,
    HardNegativeLossConfig,
    LossConfig,
    Objective,
    OnShort,
)
from unime.config.mining import (
    BatchesConfig,
    ClusterConfig,
    JudgeConfig,
    MineConfig,
    MineData,
    MiningConfig,
    SecondConfig,
)
from unime.config.model import (
    INPUT_DEFAULTS,
    PARTS,
    InputConfig,
    LoraSettings,
    ModelConfig,
    Precision,
    Quantization,
)
from unime.config.planning import Engine, PlanConfig, Stage1PlanConfig, Stage2PlanConfig
from unime.config.preparing import TRAIN_SUBSETS, MmebConfig, OwnDataConfig
from unime.config.searching import AppConfig, IndexConfig, SearchConfig, VectorStoreConfig
from unime.config.serving import ServeConfig
from unime.config.training import (
    TRACKERS,
    OnCollapse,
    OnNonfinite,
    OptimConfig,
    Optimizer,
    ResumeConfig,
    RunConfig,
    Schedule,
    Stage1Config,
    Stage2Config,
    TuneConfig,
    TuneStage1,
    ValidationConfig,
)
from unime.errors import ConfigError
