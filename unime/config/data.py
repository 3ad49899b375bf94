"""Settings of what is trained on: data, and the teacher's program."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Annotated
from urllib.parse import urlsplit

from omegaconf import MISSING

from unime.config.settings import (
    Bounds,
    FilePath,
    NotEmpty,
    NotNegative,
    Positive,
    Settings,
    one_of,
    setting,
)
from unime.errors import require


def is_address(words: str) -> bool:
    try:
        parts = urlsplit(words)
        return (
            parts.scheme in ("http", "https") and bool(parts.hostname) and "@" not in parts.netloc
        )
    except ValueError:
        return False


ANSWER_COLUMN = (
    "a column of MMEB's rows (a label, a product's id): rows of one subset with equal values there "
    "have one right answer, so that their targets are right for each other's queries; null: none "
    "is known (a prepared set's rows say it themselves)"
)
FOLLOW_LINKS = (
    "whether links in root and image_root may lead out of them (the two themselves may be links, "
    "and those of the hub's cache are followed); true only where all links are yours"
)

MINE_EVERY = Bounds("epoch, or a number of steps", lambda every: is_period(str(every)))


def is_period(words: str) -> bool:
    return words == "epoch" or (words.isdecimal() and int(words) > 0)


class Mixing(Enum):
    """How rows of several datasets share batches."""

    single_task = "single_task"
    mixed = "mixed"
    interleaved = "interleaved"
    mined = "mined"


@dataclass
class TextData(Settings, section="data"):
    """Stage 1's texts and the teacher's embeddings of them (data_prep.teacher_embeddings)."""

    texts: list[FilePath] = setting(MISSING, ".jsonl, .csv or .parquet files")
    columns: list[str] = setting(["text"], "every column's texts join the pool")
    rows_together: bool = setting(False, "a row's texts share a batch, which so holds related ones")
    teacher: FilePath = setting(MISSING, "folder of the teacher store")
    limit: Positive[int] | None = setting(None, "stop after so many texts; null: all")

    def __post_init__(self) -> None:
        super().__post_init__()
        together = not self.rows_together or len(self.columns) > 1
        require(together, "data.rows_together", True, "false with one of data.columns")


@dataclass
class PairSource:
    """One MMEB-train subset: how many of its rows, and how often it is drawn."""

    rows: Positive[int] | None = setting(None, "so many of its rows; null: all")
    sample: Annotated[str, one_of("first", "random")] = setting(
        "first", "which rows; random: seeded"
    )
    weight: Positive[float] = setting(1.0, "rows are repeated or thinned by it in each epoch")


@dataclass
class PairData(Settings, section="data"):
    """Stage 2's rows: a prepared set, or a folder or hub repository in MMEB-train's layout."""

    root: FilePath = setting(MISSING, "the folder or repository")
    revision: str | None = setting(None, "of root on the hub")
    split: str | None = setting(
        None, "of every subset; null: original of MMEB-train's, train of a prepared set"
    )
    image_root: FilePath | None = setting(None, "of the images; null: below root")
    follow_links: bool = setting(False, FOLLOW_LINKS)
    sources: NotEmpty[dict[str, PairSource]] = setting(MISSING, "name of a subset -> its settings")
    mixing: Mixing = setting(
        Mixing.single_task,
        "a batch holds rows of one subset, of all mixed, sub-batches of one each (sub_batch), or "
        "clusters of rows of one that are hard for one another (clusters)",
    )
    sub_batch: Positive[int] | None = setting(
        None, "interleaved: rows of one subset that stand together (VLM2Vec-V2: 64 of 1,024)"
    )
    clusters: FilePath | None = setting(None, "mined: what ./launch.sh prepare batches wrote")
    temperature: Annotated[float, Bounds("1 or more", lambda value: value >= 1)] = setting(
        1.0, "T: a subset's share is in proportion to (rows x weight)^(1/T)"
    )
    answer_column: str | None = setting(None, ANSWER_COLUMN)
    shared_answers: bool = setting(
        False,
        "whether rows of equal queries, targets or answers may share a batch, where they are no "
        "negatives of each other; false: only where there is no choice",
    )
    on_bad_row: Annotated[str, one_of("raise", "drop")] = setting(
        "raise", "dropped ones are listed"
    )
    mine_every: Annotated[int | str, MINE_EVERY] | None = setting(
        None,
        "mine negatives with the model as it is (section mining), at the first step and after each "
        "epoch, or so many steps; null: those that the rows have",
    )
    verify_images: bool = setting(
        True,
        "read every image before training, and have the processor look at its size, so that what "
        "it refuses or what is too long for the model is a bad row; what was read once is "
        "remembered (UNIME_CACHE) and costs nothing as long as it stays as it is",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        for key, mixing in (("sub_batch", Mixing.interleaved), ("clusters", Mixing.mined)):
            value, needed = getattr(self, key), self.mixing is mixing
            expected = (
                f"one for data.mixing={mixing.name}"
                if needed
                else (f"null, or data.mixing={mixing.name}")
            )
            require((value is not None) == needed, f"data.{key}", value, expected)


@dataclass
class TeacherConfig(Settings):
    """data_prep.teacher_embeddings: which teacher reads which texts."""

    name: FilePath = setting(
        MISSING,
        "of sentence-transformers: hub id, folder, pypi:<module>; or as the endpoint has it",
    )
    revision: str | None = setting(None, "of the model on the hub")
    prompt: str = setting("", "put before every text (instruction-tuned teachers)")
    prompt_name: str | None = setting(None, "of one of the model's own prompts, in place of prompt")
    max_text_tokens: Positive[int] | None = setting(
        None,
        "longer texts are cut (and listed), prompt and special tokens count; null: as the model "
        "does, which may read more",
    )
    texts: list[FilePath] = setting(MISSING, ".jsonl, .csv or .parquet files")
    columns: list[str] = setting(["text"], "every column's texts are embedded")
    output_dir: FilePath = setting(MISSING, "folder of the teacher store")
    batch_size: Positive[int] = setting(64, "texts embedded at a time, or sent in one request")
    trust_remote_code: bool = setting(False, "run the code that the model brings")
    endpoint: Annotated[str, Bounds("http(s)://… without a password", is_address)] | None = setting(
        None, "OpenAI-compatible: https://…/v1/embeddings, which is sent every text; null: none"
    )
    api_key_variable: str | None = setting(
        None, "of the environment, which holds the endpoint's key; the key is written nowhere"
    )
    dimensions: Positive[int] | None = setting(None, "the endpoint is asked for; null: its own")
    timeout: Positive[float] = setting(60.0, "seconds that the endpoint is waited for")
    retries: NotNegative[int] = setting(8, "of a request, after 1, 2, 4, … s or as it asks")
    vectors: FilePath | None = setting(
        None, ".npy or .safetensors that somebody has already: a row a text; null: none"
    )
    ray: str | None = setting(
        None, "local, or a Ray cluster's address: embed on its processes (extra ray); null: here"
    )
    vectors_of: NotEmpty[list[FilePath]] | None = setting(
        None, "files of the vectors' texts, in order, in the same columns; null: texts"
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        both = self.endpoint is None or self.vectors is None
        require(both, "vectors", self.vectors, "null with an endpoint")
        by_name = self.prompt_name is None or not self.prompt
        require(by_name, "prompt_name", self.prompt_name, "null with a prompt")
        elsewhere = self.endpoint is not None or self.vectors is not None
        for key, default in (
            ("prompt_name", None),
            ("max_text_tokens", None),
            ("trust_remote_code", False),
        ):
            value = getattr(self, key)
            expected = f"{default}: endpoints and vectors know none"
            require(not elsewhere or value == default, key, value, expected)
        here = self.vectors is None or self.ray is None
        require(here, "ray", self.ray, "null with vectors")
        for key in ("api_key_variable", "dimensions"):
            value = getattr(self, key)
            require(
                self.endpoint is not None or value is None, key, value, "null without an endpoint"
            )
        require(self.vectors is not None or self.vectors_of is None, "vectors_of", self.vectors_of,
                "null without vectors")  # fmt: skip
