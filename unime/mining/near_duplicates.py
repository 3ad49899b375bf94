"""Pictures that look the same to a perceptual hash (pHash, 64 bits of a picture's low
frequencies): copies in another size, format or quality."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.pool import ThreadPool

import numpy as np
import torch
from torch import Tensor

from unime.data.checks.pictures import looks_of
from unime.errors import require_package
from unime.inputs.images import READERS, load_image
from unime.mining.corpus import Corpus, plain_text
from unime.mining.rules import Found
from unime.runtime.progress import progress_bar


@dataclass(frozen=True)
class Hashes:
    """Of the pictures of some items.

    Attributes:
        bits: (N, P) uint64, 0 where an item has no more.
        counts: pictures of each (N,), 0 where one of them looks like any other of one colour.
        texts: a number for each text (N,), 0 for none.
    """

    bits: np.ndarray
    counts: np.ndarray
    texts: np.ndarray

    def __getitem__(self, places: np.ndarray) -> Hashes:
        return Hashes(self.bits[places], self.counts[places], self.texts[places])

    def near(self, other: Hashes, distance: int) -> np.ndarray:
        """Where all pictures are, one by one, and there are as many."""
        bits = np.bitwise_count(self.bits ^ other.bits).max(axis=-1)
        near: np.ndarray = (bits <= distance) & (self.counts == other.counts) & (self.counts > 0)
        return near


@dataclass(frozen=True)
class NearDuplicates:
    """Drops what shows nearly the positive's pictures beside the same text, or nearly the query's
    pictures beside the same text or none."""

    queries: Hashes
    targets: Hashes
    distance: int
    name: str = "near_duplicates"

    @classmethod
    def of(cls, corpus: Corpus, distance: int, max_pixels: int) -> NearDuplicates:
        """Read every picture of a corpus.

        Raises:
            ConfigError: ImageHash is not installed.
            DataError: a picture that cannot be read.
        """
        items = [*corpus.queries, *corpus.targets]
        paths = list(dict.fromkeys(path for item in items for path in item.images))
        numbers = {"": 0}
        texts = [numbers.setdefault(plain_text(item.text), len(numbers)) for item in items]
        found = dict(zip(paths, perceptual_hashes(paths, max_pixels), strict=True))
        counts = np.array([len(item.images) for item in items])
        bits = np.zeros((len(items), max(1, counts.max(initial=0))), dtype=np.uint64)
        for number, item in enumerate(items):
            looks = [found[path] for path in item.images]
            if None in looks:
                counts[number] = 0
            else:
                bits[number, : len(looks)] = looks
        all_of_them = Hashes(bits, counts, np.array(texts))
        cut = len(corpus.queries)
        return cls(all_of_them[np.arange(cut)], all_of_them[np.arange(cut, len(items))], distance)

    def __call__(self, found: Found) -> Tensor:
        offered = self.targets[found.targets.clamp(min=0).numpy()]  # (B, K, P)
        positive = self.targets[found.positives[:, None].numpy()]  # (B, 1, P)
        query = self.queries[found.queries[:, None].numpy()]
        like_positive = offered.near(positive, self.distance) & (offered.texts == positive.texts)
        like_query = offered.near(query, self.distance)
        like_query &= (offered.texts == 0) | (offered.texts == query.texts)
        return torch.from_numpy(like_positive | like_query)


def perceptual_hashes(paths: Sequence[str], max_pixels: int) -> list[int | None]:
    """The 64 bits of each picture; None of one that is of one colour, as `check` has it.

    Raises:
        ConfigError: ImageHash is not installed.
        DataError: a picture that cannot be read.
    """
    if not paths:
        return []
    require_package("imagehash", "data", "mining.near_duplicates")

    def hash_of(path: str) -> int | None:
        looks = looks_of(load_image(path, max_pixels))
        return None if looks == "flat" else int(looks, 16)

    with ThreadPool(READERS) as pool:
        found = pool.imap(hash_of, paths, chunksize=16)
        return list(progress_bar(found, total=len(paths), desc="perceptual hashes", unit="image"))
