"""Where the data of a test lie."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from eval.tasks.sources import EvalSource
from unime.config import EvalData


def source(root: Path, **settings: Any) -> EvalSource:
    """Rows and pictures below `root`; pictures of tables are kept in its ``cache``."""
    return EvalSource(EvalData(root=str(root), cache=str(root / "cache"), **settings))
