"""The demo: the whole pipeline in miniature, with the programs that a user would call.

    ./launch.sh demo
    ./launch.sh demo seed=1                 in runs/demo-seed1 (eval.demo.seeds joins several)

Draws the data, embeds the texts with the teacher, runs stage 1, stage 2 (after stage 1, and on its
own) and plain InfoNCE, evaluates the base and all of them, and prints one table. Each command is
shown before it runs; one that is done is not repeated, so an interrupted demo goes on. It runs on
the CPU, in two processes of one thread, everywhere: so that its numbers mean the same everywhere.
"""

from __future__ import annotations

import hashlib
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from unime.config import dump_config, load_config
from unime.config.settings import FilePath, NotEmpty, NotNegative, Settings, one_of, setting
from unime.errors import require
from unime.runtime.environment import git_commit, write_facts
from unime.runtime.files import read_json, write_json
from unime.runtime.program import run_program

ROOT = Path(__file__).resolve().parent.parent
CONFIGS = "configs/demo"
MODELS = ("base", "stage1", "stage1_stage2", "stage2", "infonce")
CHECKS = (sys.executable, "-m", "eval.demo.checks")
PROGRAMS = ("data", "teacher", "stage1", "stage2", "eval")  # whose settings the demo can override
SPLITS = ("test", "validation")
INFONCE = ("loss.num_hard_negatives=null", "loss.false_negative_margin=null")


@dataclass
class DemoConfig(Settings):
    output_dir: FilePath | None = setting(None, "null: runs/demo, runs/demo-seed1, …")
    seed: NotNegative[int] = setting(0, "of adapters and the order of the data")
    split: Annotated[str, one_of(*SPLITS)] = setting("test", "validation: to choose settings by")
    overrides: dict[str, list[str]] = setting({}, "program -> more key=value")
    queries: NotEmpty[list[str]] = setting([], "what is searched for at the end")

    def __post_init__(self) -> None:
        super().__post_init__()
        for program in self.overrides:
            expected = f"only {', '.join(PROGRAMS)}"
            require(program in PROGRAMS, "overrides", program, expected)


@dataclass(frozen=True)
class Step:
    """One command of the demo."""

    name: str
    words: tuple[str, ...]
    after: tuple[str, ...] = ()  # the steps whose results it reads
    output: str | None = None  # the folder that it fills, below output_dir
    program: tuple[str, ...] = ("./launch.sh",)
    always: bool = False  # quick where nothing changed: the program itself sees to that


def main(argv: list[str] | None = None) -> None:
    os.chdir(ROOT)
    words = list(sys.argv[1:] if argv is None else argv)
    if "--config" not in words:
        words = ["--config", f"{CONFIGS}/demo.yaml", *words]
    config = load_config(DemoConfig, words)
    if config.output_dir is None:
        split = "" if config.split == SPLITS[0] else f"-{config.split}"
        config.output_dir = f"runs/demo{split}" + (f"-seed{config.seed}" if config.seed else "")
    started = time.monotonic()
    folder = Path(config.output_dir)
    write_facts(folder, dump_config(config), git_commit())
    seconds = run_steps(list(steps(config)), folder)
    finish(config, folder, seconds)
    print(
        f"this took {(time.monotonic() - started) / 60:.1f} minutes, all steps together "
        f"{sum(seconds.values()) / 60:.1f}"
    )


def steps(config: DemoConfig) -> Iterator[Step]:
    """Every command, in order."""
    out = config.output_dir
    more = config.overrides
    words = ("prepare", "demo", f"{CONFIGS}/data.yaml", *more.get("data", []))
    yield Step("data", words, always=True)
    words = ("prepare", "teacher", f"{CONFIGS}/teacher.yaml", *more.get("teacher", []))
    yield Step("teacher", words, after=("data",), always=True)
    yield _evaluation(config, "base", "null")
    trainings = {
        "stage1": ("teacher", "stage1"),
        "stage1_stage2": ("stage1", "stage2", f"model.adapter={out}/stage1/final"),
        "stage2": ("data", "stage2"),
        "infonce": ("data", "stage2"),
    }
    for name, (before, program, *settings) in trainings.items():
        settings += [f"run.output_dir={out}/{name}", f"run.seed={config.seed}"]
        settings += more.get(program, [])
        settings += INFONCE if name == "infonce" else ()
        words = (program, f"{CONFIGS}/{program}.yaml", *settings)
        yield Step(name, words, after=(before,), output=name)
        yield _evaluation(config, name, f"{out}/{name}/final")
    models = [f"models.{name}={out}/eval/{name}" for name in MODELS]
    outputs = (f"output={out}/report.json", f"html={out}/report.html")
    words = ("report", f"{CONFIGS}/report.yaml", *outputs, *models)
    yield Step("report", words, always=True)
    yield Step("checks", (str(out), config.split, *config.queries), program=CHECKS, always=True)


