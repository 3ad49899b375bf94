"""The demo: the whole pipeline in miniature, with the programs that a user would call.

    ./launch.sh demo
    ./launch.sh demo seed=1                 in runs/demo-seed1 (eval.demo.seeds joins several)

Draws the data, embeds the texts with the teacher, runs stage 1, stage 2 (after stage 1, and on its
own) and plain InfoNCE, evaluates the base and all of them, and prints one table. Each command is
shown before it runs. The programs know what they have done and do not repeat it, so an interrupted
demo goes on; with other settings or other code it is made anew. It runs on the CPU, in two
processes of one thread, everywhere: so that its numbers mean the same everywhere.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from stages.runner import read_record, run_in_order, run_to_its_end
from unime.config import dump_config, load_config
from unime.config.settings import FilePath, NotEmpty, NotNegative, Settings, one_of, setting
from unime.errors import ConfigError, require
from unime.runtime.digests import folder_digest
from unime.runtime.environment import WRITTEN, code_digest, git_commit, write_facts
from unime.runtime.files import read_json, write_json
from unime.runtime.folder_lock import LENT, lock_folder
from unime.runtime.program import run_program

ROOT = Path(__file__).resolve().parent.parent
CONFIGS = "configs/demo"
MODELS = ("base", "stage1", "stage1_stage2", "stage2", "infonce")
CHECKS = [sys.executable, "-m", "eval.demo.checks"]
RECORD = "steps.json"
FIRST = "data"  # the first step, which a demo's record has and one of `tune` has not
EARLY = (".", RECORD, *WRITTEN)  # how what is there before the first step is done begins
LAST = ("report", "checks")  # which only look at what came out
CODE = ("data_prep", "data_prep/demo", "eval", "eval/tasks", "stages")
PROGRAMS = ("data", "teacher", "stage1", "stage2", "eval")  # whose settings the demo can override
SPLITS = ("test", "validation")
INFONCE = ["loss.num_hard_negatives=null", "loss.false_negative_margin=null"]


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
    refuse_others(folder)
    lock_folder("output_dir", folder)
    write_facts(folder, dump_config(config), git_commit())
    os.environ[LENT] = str(folder.resolve())  # to the programs that write there for this one
    seconds = run_steps(steps(config), folder)
    finish(config, folder, seconds)
    print(
        f"this took {(time.monotonic() - started) / 60:.1f} minutes, all steps together "
        f"{sum(seconds.values()) / 60:.1f}"
    )


def steps(config: DemoConfig) -> dict[str, list[str]]:
    """Every command by the name of its step, in order."""
    out = config.output_dir

    def launch(command: str, program: str, *words: str) -> list[str]:
        path, more = f"{CONFIGS}/{program}.yaml", config.overrides.get(program, [])
        return ["./launch.sh", *command.split(), path, *words, *more]

    def evaluation(name: str, adapter: str) -> list[str]:
        words = (f"output_dir={out}/eval/{name}", f"model.adapter={adapter}")
        return launch("eval", "eval", *words, f"data.root=data/demo/{config.split}")

    todo = {
        FIRST: launch("prepare demo", "data"),
        "teacher": launch("prepare teacher", "teacher"),
        "eval_base": evaluation("base", "null"),
    }
    trainings = {
        "stage1": ["stage1"],
        "stage1_stage2": ["stage2", f"model.adapter={out}/stage1/final"],
        "stage2": ["stage2"],
        "infonce": ["stage2"],
    }
    for name, (program, *words) in trainings.items():
        words += [f"run.output_dir={out}/{name}", f"run.seed={config.seed}"]
        last = INFONCE if name == "infonce" else []
        todo[name] = launch(program, program, *words) + last
        todo[f"eval_{name}"] = evaluation(name, f"{out}/{name}/final")
    models = [f"models.{name}={out}/eval/{name}" for name in MODELS]
    outputs = (f"output={out}/report.json", f"html={out}/report.html")
    todo["report"] = launch("report", "report", *outputs, *models)
    todo["checks"] = [*CHECKS, str(out), config.split, *config.queries]
    return todo


def run_steps(todo: Mapping[str, list[str]], folder: Path) -> dict[str, float]:
    """Run all commands; returns the seconds that each took until it was done.

    Raises:
        ConfigError: the folder holds what no demo has made.
        SystemExit: a command failed, with its status.
    """
    known = refuse_others(folder)
    record, now = folder / RECORD, fingerprint(todo)
    if known.get("fingerprint") != now:
        for name in (*MODELS, "eval"):
            shutil.rmtree(folder / name, ignore_errors=True)
        known = {"fingerprint": now, "seconds": {}, "done": []}
    return run_in_order(todo, record, known, "./launch.sh demo", run_command)


def refuse_others(folder: Path) -> dict[str, Any]:
    """The record of the demo that a folder holds; empty: it holds nothing.

    Raises:
        ConfigError: it holds something else, which the demo would overwrite or remove.
    """
    known = read_record(folder / RECORD, f"remove {folder} to make the demo anew")
    if known and FIRST in known["seconds"]:
        return known
    if there := sorted(p.name for p in folder.glob("*") if not p.name.startswith(EARLY)):
        raise ConfigError(
            f"output_dir: {folder} holds what no demo has made ({', '.join(there[:3])});"
            " name another folder",
            "output_dir",
        )
    return {}


def fingerprint(todo: Mapping[str, list[str]]) -> str:
    """Of what decides what is made: commands, their configurations, the code and the base model."""
    words = [word for name, command in todo.items() if name not in LAST for word in command]
    files = [word for word in words if word.endswith(".yaml")]
    files += ["configs/suites/demo.yaml", "assets/emoji/concepts.jsonl"]
    parts = [*words, code_digest(), code_digest(*(ROOT / name for name in CODE))]
    parts += [
        folder_digest(ROOT / "assets/base"),
        *((ROOT / name).read_text("utf-8") for name in files),
    ]
    return hashlib.blake2b("\0".join(parts).encode(), digest_size=16).hexdigest()


def run_command(command: list[str]) -> int:
    """Run a command to its end, on the CPU, in two processes of one thread; returns its status."""
    return run_to_its_end(
        command,
        {
            **{"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"},
            **os.environ,
            "UNIME_NUM_PROCESSES": "2",
            "OMP_NUM_THREADS": "1",
            "CUDA_VISIBLE_DEVICES": "",
        },
    )


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
