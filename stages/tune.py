"""From a prepared set to a tuned model and a page that says how much better it is.

    ./launch.sh prepare own ~/pictures data/own captions=sidecar
    ./launch.sh tune data/own                                  with configs/own/qwen2-vl-2b.yaml
    ./launch.sh tune data/own configs/own/cpu.yaml optim.steps=50

Checks the pairs (what is odd is said and does not end it; what cannot be used does, unless
data.on_bad_row=drop), evaluates the model on what the set holds out, tunes it on the rest (stage 2;
with `stage1.teacher` and `stage1.optim` stage 1 before it), evaluates it again and writes the
report. Each command is shown before it runs, with a configuration that is written beside what it
makes: all of them can be typed by hand. Killed or stopped, the same command goes on.
"""

from __future__ import annotations

import hashlib
import json
import os
import shlex
import sys
import time
from collections.abc import Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from stages.runner import read_record, run_in_order, run_to_its_end
from unime.config import (
    EvalConfig,
    EvalData,
    Mixing,
    PairSource,
    ReportConfig,
    Stage1Config,
    Stage2Config,
    TeacherConfig,
    TextData,
    TuneConfig,
    build_config,
    dump_config,
)
from unime.config.loader import built, parse_words, program_parser
from unime.config.reading.processes import processes_asked_for
from unime.config.settings import Settings
from unime.data.prepared.folder import SET, PreparedSet
from unime.data.prepared.rows import PREPARED_COLUMNS
from unime.data.sampler import BatchPlan, drawn_rows
from unime.data.tables import load_table
from unime.errors import ConfigError
from unime.runtime.environment import git_commit, write_facts
from unime.runtime.files import read_json, write_aside, write_json
from unime.runtime.folder_lock import LENT, lock_folder
from unime.runtime.program import run_program

ROOT = Path(__file__).resolve().parent.parent
DEFAULT = ROOT / "configs/own/qwen2-vl-2b.yaml"
SUITE, STEPS, TEXTS = "suite.yaml", "steps.json", "texts.jsonl"
FEW = 8  # pairs of a task, of which a batch of its own has too few negatives
FOUND_SOMETHING = 1  # the status of a check
WARMUP = 0.1  # share of the steps at most
PROGRAMS = {  # of launch.sh, by the name of a step
    "teacher": ("prepare", "teacher"),
    "stage1": ("stage1",),
    "stage2": ("stage2",),
    "eval_before": ("eval",),
    "eval_after": ("eval",),
    "report": ("report",),
}


def main(argv: list[str] | None = None) -> None:
    out, config = parse(argv)
    os.chdir(ROOT)
    made = PreparedSet.of(out)
    if made is None:
        raise ConfigError(
            f"OUT: {out} is no prepared set; ./launch.sh prepare own PATH OUT makes one"
        )
    if not any(sizes.get("test") for sizes in made.rows.values()):
        raise ConfigError(
            f"OUT: {out} holds nothing out, so that nothing could be said of the model"
        )
    fit_to(config, made, ranks())
    folder = Path(config.run.output_dir)
    lock_folder("run.output_dir", folder)
    written = configs(config, out)
    known = started(folder, written, out)
    if config.stage1 is not None:
        write_texts(folder / TEXTS, out, made)
    os.environ[LENT] = str(folder.resolve())  # to the programs that write there for this one
    began = time.monotonic()
    typed = os.environ.get("UNIME_TYPED", shlex.join(["python -m stages.tune", *sys.argv[1:]]))
    todo = steps(folder, written, config.model.adapter)
    seconds = run_in_order(todo, folder / STEPS, known, typed, run_step)
    finish(folder, seconds)
    print(f"this took {(time.monotonic() - began) / 60:.1f} minutes")


def parse(argv: list[str] | None) -> tuple[Path, TuneConfig]:
    """The set, and the settings: those of the configuration, but for the data's place, and for the
    folder and the sources where they are still the place-holders of the examples."""
    parser = program_parser(TuneConfig)
    parser.add_argument("out", metavar="OUT", help="a prepared set")
    parser.add_argument("--config", type=Path, default=DEFAULT, help=f"default: {DEFAULT.name}")
    args = parse_words(parser, argv)
    config = built(parser, TuneConfig, args.config.expanduser(), args.overrides)
    out = Path(os.path.abspath(os.path.expanduser(args.out)))
    example = build_config(TuneConfig, DEFAULT)
    if config.run.output_dir == example.run.output_dir:
        config.run.output_dir = f"runs/tune/{out.name}-{args.config.stem}"
    config.data.root = str(out)
    made = PreparedSet.of(out)
    if made is not None and config.data.sources == example.data.sources:
        trained = [task for task, sizes in made.rows.items() if sizes.get("train")]
        config.data.sources = {task: PairSource() for task in trained}
    return out, config


