"""Writes docs/api.md, the public names of each room, from their docstrings, and the tables of
docs/settings.md from the fields of the config classes.

python -m docs.make_pages
"""

from __future__ import annotations

import importlib
import inspect
import re
from enum import Enum
from pathlib import Path
from types import ModuleType
from typing import Any

from data_prep.demo.data import DemoDataConfig
from data_prep.demo.triples import TriplesConfig
from data_prep.real_llm.data import RealLlmConfig
from eval.study.settings import BaseConfig, RecipeConfig, StudyConfig
from stages.demo import DemoConfig
from unime.config import (
    AppConfig,
    BatchesConfig,
    CheckConfig,
    EvalConfig,
    ExportConfig,
    IndexConfig,
    JudgeConfig,
    MineConfig,
    MmebConfig,
    OwnDataConfig,
    ReportConfig,
    SearchConfig,
    ServeConfig,
    SetCheckConfig,
    Stage1Config,
    Stage1PlanConfig,
    Stage2CheckConfig,
    Stage2Config,
    Stage2PlanConfig,
    TeacherConfig,
    TuneConfig,
)
from unime.config.reading.descriptions import Setting, settings_of

API, SETTINGS = (Path(__file__).with_name(name) for name in ("api.md", "settings.md"))
CONTRIBUTING = Path(__file__).parents[1] / "CONTRIBUTING.md"
_PUBLIC, *BELOW = re.findall(r"^\d+\. `(unime/\w+)", CONTRIBUTING.read_text("utf-8"), re.MULTILINE)
SECTIONS = ("Args:", "Returns:", "Raises:", "Attributes:")
ROOMS = ["unime", *(room.replace("/", ".") for room in BELOW)]
HEAD = """# Public names

What `from unime… import …` is meant for, room by room, from the ground up; made from the
docstrings by `python -m docs.make_pages`. Names and methods that are not here may change without a
word. Every setting of the classes in `unime.config`: [settings.md](settings.md).
"""
HEADING = """
## All settings

What a program shares with one above it stands there.
"""
PROGRAMS = {
    "stage1": Stage1Config,
    "stage2": Stage2Config,
    "mine": MineConfig,
    "judge": JudgeConfig,
    "eval": EvalConfig,
    "report": ReportConfig,
    "export": ExportConfig,
    "prepare teacher": TeacherConfig,
    "prepare own": OwnDataConfig,
    "tune": TuneConfig,
    "index": IndexConfig,
    "search": SearchConfig,
    "prepare mmeb": MmebConfig,
    "prepare batches": BatchesConfig,
    "study": StudyConfig,
    "study: a base": BaseConfig,
    "study: a recipe": RecipeConfig,
    "plan, of stage 2": Stage2PlanConfig,
    "plan, of stage 1": Stage1PlanConfig,
    "app": AppConfig,
    "serve": ServeConfig,
    "check CONFIG": Stage2CheckConfig,
    "check DATA": SetCheckConfig,
    "check STORE": CheckConfig,
    "demo": DemoConfig,
    "prepare demo": DemoDataConfig,
    "prepare demo-triples": TriplesConfig,
    "prepare real-llm": RealLlmConfig,
}
METHODS = {  # what is called of an object; other classes are data, or what a room takes and gives
    "Embedder": ("encode", "similarity", "classify"),
    "Encoder": ("load", "encode"),
    "Index": ("update", "forget", "search", "nearest", "close"),
}


def api_page() -> str:
    """The text of docs/api.md."""
    parts = [HEAD]
    for name in ROOMS:
        room = importlib.import_module(name)
        parts.append(f"## {name}\n\n{inspect.getdoc(room)}\n")
        parts += [entry(public, getattr(room, public)) for public in names_of(room)]
    return "\n".join(parts)


def names_of(room: ModuleType) -> list[str]:
    """`__all__`; where there is none what is defined in it, or in a module below it."""
    own = [
        name
        for name, value in vars(room).items()
        if not name.startswith("_")
        and f"{getattr(value, '__module__', '')}.".startswith(f"{room.__name__}.")
    ]
    return list(getattr(room, "__all__", own))


def entry(name: str, value: Any) -> str:
    """The signature and the docstring of one name."""
    if not (inspect.isclass(value) or inspect.isfunction(value)):
        return f"- `{name}`, a {type(value).__name__}\n"
    doc = inspect.getdoc(value) or ""
    if inspect.isclass(value) and value.__module__.startswith("unime.config"):
        summary = " ".join(doc.split("\n\n")[0].split())
        if issubclass(value, Enum):
            own = "" if doc == inspect.getdoc(Enum) else f"{summary} "
            summary = f"{own}One of {', '.join(f'`{member.name}`' for member in value)}."
        return f"- `{name}`: {summary}\n"
    shown, text = [f"{name}{_signature(value)}"], _indented(doc)
    for method in METHODS.get(name, ()):
        shown.append(f"{name}.{method}{_signature(getattr(value, method))}")
        text += f"\n\n**{method}**: {_indented(inspect.getdoc(getattr(value, method)) or '')}"
    code = "\n".join(shown)
    return f"### {name}\n\n```python\n{code}\n```\n\n{text}\n"


def _signature(value: Any) -> str:
    try:
        text = re.sub(r"<function .*? at 0x\w+>", "…", str(inspect.signature(value)))
    except ValueError:  # of an enumeration
        return ""
    return re.sub(r"(: |-> )'([^']*)'", r"\1\2", text)  # annotations are texts


def _indented(text: str) -> str:
    """Sections of a docstring (Args:, Returns:, Raises:) in blocks, as they stand."""
    return "\n\n".join(
        f"```text\n{part}\n```" if part.split("\n")[0] in SECTIONS else part
        for part in text.split("\n\n")
    )


def settings_page() -> str:
    """The text of docs/settings.md: what is written by hand, and the tables as they should be."""
    parts = [SETTINGS.read_text(encoding="utf-8").partition(HEADING)[0], HEADING]
    taken = set[Setting]()
    for program, cls in PROGRAMS.items():
        settings = [setting for setting in settings_of(cls) if setting not in taken]
        taken.update(settings)
        parts.append(
            f"\n### {program}\n\n| setting | takes | default | |\n| --- | --- | --- | --- |\n"
        )
        for setting in settings:
            default = setting.default or ("required" if setting.takes else "")
            parts.append(
                f"| `{setting.key}` | {setting.takes} | {default} | {setting.description} |\n"
            )
    return "".join(parts)


if __name__ == "__main__":
    API.write_text(api_page(), encoding="utf-8")
    SETTINGS.write_text(settings_page(), encoding="utf-8")
