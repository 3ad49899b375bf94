"""What an update did, and what a search found."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from unime.search.points import point_id


@dataclass(frozen=True)
class Hit:
    """Something that was found.

    Attributes:
        score: the cosine.
        path: of its file.
        kind: "picture", "text" or "page".
        place: of a page in its PDF file, or of a passage in its text, from 1; 0: the whole file.
        line: where a passage begins, from 1.
        text: of a passage.
    """

    score: float
    path: str
    kind: str
    place: int = 0
    line: int = 0
    text: str = ""

    @property
    def id(self) -> str:
        """Of its point in the index."""
        return point_id(self.path, self.place)

    @property
    def where(self) -> str:
        """The path, with the page or line."""
        beside = {"page": f", page {self.place}", "text": f":{self.line}"}
        return self.path + beside.get(self.kind, "")


@dataclass
class Report:
    """What an update of an index did.

    Attributes:
        added: files that were embedded and had not been there.
        changed: files that were embedded anew.
        moved: files whose content was there by another name, which is gone.
        copied: files whose content is there by another name, too; neither are embedded.
        touched: files with another date and the same content.
        unchanged: files that were not read.
        removed: files that are gone.
        changing: files that changed while they were read, which are left to the next update.
        embedded: pictures, passages and pages.
        cut: passages longer than the model is shown.
        unreadable: of each file that could not be read, as a whole or in part, why.
        left_out: how many files were not looked at, by the reason.
    """

    added: int = 0
    changed: int = 0
    moved: int = 0
    copied: int = 0
    touched: int = 0
    unchanged: int = 0
    removed: int = 0
    changing: int = 0
    embedded: int = 0
    cut: int = 0
    unreadable: dict[str, str] = field(default_factory=dict)
    left_out: Counter[str] = field(default_factory=Counter)

    def lines(self) -> list[str]:
        """It in words."""
        names = ("added", "changed", "moved", "copied", "touched", "removed", "unchanged")
        counts = [f"{getattr(self, name):,} {name}" for name in names if getattr(self, name)]
        said = [f"{', '.join(counts) or 'no files'}; {self.embedded:,} items embedded"]
        if self.cut:
            said.append(
                f"{self.cut:,} passages are longer than the model is shown, and known by their"
                " beginning"
            )
        if self.changing:
            said.append(
                f"{self.changing:,} files changed while they were read; the next update has them"
            )
        said += [f"left out: {count:,} {reason}" for reason, count in self.left_out.most_common()]
        if self.unreadable:
            said.append(f"{len(self.unreadable):,} files cannot be read, or not all of them")
        return said
