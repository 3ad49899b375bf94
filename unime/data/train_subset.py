"""The training rows of one task: MMEB's, from a local folder or the hub (mmeb_rows.py knows their
columns), or those of a prepared set (prepared/rows.py).

MMEB's images are unpacked below the local folder, or where ``data.image_root`` says.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Mapping
from copy import copy
from dataclasses import dataclass, field, replace
from functools import cache
from zlib import crc32

import numpy as np
from PIL import Image

from unime.config import InputConfig, PairData
from unime.data.mmeb_rows import NEGATIVE_COLUMNS, TRAIN_COLUMNS, read_pair
from unime.data.prepared.folder import PreparedSet
from unime.data.prepared.rows import PREPARED_COLUMNS, read_prepared
from unime.data.rows import Row
from unime.data.tables import HeldTable, ImageFolder, image_folder, load_table
from unime.errors import DataError
from unime.inputs.images import Size, load_image, read_images
from unime.inputs.items import Item, Pair
from unime.models.item_processor import ItemProcessor
from unime.runtime.progress import progress_bar

SPARE = 16  # tokens by which a text may be longer beside an image than it is alone


@dataclass
class TrainSubset:
    """The selected rows of one MMEB-train subset; checked when loaded, read when asked for."""

    name: str
    table: HeldTable
    selected: list[int]  # ascending
    images: ImageFolder
    is_prepared: bool = False  # else the rows are MMEB's
    dropped: list[str] = field(default_factory=list)  # messages of the bad rows that were left out

    def __len__(self) -> int:
        return len(self.selected)

    def __getitem__(self, index: int) -> Pair:
        number = self.selected[index]
        return self._read(self.table[number], self.images.find, number)

    def __iter__(self) -> Iterator[Pair]:
        for number, row in zip(self.selected, self.table.read(self.selected), strict=True):
            yield self._read(row, self.images.find, number)

    def check(self, data: PairData, processor: ItemProcessor | None) -> None:
        """Look at every selected row and every distinct image, and keep the good rows; with
        ``data.verify_images`` read each image and look at each item, as training will.

        Raises:
            DataError: the first bad row (``data.on_bad_row`` "raise"), or no good one.
        """
        files: list[str] = []

        @cache
        def find(path: str) -> str:
            files.append(self.images.find(path))
            return files[-1]

        def find_readable(path: str) -> str:
            if find(path) in refused:
                raise DataError(refused[find(path)])
            return find(path)

        good, self.dropped = self._sorted_out(find)
        if data.verify_images:
            inputs = processor.inputs if processor else InputConfig()
            sizes, refused = read_images(
                files, inputs.max_image_pixels, f"reading images of {self.name}"
            )
            check = ItemCheck(processor, sizes) if processor else None
            good, self.dropped = self._sorted_out(find_readable, check)
        if self.dropped and data.on_bad_row == "raise":
            raise DataError(_first_of(self.dropped) + "; data.on_bad_row=drop leaves them out")
        if not good:
            raise DataError(f"{self.name}: no good row; {_first_of(self.dropped)}")
        self.selected = good

    def _sorted_out(
        self, find: Callable[[str], str], check: ItemCheck | None = None
    ) -> tuple[list[int], list[str]]:
        """The good ones of the selected rows, and what is wrong with each bad one."""
        good, bad = [], []
        rows = zip(self.selected, self.table.read(self.selected), strict=True)
        with progress_bar(total=len(self), desc=f"checking {self.name}", unit="row") as bar:
            for number, row in rows:
                try:
                    pair = self._read(row, find, number)
                    if check is not None:
                        check(pair, row.where)
                    good.append(number)
                except DataError as error:
                    bad.append(str(error))
                bar.update()
        return good, bad

    def _read(self, row: Row, find: Callable[[str], str], number: int) -> Pair:
        if self.is_prepared:
            return read_prepared(row, find)
        return read_pair(row, find, f"{self.name}:{number}")


def load_train_subset(
    data: PairData, name: str, seed: int = 0, processor: ItemProcessor | None = None
) -> TrainSubset:
    """The rows of one of ``data.sources``: so many as it says, the first ones or a random choice.

    Args:
        processor: how training will prepare the items, for ``data.verify_images``; None: images
            are read with default settings, and that is all.

    Raises:
        DataError: no such folder, subset, split or column, or a bad row; names file, row, column
            and value.
    """
    prepared = PreparedSet.of(data.root)
    required: tuple[str, ...] = TRAIN_COLUMNS
    optional: tuple[str, ...] = NEGATIVE_COLUMNS
    if prepared is not None:
        required, optional = PREPARED_COLUMNS, ()
    split = data.split or ("original" if prepared is None else "train")
    table = load_table(
        data.root, name, split, data.revision, required, optional, data.follow_links
    ).held()
    source, total = data.sources[name], len(table)
    count = min(source.rows or total, total)
    selected = list(range(count))
    if source.sample == "random":
        random = np.random.default_rng([seed, crc32(name.encode())])
        selected = sorted(random.choice(total, count, replace=False).tolist())
    image_root = data.image_root or (prepared and prepared.image_root) or None
    images = image_folder(data.root, image_root, [], data.follow_links)
    result = TrainSubset(name, table, selected, images, prepared is not None)
    result.check(data, processor)
    return result


class ItemCheck:
    """Refuses what an :class:`ItemProcessor` will refuse of items whose images were read before.

    Whatever a processor does with an image depends on its size, so that blank ones stand for them,
    and items are alike whose images have the same sizes: of these one is prepared, and another only
    where the longest text might be too long for the model beside such images.

    Args:
        sizes: of the images, by path.
    """

    def __init__(self, processor: ItemProcessor, sizes: Mapping[str, Size]) -> None:
        self.processor = copy(processor)  # which counts its own truncated texts
        self.sizes = sizes
        self._fits: dict[Hashable, bool] = {}

    def __call__(self, pair: Pair, where: str) -> None:
        """Refuse a row with an item that the model cannot embed.

        Raises:
            DataError: an item that the processor refuses, or of too many tokens.
        """
        named = {"query": pair.query, "target": pair.target}
        named |= {f"negative {number}": item for number, item in enumerate(pair.negatives)}
        for name, item in named.items():
            try:
                self._check(item)
            except DataError as error:
                raise DataError(f"{where}, {name}: {error}") from None

    def _check(self, item: Item) -> None:
        sizes = tuple(map(self._size, item.images))
        kind = (sizes, item.video, item.instruction, bool(item.text.strip()))
        if kind not in self._fits:
            self._fits[kind] = self._fits_with_any_text(item)
        if not self._fits[kind]:
            self.processor(item, self._blank)

    def _fits_with_any_text(self, item: Item) -> bool:
        short = replace(item, text="a", spacing=None) if item.text.strip() else item
        try:
            sample = self.processor(short, self._blank)
        except DataError:
            return False
        longest = len(sample["input_ids"]) + int(self.processor.inputs.max_text_tokens or 0)
        most = self.processor.most_tokens
        return most is None or longest + SPARE <= most

    def _size(self, path: str) -> Size:
        return self.processor.resolution.size_of(self.sizes[path])

    def _blank(self, path: str) -> Image.Image:
        if path not in self.sizes:  # a frame of a video
            return load_image(path, self.processor.inputs.max_image_pixels)
        return Image.new("RGB", self._size(path))


def _first_of(messages: list[str]) -> str:
    return messages[0] + (f" (and {len(messages) - 1} more bad rows)" if len(messages) > 1 else "")
