"""What the teacher's program asks of a teacher, whatever kind it is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from unime.data.teacher_store import TeacherMeta


@dataclass
class Teacher:
    """A teacher of some texts.

    Attributes:
        meta: what the store is told of it.
        embed: texts to their embeddings (n, T), of any norm.
        block: texts between two saves, which is what a kill loses at most.
        cut: of the texts those of which it reads only the beginning, with the name of their row.
        remarks: asked for at the end: what the user is told beside the counts.
    """

    meta: TeacherMeta
    embed: Callable[[list[str]], np.ndarray]
    block: int
    cut: dict[str, str] = field(default_factory=dict)
    remarks: Callable[[], list[str]] = list
