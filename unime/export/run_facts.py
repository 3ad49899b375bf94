"""How a run was made and how it went, in words for the card of what is exported."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from unime.collapse import of_batch
from unime.config import LossConfig
from unime.config.reading.values import load_yaml
from unime.errors import ConfigError
from unime.models.adapter_files import named_folder
from unime.models.hub import CHECKPOINTS, FINAL
from unime.runtime.files import read_json, read_text

HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


def public(name: str) -> str:
    """A name for others: of a folder on this machine the last part, where it lay being nobody's
    business."""
    path = Path(name)
    private = path.is_absolute() or name.startswith(("~", "..")) or not HUB_ID.fullmatch(name)
    return path.name if private or path.exists() else name


def signs_of_collapse(run: Path) -> list[str]:
    """What the metrics of a run's last steps say of its embeddings, if they have collapsed.

    Args:
        run: its folder, or one of its checkpoints, or any other, which says nothing.
    """
    root, step = run_of(run)
    try:
        last = read_json(root / "finished.json")["steps"] if step is None else step
        lines = read_text(root / "metrics.jsonl").splitlines()
        rows = [row for row in map(json.loads, lines) if row["step"] <= last]
        sign = of_batch([row for row in rows if "learning_rate" in row][-1])  # of training
    # of other versions, or none
    except (OSError, ValueError, RecursionError, KeyError, TypeError, IndexError):
        return []
    return [f"the last steps of its training say {sign}"] if sign else []


def remarks_on_report(report: Mapping[str, Any]) -> list[str]:
    """What an evaluation's report says of its models in words, a line each."""
    models = report["models"].items()
    return [f"{name}: {words}" for name, model in models for words in model["warnings"]]


def recipes(run: Path, after: tuple[Path, ...] = ()) -> dict[str, dict[str, Any]]:
    """The configurations of a run and of the one whose adapter it starts from, as far as they are
    there, the first stage first.

    Args:
        after: the runs that start from it.

    Raises:
        ConfigError: one that is there is none of a stage, or starts from itself.
    """
    run, step = run_of(run)
    if run.resolve() in after:
        raise ConfigError(f"run: {run} starts from itself, by the configurations of its stages")
    path = run / "config.yaml"
    if not path.is_file():
        return {}
    try:
        config = load_yaml(path)
        config["step"] = step
        recipe("", config)
        adapter = config["model"].get("adapter")
        there = named_folder(adapter, run) or Path(adapter) if adapter else None
    except ConfigError as error:  # which names the file
        raise ConfigError(f"run: {error}") from None
    except (OSError, ValueError, RecursionError, LookupError, TypeError, AttributeError) as error:
        reason = " ".join(f"{error!r}".split())
        raise ConfigError(f"run: {path} is not a stage's configuration: {reason:.300}") from None
    title = "Stage 1, distillation" if "texts" in config["data"] else "Stage 2, instruction tuning"
    before = recipes(there, (*after, run.resolve())) if there else {}
    return before | {f"{title} ({run.name})" if title in before else title: config}


def trained_sizes(recipes: Mapping[str, Mapping[str, Any]], dimension: int) -> list[int]:
    """The sizes at which the loss of the last stage was taken, with the whole vector's; none: it
    was the whole vector's alone.

    Args:
        recipes: as :func:`recipes` has them.
        dimension: of the embeddings.
    """
    losses = [config["loss"] for config in recipes.values()]
    sizes = losses[-1].get("matryoshka_dimensions") if losses else None
    return sorted({*sizes, dimension}) if sizes else []


def run_of(folder: Path) -> tuple[Path, int | None]:
    """The run's folder of one of its folders, and the step if that is a checkpoint."""
    name = folder.name.removeprefix("step_")
    if folder.parent.name == CHECKPOINTS and name.isdigit():
        return folder.parent.parent, int(name)
    return (folder.parent if folder.name == FINAL else folder), None


def recipe(title: str, config: Mapping[str, Any]) -> str:
    """One stage in words and numbers."""
    data, optim, lora, loss = (config[key] for key in ("data", "optim", "lora", "loss"))
    if "texts" in data:
        texts = ", ".join(public(path) for path in data["texts"])
        what = f"texts of {texts}; teacher: `{public(data['teacher'])}`"
    else:
        sources = ", ".join(
            f"{name} ({source['rows'] or 'all'} rows)" for name, source in data["sources"].items()
        )
        split = f" ({data['split']})" if data["split"] else ""
        what = f"pairs of `{public(data['root'])}`{split}: {sources}"
    held = config.get("validation") or {}
    for key, unit in (("rows", "rows"), ("share", "of the rows")):
        what += f"; {held[key]} {unit} held out" if held.get(key) else ""
    length = f"{optim['steps']} steps" if optim["steps"] else f"{optim['epochs']} epochs"
    length = f"the first {config['step']} of {length}" if config.get("step") else length
    kind = "DoRA" if lora["use_dora"] else "LoRA"
    of_one_size = ("matryoshka_dimensions", "matryoshka_weights")
    said = {k: v for k, v in loss.items() if v is not None or k not in of_one_size}
    shared = {entry.name for entry in fields(LossConfig)}  # by both losses: last
    losses = ", ".join(f"{key} {said[key]}" for key in sorted(said, key=shared.__contains__))
    return (
        f"**{title}**: {what}.\n"
        f"{kind} of rank {lora['rank']} and alpha {lora['alpha']} on {', '.join(lora['train'])};"
        f" base in {config['model']['quantization']} / {config['model']['precision']};"
        f" {length} of {optim['batch_size_per_device']} a device, learning rate"
        f" {optim['learning_rate']}, {optim['schedule']}, {optim['warmup_steps']} steps of warm-up;"
        f" loss: {losses}.\n"
    )
