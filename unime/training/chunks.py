"""One rank's part of a step, and how it is cut into chunks that fit into memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from torch import Tensor

from unime.config import OptimConfig
from unime.models.features.frozen import Media


@dataclass(frozen=True)
class ChunkLimits:
    """How much is encoded at a time: so many items of a group, and so many tokens with padding, or
    `packed`: in one row without."""

    items: int
    targets: int  # items of the group "target"
    tokens: int | None = None
    packed: bool = False

    @classmethod
    def of(cls, optim: OptimConfig) -> ChunkLimits:
        targets = optim.target_chunk_size or optim.chunk_size
        return cls(optim.chunk_size, targets, optim.chunk_tokens, optim.packing)

    def __str__(self) -> str:
        targets = "" if self.targets == self.items else f" optim.target_chunk_size={self.targets}"
        tokens = "" if self.tokens is None else f" optim.chunk_tokens={self.tokens}"
        return f"optim.chunk_size={self.items}{targets}{tokens}"

    def halved(self) -> ChunkLimits | None:
        """None: a chunk is a single item already."""
        if self.items == self.targets == 1:
            return None
        tokens = None if self.tokens is None else max(1, self.tokens // 2)
        halves = max(1, self.items // 2), max(1, self.targets // 2)
        return ChunkLimits(*halves, tokens, self.packed)

    def plan(self, lengths: Mapping[str, Sequence[int]]) -> list[dict[str, list[int]]]:
        """Which items of each group make up each chunk.

        A batch that fits is one chunk of all groups, in order. Else a chunk holds items of one
        group, the longest first, so that little is padding and memory is exhausted at once or not
        at all. An item of more tokens than the limit is a chunk of its own.

        Args:
            lengths: tokens of each item, by group.
        """
        share = sum(len(of) / self._most(group) for group, of in lengths.items())
        tokens = sum(self._tokens(of) for of in lengths.values())
        if share <= 1 and (self.tokens is None or tokens <= self.tokens):
            return [{group: list(range(len(of))) for group, of in lengths.items() if of}]
        return [
            {group: chunk}
            for group, of in lengths.items()
            for chunk in self._cut(of, self._most(group))
        ]

    def _tokens(self, lengths: Sequence[int]) -> int:
        return sum(lengths) if self.packed else len(lengths) * max(lengths, default=0)

    def _most(self, group: str) -> int:
        return self.targets if group == "target" else self.items

    def _cut(self, lengths: Sequence[int], most: int) -> list[list[int]]:
        chunks: list[list[int]] = []
        longest_first = sorted(range(len(lengths)), key=lambda item: -lengths[item])
        for item in longest_first:
            fits = bool(chunks) and len(chunks[-1]) < most
            if fits and self.tokens is not None:
                together = [lengths[other] for other in (*chunks[-1], item)]
                fits = self._tokens(together) <= self.tokens
            if not fits:
                chunks.append([])
            chunks[-1].append(item)
        return chunks


@dataclass
class Batch:
    """One rank's part of a step: chunks that the encoder takes one by one, and what the loss needs.

    A chunk is a list of parts, one of each group that it holds items of, each padded or packed on
    its own.
    The chunks' rows, taken in `order`, are those of the groups, one group after the other, and the
    rows of a group are the rows of its labels. Equal items share a row of the chunks.
    """

    chunks: list[list[dict[str, Tensor]]]
    groups: dict[str, int]  # rows of each: "text", or "query" and "target"
    labels: dict[str, Tensor]
    row_ids: list[str]
    media: Media = field(default_factory=Media)  # set apart, which the parts name by number
    order: Tensor | None = None  # (rows of all groups,) in the chunks' rows; None: as they are
    num_truncated: int = 0

    def by_group(self, rows: Tensor) -> dict[str, Tensor]:
        """The chunks' rows (n, …) as those of each group; what is left over at their end belongs to
        none."""
        of_items = rows[: sum(self.groups.values())]
        if self.order is not None:
            of_items = rows[self.order.to(rows.device)]
        return dict(zip(self.groups, of_items.split(list(self.groups.values())), strict=True))

    @property
    def num_tokens(self) -> tuple[int, int]:
        """Tokens that are read, and places they take with padding."""
        masks = [part["attention_mask"] for chunk in self.chunks for part in chunk]
        return sum(int(mask.sum()) for mask in masks), sum(mask.numel() for mask in masks)