def ranks() -> int:
    """Processes that launch.sh will start for a stage.

    Raises:
        ConfigError: the environment asks for what is no number of them.
    """
    asked = processes_asked_for(os.environ)
    if asked is not None:
        return asked
    import torch  # slow, and of no other use here

    return max(1, torch.cuda.device_count())


def fit_to(config: TuneConfig, made: PreparedSet, num_ranks: int) -> None:
    """Make the batch and the warm-up no larger than a small set allows, and say so.

    Raises:
        ConfigError: a task of the configuration that the set has not.
        DataError: validation would hold too much out.
    """
    sizes = {task: made.rows.get(task, {}).get("train", 0) for task in config.data.sources}
    if empty := [task for task, size in sizes.items() if not size]:
        known = ", ".join(made.rows)
        raise ConfigError(f"data.sources: {empty[0]} has no pairs to train on; there are {known}")
    sizes, drawn = in_an_epoch(config, sizes)
    optim = config.optim
    least = min(min(size, drawn[task]) for task, size in sizes.items())
    if least < FEW * num_ranks and len(sizes) > 1 and config.data.mixing is Mixing.single_task:
        config.data.mixing = Mixing.mixed
        print(f"data.mixing=mixed: a task has {least} pairs, too few for batches of its own")
    is_mixed = config.data.mixing is Mixing.mixed
    most = max(1, (sum(drawn.values()) if is_mixed else least) // num_ranks)
    if optim.batch_size_per_device > most:
        optim.batch_size_per_device = most
        print(f"optim.batch_size_per_device={most}: there are no more pairs")
    batch = optim.batch_size_per_device * num_ranks
    pools = [sum(drawn.values())] if is_mixed else drawn.values()
    an_epoch = sum(rows // batch for rows in pools)
    count = optim.steps or int(an_epoch * (optim.epochs or 0))
    if optim.warmup_steps > max(1, WARMUP * count):
        optim.warmup_steps = max(1, int(WARMUP * count))
        print(f"optim.warmup_steps={optim.warmup_steps}: there are {count} steps")


def in_an_epoch(
    config: TuneConfig, sizes: Mapping[str, int]
) -> tuple[dict[str, int], dict[str, int]]:
    """The pairs of each task that are trained on, and how many of them an epoch draws.

    Args:
        sizes: all that the set has to train on.

    Raises:
        DataError: validation would hold too much out.
    """
    sources, validation = config.data.sources, config.validation
    kept = {task: min(size, sources[task].rows or size) for task, size in sizes.items()}
    if validation.rows is not None or validation.share is not None:
        from unime.validation.hold_out import wanted_rows  # as slow

        held = wanted_rows(kept, validation)
        kept = {task: size - held[task] for task, size in kept.items()}
    weights = {task: source.weight for task, source in sources.items()}
    return kept, drawn_rows(kept, weights, BatchPlan(config.data.temperature))


def configs(config: TuneConfig, out: Path) -> dict[str, Settings]:
    """The configuration of each step's program, in order."""
    folder = Path(config.run.output_dir)
    found: dict[str, Settings] = {"eval_before": evaluation(config, out, "eval_before")}
    shared = {entry.name: getattr(config, entry.name) for entry in fields(Stage2Config)}
    run = replace(config.run, output_dir=str(folder / "stage2"))
    stage2 = Stage2Config(**shared | {"run": run})
    if config.stage1 is not None:
        own = config.stage1
        texts, store = [str(folder / TEXTS)], str(folder / "teacher")
        found["teacher"] = TeacherConfig(own.teacher, texts=texts, output_dir=store)
        found["stage1"] = Stage1Config(
            run=replace(config.run, output_dir=str(folder / "stage1")),
            model=config.model,
            lora=own.lora,
            inputs=config.inputs,
            data=TextData(texts=texts, teacher=store),
            loss=own.loss,
            optim=own.optim,
        )
        stage2.model = replace(config.model, adapter=str(folder / "stage1" / "final"))
    found["stage2"] = stage2
    found["eval_after"] = evaluation(config, out, "eval_after", str(folder / "stage2" / "final"))
    found["report"] = ReportConfig(
        models={name: str(folder / f"eval_{name}") for name in ("before", "after")},
        suite=str(out / SUITE),
        output=str(folder / "report.json"),
        html=str(folder / "report.html"),
        baseline="before",
        published=False,
    )
    return found


def evaluation(config: TuneConfig, out: Path, name: str, adapter: str | None = None) -> EvalConfig:
    """Of the model as it is, or with the adapter that was trained."""
    return EvalConfig(
        output_dir=str(Path(config.run.output_dir, name)),
        model=config.model if adapter is None else replace(config.model, adapter=adapter),
        inputs=config.inputs,
        data=EvalData(root=str(out), suite=str(out / SUITE), follow_links=config.data.follow_links),
        batch_size=config.eval_batch_size,
        num_workers=config.run.num_workers,
    )


def started(folder: Path, written: dict[str, Settings], out: Path) -> dict[str, Any]:
    """The record of the steps, of a folder that holds this tuning or nothing.

    Raises:
        ConfigError: the folder holds a tuning of other settings or data, or something else.
    """
    if not (folder / "configs").is_dir():
        if there := sorted(p.name for p in folder.glob("*") if not p.name.startswith(".")):
            raise ConfigError(
                f"run.output_dir: {folder} holds what no tuning has made ({', '.join(there[:3])});"
                " name another folder"
            )
    texts = {folder / "configs" / f"{name}.yaml": dump_config(of) for name, of in written.items()}
    now = hashlib.blake2b((out / SET).read_bytes(), digest_size=16).hexdigest()
    record = folder / STEPS
    known = read_record(record, f"remove {folder} to tune anew")
    others = [
        path.stem for path, text in texts.items() if path.is_file() and path.read_text() != text
    ]
    others += ["data"] * (known.get("fingerprint", now) != now)
    if others:
        raise ConfigError(
            f"run.output_dir: {folder} holds a tuning of other settings or data"
            f" ({', '.join(others)}); name another folder"
        )
    (folder / "configs").mkdir(exist_ok=True)
    for path, text in texts.items():
        write_aside(path, text)
    write_facts(folder, "".join(texts.values()), git_commit())
    return known or {"fingerprint": now, "seconds": {}, "done": []}


def steps(folder: Path, written: dict[str, Settings], adapter: str | None) -> dict[str, list[str]]:
    """Every command by the name of its step, in order.

    Args:
        adapter: of the model that is tuned.
    """
    files = {name: str(folder / "configs" / f"{name}.yaml") for name in written}
    check = ["./launch.sh", "check", files["stage2"], f"check.against={files['eval_before']}"]
    if "stage1" in written:  # whose adapters are not there yet
        check.append(f"model.adapter={adapter or 'null'}")
    commands = {name: ["./launch.sh", *PROGRAMS[name], file] for name, file in files.items()}
    return {"check": check, **commands}


def run_step(command: list[str]) -> int:
    """Run a command; that a check has found something ends nothing: training knows what it can
    use."""
    status = run_command(command)
    return 0 if status == FOUND_SOMETHING and command[1] == "check" else status


def run_command(command: list[str]) -> int:
    return run_to_its_end(command, os.environ)


def write_texts(path: Path, out: Path, made: PreparedSet) -> None:
    """Stage 1's texts: all that are trained on, each once."""
    texts: dict[str, None] = {}
    for task, sizes in made.rows.items():
        if sizes.get("train"):
            rows = load_table(str(out), task, "train", None, PREPARED_COLUMNS, ()).read()
            for row in rows:
                texts.update({row[side]["text"].strip(): None for side in ("query", "target")})
    lines = [json.dumps({"text": t}, ensure_ascii=False) + "\n" for t in texts if t]
    write_aside(path, "".join(lines))


def finish(folder: Path, seconds: dict[str, float]) -> None:
    """Say what came out."""
    report = read_json(folder / "report.json")
    write_json(folder / "report.json", report | {"seconds": seconds})
    before, after = (
        report["models"][name]["averages"][report["overall"]] for name in ("before", "after")
    )
    apart = before["ci95"][1] < after["ci95"][0] or after["ci95"][1] < before["ci95"][0]
    print(
        f"\non what was held out: {before['score']:.1%} before, {after['score']:.1%} after (95 %"
        f" intervals {'apart' if apart else 'overlapping'}; chance {report['chance']:.1%})\n"
        f"the model: {folder / 'stage2' / 'final'}\n"
        f"scores, similarities and a gallery, in a browser: {folder / 'report.html'}"
    )


if __name__ == "__main__":
    run_program(main)
