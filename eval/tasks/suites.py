"""Suites of evaluation tasks: which there are, how each is read and scored, and which average it
belongs to.

A suite is a YAML file ``name: {meta_task: …, …}``. Names that begin with a dot are no tasks (they
may hold what several entries share, as YAML anchors), and ``include: [other.yaml, …]`` takes the
tasks of other suites, in their order.

A format is a dataclass: its fields are what a task's entry may set, its `read` makes the task of
it. Adding one is a class and a line in FORMATS.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Protocol, get_type_hints

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml.nodes import Node

from eval.tasks.base import EvalTask
from eval.tasks.beir import Beir
from eval.tasks.caption_retrieval import CaptionedRows
from eval.tasks.long_captions import ShareGpt4v, Urban1k
from eval.tasks.mmeb_instruct import MmebInstructRows
from eval.tasks.mmeb_v1 import MmebRows
from eval.tasks.prepared import PreparedRows
from eval.tasks.sources import EvalSource
from eval.tasks.sugarcrepe import SugarCrepe
from eval.tasks.video_classification import VideoClassification
from eval.tasks.video_qa import VideoQA
from eval.tasks.video_retrieval import MomentRetrieval, MomentSeeker, VideoRetrieval
from unime.config.evaluation import STORE
from unime.config.reading.values import pairs, read_node
from unime.config.reading.yaml_files import read_yaml
from unime.errors import ConfigError, require
from unime.runtime.names import LONGEST_NAME, is_name

DISTRIBUTIONS = ("ind", "ood")  # training held rows of this task, or not
METRICS = ("hit@1", "ndcg_linear@5")  # what a task's score may be
NAME = f"a name without slashes, of {LONGEST_NAME} bytes at most, that begins with no dot"


class Format(Protocol):
    def read(self, name: str, source: EvalSource) -> EvalTask:
        """Read the task `name`.

        Raises:
            DataError: data that cannot be used; names file, row, column and value.
        """


FORMATS: dict[str, type] = {
    "mmeb": MmebRows,
    "mmeb_instruct": MmebInstructRows,
    "captioned_rows": CaptionedRows,
    "sharegpt4v": ShareGpt4v,
    "urban1k": Urban1k,
    "sugarcrepe": SugarCrepe,
    "video_classification": VideoClassification,
    "video_qa": VideoQA,
    "video_retrieval": VideoRetrieval,
    "moment_retrieval": MomentRetrieval,
    "moment_seeker": MomentSeeker,
    "beir": Beir,
    "prepared": PreparedRows,
}


@dataclass(frozen=True)
class Task:
    meta_task: str  # classification, vqa, retrieval, grounding, …
    distribution: str | None = None  # ind, ood, or None where nobody says
    modality: str = "image"  # the folder of its files and its average: image, video, visdoc, …
    metric: str = "hit@1"
    num_queries: int | None = None  # of the benchmark, by which its data are known; None: unknown
    format: Format = field(default_factory=MmebRows)

    def read(self, name: str, source: EvalSource) -> EvalTask:
        """Read the task, which is called `name`, and check what the format made of it."""
        return self.format.read(name, source).checked()


OF_A_TASK = tuple(entry.name for entry in fields(Task))


def load_suite(path: str, selection: list[str] | None = None) -> dict[str, Task]:
    """The tasks of a suite, in its order.

    Args:
        selection: names to keep; None: all.

    Raises:
        ConfigError: unreadable, an entry that is wrong, a selected task that is not there.
    """
    suite = _read_suite(Path(path), set())
    if selection is None:
        return suite
    for name in selection:
        if name not in suite:
            near = difflib.get_close_matches(name, suite, n=1, cutoff=0.0)[0]
            raise ConfigError(f"data.tasks: {path} has no task {name!r}; the nearest is {near!r}")
    return {name: task for name, task in suite.items() if name in selection}


def _read_suite(path: Path, read: set[Path]) -> dict[str, Task]:
    """A suite with those that it includes; `read` are all that were read before: one that comes
    again would bring its tasks again, and those of a suite that includes itself have no end."""
    try:
        place = path.resolve()
        if place in read:
            raise ConfigError("it is included twice, or by itself")
        read.add(place)
        nodes = dict(pairs(read_yaml(path), dict, ""))
        content = {name: read_node(node, Any, name, typed=False) for name, node in nodes.items()}
    except (ValueError, RecursionError) as error:  # our own errors are of the former
        raise ConfigError(f"{path}: not a suite of tasks: {error}") from None
    suite: dict[str, Task] = {}
    included: Any = content.pop("include", [])
    if not isinstance(included, list) or not all(isinstance(name, str) for name in included):
        raise ConfigError(f"{path}: include: got {included!r}, expected a list of other suites")
    parts = [_read_suite(path.parent / Path(name), read) for name in included]
    own = {
        name: _task(str(path), name, entry, nodes[name])
        for name, entry in content.items()
        if not name.startswith(".")
    }
    for part in (*parts, own):
        for name, task in part.items():
            if name in suite:
                raise ConfigError(f"{path}: task {name!r} comes twice")
            suite[name] = task
    if not suite:
        raise ConfigError(f"{path}: no task: names that begin with a dot are none")
    return suite


def is_modality(value: object) -> bool:
    """Whether it can be the folder of its tasks' files, beside what else an evaluation writes."""
    return is_name(value) and "." not in str(value) and value != STORE


def _task(path: str, name: str, entry: Any, node: Node) -> Task:
    require(is_name(name), f"{path}: a task's name", name, NAME)
    place = f"{path}: {name}"
    if not isinstance(entry, dict) or "meta_task" not in entry:
        raise ConfigError(f"{place}: got {entry!r}, expected meta_task and distribution")
    defaults = {entry.name: entry.default for entry in fields(Task)} | {"format": "mmeb"}
    own = {key: entry.get(key, defaults[key]) for key in OF_A_TASK}
    require(is_name(own["meta_task"]), f"{place}.meta_task", own["meta_task"], NAME)
    known_as = f"{NAME}, without dots, other than {STORE}"
    require(is_modality(own["modality"]), f"{place}.modality", own["modality"], known_as)
    known = {"metric": METRICS, "format": tuple(FORMATS), "distribution": DISTRIBUTIONS}
    for key, valid in known.items():
        is_known = own[key] in valid or (key == "distribution" and own[key] is None)
        require(is_known, f"{place}.{key}", own[key], " or ".join(valid))
    count = own["num_queries"]
    is_count = count is None or (type(count) is int and count > 0)
    require(is_count, f"{place}.num_queries", count, "a positive number")
    settings = {key: value for key, value in pairs(node, dict, place) if key not in OF_A_TASK}
    return Task(**own | {"format": _format(place, FORMATS[own["format"]], settings)})


def _format(place: str, cls: type, settings: dict[str, Node]) -> Format:
    known = [entry.name for entry in fields(cls)]
    for key in settings:
        if key not in known:
            near = difflib.get_close_matches(str(key), [*OF_A_TASK, *known], n=1, cutoff=0.0)
            raise ConfigError(f"{place}.{key}: no such setting; the nearest is {near[0]!r}")
    hints = get_type_hints(cls)
    values = {
        key: read_node(node, hints[key], f"{place}.{key}", typed=False)
        for key, node in settings.items()
    }
    try:
        merged = OmegaConf.merge(OmegaConf.structured(cls), values)
        made: Format = OmegaConf.to_object(merged)  # type: ignore[assignment]
    except (OmegaConfBaseException, ValueError) as error:
        raise ConfigError(f"{place}: {str(error).splitlines()[0]}") from None
    return made
