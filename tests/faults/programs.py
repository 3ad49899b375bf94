"""The programs that write a folder, on material so small that each takes seconds, and what of a
folder has to be the same however often its program was stopped."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eval.miniatures.mmeb import write_eval_suite
from tests.faults.forks import Fork, Forks, Watch
from tests.support.baselines import MINILM
from tests.support.material import WORDS, metrics, write_material
from tests.support.stand_in import TIMING
from unime.data.teacher_store import open_store, text_key

Outcome = dict[str, Any]
PAGE = 4096  # bytes
OF_A_START = {"starts.jsonl", "commit.txt", "versions.txt", "config.yaml"}  # and not of its work
SECONDS = {"seconds", "items_per_second", "num_encoded", "pairs_per_second", *TIMING}
TIMED = {*SECONDS, "state.json"}  # in digests.json: of a file that has seconds in it
TEXTS = [f"{WORDS[n % 14]} {WORDS[n * 5 % 14]} {n} " * (1 + n % 4) for n in range(96)]


@dataclass(frozen=True)
class Program:
    """How a program is called, and what is compared.

    Attributes:
        words: its arguments, with {into} for the folder that it writes and {at} for the material.
        needs: programs whose folders it reads.
        once: it refuses a folder that it has written already.
    """

    module: str
    words: str
    outcome: Callable[[Path], Outcome]
    needs: tuple[str, ...] = ()
    once: bool = False


def files(folder: Path) -> Outcome:
    """Every file below a folder, by its content; links by where they lead."""
    found: Outcome = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_symlink():
            found[name] = f"-> {path.readlink()}"
        elif path.is_file() and path.name != ".lock":
            found[name] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found


def of_report(folder: Path) -> Outcome:
    """Without the day that the page was written, which may have ended meanwhile."""
    found = files(folder)
    page = folder / "page.html"
    if page.is_file():
        undated = re.sub(rb'("written": ?)"[0-9-]+"', rb"\1", page.read_bytes())
        assert len(undated) < page.stat().st_size
        found["page.html"] = hashlib.sha256(undated).hexdigest()
    return found


def of_teacher(folder: Path) -> Outcome:
    store = open_store(folder, TEXTS)
    vectors = store.embeddings([text_key(text) for text in TEXTS])
    return {
        "facts": store.facts,
        "vectors": vectors.numpy().tobytes(),
        "files": sorted(files(folder)),
    }


def of_run(folder: Path) -> Outcome:
    """The adapters that came out, the checkpoints and the rows of metrics.jsonl, without times."""
    return of_evaluation(folder) | {"metrics.jsonl": [untimed(line) for line in metrics(folder)]}


def of_evaluation(folder: Path) -> Outcome:
    """Every file, JSON without how long its writer took."""
    named = {name: digest for name, digest in files(folder).items() if name not in OF_A_START}
    for path in folder.rglob("*.json"):
        named[path.relative_to(folder).as_posix()] = untimed(json.loads(path.read_text()))
    return named


def untimed(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: untimed(own) for key, own in value.items() if key not in TIMED}
    return value


TEACHER = (
    f"--config {{at}}/eval.yaml name={MINILM} texts=[{{at}}/own.jsonl] batch_size=1"
    " output_dir={into}"
)
EVALUATION = (
    "--config {at}/eval.yaml output_dir={into} model.name={model} model.quantization=none"
    " model.precision=float32 model.adapter={at}/made/stage2/final data.root={at}/eval_data"
    " data.image_root={at}/eval_data/eval_images data.suite={at}/suite.yaml data.cache={at}/cache"
    " batch_size=4"
)
REPORT = (
    "--config {at}/eval.yaml models.base={at}/made/base models.tuned={at}/made/eval baseline=base"
    " suite={at}/suite.yaml published=false output={into}/report.json html={into}/page.html"
)
MINING = (
    "--config {at}/eval.yaml data.root={at}/mmeb output_dir={into} model.name={model}"
    " model.quantization=none model.precision=float32 batch_size=4 mining.near_duplicates=4"
    " mining.false_negative_margin=null mining.range_max=8 mining.search=ivf"
)
BATCHES = (
    "--config {at}/eval.yaml data.root={at}/mmeb output_dir={into} model.name={model}"
    " model.quantization=none model.precision=float32 batch_size=4 clusters.size=4 clusters.skip=1"
    " clusters.neighbours=6"
)
DEMO_DATA = (
    "--config configs/demo/data.yaml output_dir={into} train_rows=40 test_queries=12"
    " validation_queries=12 candidates=12 train_words=40"
)
PROGRAMS = {
    "teacher": Program("data_prep.teacher_embeddings", TEACHER, of_teacher),
    "stage1": Program(
        "stages.stage1_distill", "--config {at}/stage1.yaml run.output_dir={into}", of_run
    ),
    "stage2": Program(
        "stages.stage2_instruct", "--config {at}/stage2.yaml run.output_dir={into}", of_run
    ),
    "eval": Program("eval.evaluate", EVALUATION, of_evaluation, ("stage2",)),
    "report": Program("eval.report", REPORT, of_report, ("eval",)),
    "export": Program("stages.export", "{at}/made/stage2 {into}", files, ("stage2",), once=True),
    "mine": Program("stages.mine", MINING, of_evaluation),
    "batches": Program("data_prep.batches", BATCHES, of_evaluation),
    "own": Program("data_prep.own", "{at}/mmeb {into} held_out=0 copy_images=true", files),
    "check": Program(
        "stages.check", "{at}/stage2.yaml run.output_dir={at}/run check.output_dir={into}", files
    ),
    "miniatures": Program("eval.miniatures", "{into}", files, once=True),
    "demo_data": Program("data_prep.demo.data", DEMO_DATA, files),
}


@dataclass(frozen=True)
class Straight:
    """What a program did that nobody stopped."""

    outcome: Outcome
    seconds: float
    changes: list[str]  # of files and folders, in their order
    size: int  # of all files, in bytes, each in whole pages


class Workshop:
    """Material, the programs that run on it, and what each makes of it undisturbed. All runs of a
    program write the same folder, one after the other, so that equal results are equal bytes."""

    def __init__(self, root: Path, model: Path, forks: Forks) -> None:
        self.root, self.model, self.forks = root, model, forks
        self._straight: dict[str, Straight] = {}
        write_material(root, model)
        (root / "own.jsonl").write_text("".join(json.dumps({"text": t}) + "\n" for t in TEXTS))
        (root / "eval.yaml").write_text("{}\n")  # for all that need no file
        write_eval_suite(root / "eval_data", root / "suite.yaml", queries=8)

    def place(self, name: str) -> Path:
        """The folder that a program writes, in a folder of its own."""
        return self.root / "written" / name / "folder"

    def words(self, name: str, into: Path | None = None) -> list[str]:
        words = PROGRAMS[name].words.split()
        into = into or self.place(name)
        return [word.format(at=self.root, into=into, model=self.model) for word in words]

    def start(self, name: str, at: int = 0, signum: int = 9, into: Path | None = None) -> Fork:
        """A program; it gets `signum` before its change `at` of its folder."""
        words, watch = self.words(name, into), None
        if into is None:  # another's folder is no place to stop at
            watch = Watch(str(self.place(name)), str(self.root / f"{name}.changes"), at, signum)
        return self.forks.start(PROGRAMS[name].module, words, watch)

    def fresh(self, name: str) -> Path:
        """The program's folder, which is not there; its parent is, and is empty."""
        folder = self.place(name)
        shutil.rmtree(folder.parent, ignore_errors=True)
        folder.parent.mkdir(parents=True)
        return folder

    def straight(self, name: str) -> Straight:
        """What comes out undisturbed, made once; a copy of the folder stays for programs that
        read it."""
        if name not in self._straight:
            program, folder = PROGRAMS[name], self.fresh(name)
            for other in program.needs:
                self.straight(other)
            fork = self.start(name)
            began = time.monotonic()
            assert fork.wait() == 0, fork.said[-4000:]
            seconds = time.monotonic() - began
            changes = (self.root / f"{name}.changes").read_text().splitlines()
            sizes = [path.stat().st_size for path in folder.rglob("*") if path.is_file()]
            size = sum(-(-size // PAGE) * PAGE for size in sizes)
            self._straight[name] = Straight(program.outcome(folder), seconds, changes, size)
            shutil.copytree(folder, self.root / "made" / name, symlinks=True)
            if name == "eval":
                shutil.copytree(folder, self.root / "made" / "base", symlinks=True)
        return self._straight[name]

    def finish(self, name: str) -> None:
        """Once more the same command, which ends well, with what an undisturbed run makes."""
        fork = self.start(name)
        status = fork.wait()
        is_there = PROGRAMS[name].once and status == 2 and "exists already" in fork.said
        assert status == 0 or is_there, f"{status}: {fork.said[-4000:]}"
        self.check_same(name)

    def check_same(self, name: str) -> None:
        """The program's folder is what an undisturbed run makes of it, and nothing is beside it."""
        folder = self.place(name)
        found, expected = PROGRAMS[name].outcome(folder), self.straight(name).outcome
        keys = found.keys() | expected.keys()
        other = {key for key in keys if found.get(key) != expected.get(key)}
        assert not other, {key: (expected.get(key), found.get(key)) for key in sorted(other)[:5]}
        assert [path.name for path in folder.parent.iterdir()] == [folder.name]
