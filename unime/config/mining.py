"""Settings of mining: which targets of a whole corpus become a row's explicit negatives."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated

from omegaconf import MISSING

from unime.config.data import ANSWER_COLUMN, FOLLOW_LINKS, PairData, PairSource
from unime.config.evaluation import EmbeddingConfig, EncoderKind
from unime.config.settings import (
    Bounds,
    FilePath,
    NotEmpty,
    NotNegative,
    Positive,
    Seed,
    Settings,
    one_of,
    setting,
)
from unime.errors import require

Cosine = Annotated[float, Bounds("in [-1, 1]", lambda value: -1 <= value <= 1)]
Bits = Annotated[int, Bounds("in [0, 64]", lambda value: 0 <= value <= 64)]


@dataclass
class MiningConfig(Settings, section="mining"):
    """Search and rules (unime/mining/), named as sentence-transformers' `mine_hard_negatives`
    names them."""

    num_negatives: Positive[int] = setting(4, "different ones of each row, or what there is")
    sampling_strategy: Annotated[str, one_of("top", "random")] = setting(
        "top", "which of those that no rule drops: the most similar, or any, by seed"
    )
    range_min: NotNegative[int] = setting(0, "so many of the most similar targets are left out")
    range_max: Positive[int] = setting(
        100,
        "how many of the most similar are looked at; right answers and rows' own negatives "
        "do not count",
    )
    false_negative_margin: float | None = setting(
        0.1, "UniME's beta: more similar than the positive by more than it is dropped; null: no"
    )
    absolute_margin: float | None = setting(
        None, "dropped unless less similar than the positive by so much; null: any"
    )
    relative_margin: NotNegative[float] | None = setting(
        None, "the same as a share of the positive's similarity: 0.05 is NV-Retriever's 95 %"
    )
    max_score: Cosine | None = setting(None, "more similar ones are dropped; null: any")
    min_score: Cosine | None = setting(None, "less similar ones are dropped; null: any")
    shared_targets: bool = setting(
        True, "targets of queries that share a right answer are right for each other"
    )
    near_duplicates: Bits | None = setting(
        None,
        "pictures whose perceptual hashes differ from the positive's or the query's in at most so "
        "many of 64 bits are dropped (4 to 8 are usual); null: not looked at",
    )
    search: Annotated[str, one_of("exact", "ivf")] = setting(
        "exact", "compare with every target, or with those of the nearest lists (FAISS)"
    )
    memory: Positive[float] = setting(1.0, "GiB that similarities take at a time, beside vectors")
    lists: Positive[int] | None = setting(None, "ivf: of the index; null: 2 √targets")
    probes: Positive[int] | None = setting(None, "ivf: lists that are read; null: half of them")

    def __post_init__(self) -> None:
        super().__post_init__()
        room = self.range_max - self.range_min
        expected = f"at least range_min + num_negatives, {self.range_min + self.num_negatives}"
        require(room >= self.num_negatives, "mining.range_max", self.range_max, expected)
        for key in ("lists", "probes"):
            value = getattr(self, key)
            require(
                value is None or self.search == "ivf", f"mining.{key}", value, "null without ivf"
            )
        within = None in (self.lists, self.probes) or self.probes <= self.lists  # type: ignore[operator]
        require(within, "mining.probes", self.probes, "at most mining.lists")


@dataclass
class MineData(Settings, section="data"):
    """The rows that get negatives: whatever stage 2 reads."""

    root: FilePath = setting(MISSING, "a prepared set, or MMEB-train's layout")
    revision: str | None = setting(None, "of root on the hub")
    split: str | None = setting(None, "as data.split of stage 2")
    image_root: FilePath | None = setting(None, "of the images; null: below root")
    follow_links: bool = setting(False, FOLLOW_LINKS)
    tasks: NotEmpty[list[str]] | None = setting(None, "a selection; null: all of a local folder")
    answer_column: str | None = setting(None, ANSWER_COLUMN)
    on_bad_row: Annotated[str, one_of("raise", "drop")] = setting(
        "raise", "dropped ones are listed"
    )
    verify_images: bool = setting(False, "read every image before any is embedded")

    def pairs(self, tasks: list[str]) -> PairData:
        """As stage 2 has them."""
        return PairData(
            root=self.root,
            revision=self.revision,
            split=self.split,
            image_root=self.image_root,
            follow_links=self.follow_links,
            sources={task: PairSource() for task in tasks},
            answer_column=self.answer_column,
            on_bad_row=self.on_bad_row,
            verify_images=self.verify_images,
        )


@dataclass
class SecondConfig(Settings, section="second"):
    """Another model that has to agree that a candidate is wrong."""

    config: FilePath | None = setting(
        None, "an evaluation's file (configs/eval/): its encoder, model and inputs; null: none"
    )
    max_score: Cosine | None = setting(None, "what it scores higher is dropped; null: any")
    margin: float | None = setting(
        0.0, "what it scores higher than the positive by more than this is dropped; null: any"
    )


@dataclass
class MineConfig(EmbeddingConfig):
    """Hard negatives for all rows of a training set (stages.mine)."""

    data: MineData = field(default_factory=MineData)
    mining: MiningConfig = field(default_factory=MiningConfig)
    second: SecondConfig = field(default_factory=SecondConfig)
    seed: Seed = setting(0, "of the random choice and of the examples")
    examples: NotNegative[int] = setting(20, "rows on the page")


@dataclass
class JudgeSettings(Settings, section="judge"):
    """What a judge makes of a row's target and negatives."""

    kind: Annotated[str, one_of("similarity", "yes_no")] = setting(
        "similarity",
        "similarity: the cosine by which an embedding model finds them; yes_no: the probability "
        "that a multimodal LLM answers the question with yes (UniME-V2, arXiv 2510.13515)",
    )
    question: NotEmpty[str] = setting(
        "You see a query and a candidate. Does the candidate fit what the query asks for? Answer "
        "with Yes or No.",
        "yes_no: what is asked, before the two",
    )
    yes: NotEmpty[str] = setting("Yes", "yes_no: the answer whose first token counts")
    no: NotEmpty[str] = setting("No", "yes_no: what it is compared with")
    false_negative_margin: float | None = setting(
        None, "negatives that score higher than the target plus this are left out; null: none are"
    )


