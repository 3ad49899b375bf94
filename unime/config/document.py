"""Writes the tables of docs/settings.md: `python -m unime.config.document`."""

from __future__ import annotations

from pathlib import Path

from unime.config.data import TeacherConfig
from unime.config.descriptions import Setting, settings_of
from unime.config.evaluation import EvalConfig, ReportConfig
from unime.config.export import ExportConfig
from unime.config.planning import Stage2PlanConfig
from unime.config.training import Stage1Config, Stage2Config

PAGE = Path(__file__).resolve().parents[2] / "docs/settings.md"
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


def with_tables(page: str) -> str:
    """The page with the tables of the config classes as they are now."""
    parts, taken = [page.partition(HEADING)[0], HEADING], set[Setting]()
    for program, cls in PROGRAMS.items():
        settings = [setting for setting in settings_of(cls) if setting not in taken]
        taken.update(settings)
        parts.append(
            f"\n### {program}\n\n| setting | takes | default | |\n| --- | --- | --- | --- |\n"
        )
        parts += [
            f"| `{s.key}` | {s.takes} | {s.default or s.takes and 'required'} | {s.description} |\n"
            for s in settings
        ]
    return "".join(parts)


if __name__ == "__main__":
    PAGE.write_text(with_tables(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
