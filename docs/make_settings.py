"""Writes the tables of docs/settings.md from the fields of the config classes.

python docs/make_settings.py
"""

from __future__ import annotations

from pathlib import Path

from unime.config import (
    EvalConfig,
    ExportConfig,
    ReportConfig,
    Stage1Config,
    Stage2Config,
    Stage2PlanConfig,
    TeacherConfig,
)
from unime.config.descriptions import Setting, settings_of

PAGE = Path(__file__).with_name("settings.md")
HEADING = """
## All settings

What a program shares with one above it stands there.
"""
PROGRAMS = {
    "stage1": Stage1Config,
    "stage2": Stage2Config,
    "eval": EvalConfig,
    "report": ReportConfig,
    "export": ExportConfig,
    "prepare teacher": TeacherConfig,
    "plan": Stage2PlanConfig,
}


def page() -> str:
    """The text of docs/settings.md: what is written by hand, and the tables as they should be."""
    parts = [PAGE.read_text(encoding="utf-8").partition(HEADING)[0], HEADING]
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
    PAGE.write_text(page(), encoding="utf-8")