@dataclass
class JudgeConfig(EmbeddingConfig):
    """Scores of all rows' candidates (data_prep.judge)."""

    data: MineData = field(default_factory=MineData)
    judge: JudgeSettings = field(default_factory=JudgeSettings)

    def __post_init__(self) -> None:
        super().__post_init__()
        asks = self.judge.kind == "yes_no"
        ours = not asks or self.encoder is EncoderKind.unime
        require(ours, "encoder", self.encoder.value, "unime with judge.kind yes_no")
        require(not asks or self.ray is None, "ray", self.ray, "null with judge.kind yes_no")
        if asks and self.inputs.prompt is None:
            self.inputs.prompt = "chat"  # the question alone


@dataclass
class ClusterConfig(Settings, section="clusters"):
    """Clusters of rows that are hard for one another (B3, arXiv 2505.11293, figure 1): a row's
    neighbours are those whose targets rank p to p + m for its query."""

    size: Positive[int] = setting(32, "K: rows of a cluster; a batch is made of whole ones")
    skip: NotNegative[int] = setting(30, "p: the most similar targets may be right answers")
    neighbours: Positive[int] = setting(100, "m: of each row, by which clusters grow")
    memory: Positive[float] = setting(1.0, "GiB that similarities take at a time, beside vectors")


@dataclass
class BatchesConfig(EmbeddingConfig):
    """Batches to be mined from all rows of a training set (data_prep.batches)."""

    data: MineData = field(default_factory=MineData)
    clusters: ClusterConfig = field(default_factory=ClusterConfig)
    seed: Seed = setting(0, "of which row stands for a target that several have")