def _evaluation(config: DemoConfig, name: str, adapter: str) -> Step:
    output = f"{config.output_dir}/eval/{name}"
    words = (
        f"output_dir={output}",
        f"model.adapter={adapter}",
        f"data.root=data/demo/{config.split}",
        *config.overrides.get("eval", []),
    )
    after = ("data",) if name == "base" else ("data", name)
    words = ("eval", f"{CONFIGS}/eval.yaml", *words)
    return Step(f"eval_{name}", words, after=after, output=f"eval/{name}")


def run_steps(todo: list[Step], folder: Path) -> dict[str, float]:
    """Run what has not run with the same settings yet; returns every step's seconds.

    Raises:
        SystemExit: a command failed, with its status.
    """
    record = folder / "steps.json"
    done: dict[str, Any] = read_json(record) if record.is_file() else {}
    for number, step in enumerate(todo, 1):
        fingerprint = _fingerprint(step, [done[name]["fingerprint"] for name in step.after])
        place, known = f"[{number}/{len(todo)}] {step.name}", done.get(step.name, {})
        same = known.get("fingerprint") == fingerprint
        is_there = step.output is None or (folder / step.output).is_dir()
        if same and known.get("done") and is_there and not step.always:
            print(f"{place}: done before", flush=True)
            continue
        if step.output and known and not same:  # made, or begun, with other settings
            shutil.rmtree(folder / step.output, ignore_errors=True)
        command = [*step.program, *step.words]
        print(f"\n{place}: {shlex.join(command)}", flush=True)
        goes_on = same and is_there and not known.get("done")  # an attempt that was interrupted
        before = known["seconds"] if goes_on else 0.0
        done[step.name] = {
            "fingerprint": fingerprint, "seconds": before, "done": False, "words": step.words
        }  # fmt: skip
        write_json(record, done)
        began = time.monotonic()
        status = run_command(command)
        seconds = before + time.monotonic() - began
        if step.always and same:  # found most of its work done
            seconds = max(seconds, known["seconds"])
        done[step.name] |= {"seconds": seconds, "done": not status}
        write_json(record, done)
        if status:
            print(f"{step.name} stopped; ./launch.sh demo goes on from here", file=sys.stderr)
            raise SystemExit(status)
    return {step.name: done[step.name]["seconds"] for step in todo}


def run_command(command: list[str]) -> int:
    """Run a command to its end, also after a Ctrl-C: training saves then, which takes its time (the
    terminal sends the key press to the command too). Returns its status."""
    environment = {
        "HF_HUB_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
        **os.environ,
        "UNIME_VENV": sys.prefix,
        "UNIME_NUM_PROCESSES": "2",
        "OMP_NUM_THREADS": "1",
        "CUDA_VISIBLE_DEVICES": "",
    }
    child = subprocess.Popen(command, env=environment)
    try:
        return child.wait()
    except KeyboardInterrupt:
        return child.wait() or 128 + signal.SIGINT
    finally:
        if child.poll() is None:  # a second Ctrl-C
            child.kill()
            child.wait()


def sources(step: Step) -> list[Path]:
    """The files that decide what a step makes: its configuration, the code, the base model."""
    files = [ROOT / word for word in step.words if word.endswith(".yaml")]
    if step.name == "data":
        files += sorted((ROOT / "data_prep/demo").glob("*.py"))
        return [*files, ROOT / "assets/emoji/concepts.jsonl"]
    programs = ("data_prep/teacher_embeddings.py", "configs/suites/demo.yaml")
    files += [ROOT / program for program in programs]
    files += [*sorted((ROOT / "eval").glob("*.py")), *sorted((ROOT / "eval/tasks").glob("*.py"))]
    files += [*sorted((ROOT / "stages").glob("stage*.py")), *sorted((ROOT / "unime").rglob("*.py"))]
    return [
        *files,
        *(path for path in sorted((ROOT / "assets/base").iterdir()) if path.suffix != ".md"),
    ]


def _fingerprint(step: Step, before: list[str]) -> str:
    digest = hashlib.blake2b("\0".join([*before, *step.words]).encode(), digest_size=16)
    for path in sources(step):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def finish(config: DemoConfig, folder: Path, seconds: dict[str, float]) -> None:
    """Put how long each step took, and what ran, into the report; say what came out."""
    report = read_json(folder / "report.json")
    facts = {"commit": git_commit(), "seed": config.seed, "split": config.split}
    report |= facts | {"seconds": seconds}
    write_json(folder / "report.json", report)
    base, both = (
        report["models"][name]["averages"][report["overall"]] for name in ("base", "stage1_stage2")
    )
    apart = "apart" if both["ci95"][0] > base["ci95"][1] else "overlapping"
    print(
        f"\nthe base names {report['base_naming_accuracy']:.1%} of held-out drawings\n"
        f"stage 1 + 2: {both['score']:.1%} overall, {both['score'] / base['score']:.2f}"
        f" times the base's {base['score']:.1%} (95 % intervals {apart}),"
        f" {both['score'] / report['chance']:.1f} times chance\n"
        f"pictures found for the queries: {folder / 'contact_sheet.png'}\n"
        f"scores, similarities and a gallery, in a browser: {folder / 'report.html'}\n"
        f"all numbers: {folder / 'report.json'}"
    )


if __name__ == "__main__":
    run_program(main)
