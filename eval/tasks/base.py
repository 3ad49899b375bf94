"""What one task asks: queries, what they are searched among, and what is right."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from unime.errors import DataError, require
from unime.inputs.images import sample_frames
from unime.inputs.items import Item

Relevance = dict[int, float]  # a target's place -> how relevant it is, above 0


@dataclass
class EvalTask:
    """The queries of a task and their candidates, in the source's order, which decides between
    copies of one item: the one that comes first ranks first. Different items with equal scores
    count as in random order (:func:`unime.retrieval.ranking.ranking_metrics`). A format gives them
    all at once, or one by one (`place`, `ask`).

    Attributes:
        queries: (Q) what is asked.
        targets: (T) everything that is searched, each once.
        target_names: (T) the source's name of each target: an id, a label, a path.
        relevance: (Q) the right targets of each query, at least one.
        candidates: (Q) the targets among which each query is searched, no place twice; None: all.
        num_rows: queries in the data, of which there are more if a limit cut them.
        ties_lose: of equal scores none is right: candidates, the right one last, keep their order.
        left_out: rows that the task does not ask about, each with its place and the reason.
    """

    name: str
    num_rows: int = 0
    queries: list[Item] = field(default_factory=list)
    targets: list[Item] = field(default_factory=list)
    target_names: list[str] = field(default_factory=list)
    relevance: list[Relevance] = field(default_factory=list)
    candidates: list[list[int]] | None = None
    ties_lose: bool = False
    left_out: list[str] = field(default_factory=list)
    _places: dict[tuple[str, Item], int] = field(default_factory=dict, repr=False, compare=False)

    def place(self, name: str, item: Item) -> int:
        """Where this target is, which is added at the end if none is like it and called so."""
        place = self._places.setdefault((name, item), len(self.targets))
        if place == len(self.targets):
            self.targets.append(item)
            self.target_names.append(name)
        return place

    def ask(self, query: Item, right: Iterable[int], among: Iterable[int] | None = None) -> None:
        """Add a query.

        Args:
            right: the places of its right targets.
            among: those of its candidates, of which one that is listed twice is one; None: all
                targets.
        """
        self.queries.append(query)
        self.relevance.append(dict.fromkeys(right, 1.0))
        if among is not None:
            self.candidates = self.candidates or []
            self.candidates.append(list(dict.fromkeys(among)))

    def checked(self) -> EvalTask:
        """Itself.

        Raises:
            DataError: no query, one without a right target among its candidates, or a candidate
                that comes twice.
        """
        if not self.queries:
            raise DataError(f"task {self.name}: no query")
        everything = range(len(self.targets))
        for number, own in enumerate(self.candidates or []):
            if len(set(own)) < len(own) or not all(place in everything for place in own):
                raise DataError(
                    f"task {self.name}, query {number}: a candidate comes twice or is no target"
                )
        for number, relevant in enumerate(self.relevance):
            own = list(relevant) if self.candidates is None else self.candidates[number]
            among = all(place in own and place in everything for place in relevant)
            if not relevant or not among or min(relevant.values()) <= 0:
                raise DataError(
                    f"task {self.name}, query {number}: its right targets are {relevant}, not all"
                    " among its candidates, or of no relevance"
                )
        return self

    def name_of(self, place: int) -> str:
        """What messages call an item: its place among the queries and then the targets."""
        if place < len(self.queries):
            return f"query {place}"
        target = place - len(self.queries)
        return f"target {target} ({self.target_names[target]!r})"

    def candidate_items(self) -> list[list[Item]]:
        """The candidates themselves."""
        places = self.candidates or [list(range(len(self.targets)))] * len(self.queries)
        return [[self.targets[place] for place in own] for own in places]


def as_shown(item: Item, num_frames: int) -> Item:
    """The item as a model sees it: of a video the frames that are taken."""
    return replace(item, video=tuple(sample_frames(item.video, num_frames))) if item.video else item


@dataclass(frozen=True)
class Instructed:
    """A format whose items have instructions.

    Attributes:
        instruction: "inline": before the text, as VLM2Vec has it; "apart": the item's instruction,
            which a prompt puts where the model expects it.
    """

    instruction: str = field(default="inline", kw_only=True)

    def __post_init__(self) -> None:
        forms = ("inline", "apart")
        require(self.instruction in forms, "instruction", self.instruction, " or ".join(forms))

    def item(
        self,
        instruction: str | None,
        text: str = "",
        images: tuple[str, ...] = (),
        video: tuple[str, ...] = (),
    ) -> Item:
        """An item with its instruction: in one line before the text (VLM2Vec's
        src/model/processor.py, ``process_input_text``), or apart. The tokens of images and videos
        are the prompt's to add."""
        if self.instruction == "apart":
            return Item(text, images, video, (instruction or "").strip())
        spacing = (" ", "") if images or video else None
        return Item(" ".join(filter(None, (instruction, text))), images, video, spacing=spacing)
