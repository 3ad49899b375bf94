"""One object for whoever uses a model: pictures and texts in, arrays of vectors out.

>>> embedder = Embedder("runs/qwen2-vl-2b/stage2")  # a run, an export, an adapter, a hub id
>>> pictures = embedder.encode([Path("cat.jpg"), Path("car.jpg")])
>>> embedder.similarity(embedder.encode(["a sleeping cat"]), pictures)
array([[0.61, 0.12]], dtype=float32)
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from enum import Enum
from numbers import Integral
from pathlib import Path
from queue import SimpleQueue
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from PIL import Image

from unime.config import InputConfig, ModelConfig, Precision, Quantization
from unime.config.reading.values import expected_of
from unime.errors import ConfigError, DataError, require
from unime.inputs.given import Input, as_items, by_place, loaded
from unime.inputs.images import longest_first
from unime.inputs.items import Item, distinct_places
from unime.inputs.padding import Sample
from unime.losses import first_unsound
from unime.models.adapter_files import read_description
from unime.models.encoder import Encoder
from unime.models.hub import FINAL, locate
from unime.runtime.progress import progress_bar

Vectors: TypeAlias = NDArray[Any]
OUTPUTS = ("float32", "float16", "int8", "binary", "ubinary")


@dataclass(frozen=True)
class Prepared:
    """An item as the model is shown it.

    Attributes:
        sample: model inputs.
        tokens: of the whole prompt, pictures among them.
        pixels: of all pictures, as they were given.
        is_cut: whether its text was longer than the model is shown.
    """

    sample: Sample
    tokens: int
    pixels: int
    is_cut: bool


class Embedder:
    """A trained model, ready to embed: its prompt, pooling and limits are those of its training.

    Args:
        name: of a run's folder, an exported folder, an adapter or a hub id.
        adapter: one to put on it: a folder, or id@revision.
        revision: of the model on the hub.
        device: "cpu", "cuda:1" or several, each of which gets a copy of the model; None: a GPU
            where there is one.
        precision: of weights and computation; None: bfloat16 on a GPU, float32 else.
        quantization: of the language model's layers; None: as it was trained, none of other models.
        inputs: how items are shown to it; None: as it was trained.
        trust_remote_code: run the code that the model brings.

    Raises:
        ConfigError: there is no such model or device, or it cannot be used.
    """

    def __init__(
        self,
        name: str | Path,
        *,
        adapter: str | None = None,
        revision: str | None = None,
        device: str | Sequence[str] | None = None,
        precision: str | None = None,
        quantization: str | None = None,
        inputs: InputConfig | None = None,
        trust_remote_code: bool = False,
    ) -> None:
        default = "cuda" if torch.cuda.is_available() else "cpu"
        devices = [device or default] if device is None or isinstance(device, str) else [*device]
        if not devices:
            raise ConfigError("device: got none, expected at least one", "device")
        for one in devices:
            _check_device(one)
        _check_word("precision", precision, Precision)
        _check_word("quantization", quantization, Quantization)
        folder = Path(name).expanduser()
        place = folder / FINAL if (folder / FINAL).is_dir() else folder
        is_cpu = torch.device(devices[0]).type == "cpu"
        model = ModelConfig(
            str(place) if place.exists() else str(name),
            revision=revision,
            adapter=adapter,
            precision=Precision(precision or ("float32" if is_cpu else "bfloat16")),
            quantization=Quantization.none,
            trust_remote_code=trust_remote_code,
        )
        model.quantization = Quantization(quantization or _trained_quantization(model))
        self.name, self.model = str(name), model
        self.encoders = [Encoder.load(model, inputs, device=one) for one in devices]

    @property
    def dimension(self) -> int:
        """Of the vectors, D."""
        return self.encoders[0].hidden_size

    def encode(
        self,
        items: Input | Sequence[Input],
        *,
        dimensions: int | None = None,
        output: str = "float32",
        batch_size: int = 32,
        show_progress: bool = False,
    ) -> Vectors:
        """Embed items; equal ones once.

        Args:
            items: each a text (str), a picture (a Path, a file's bytes, a PIL image), or a dict of
                "text", "image" or "images" (there a str is a path, too) and "instruction" (what
                kind of search it is); or one of them alone.
            dimensions: the first so many of each vector, brought to norm 1 again (Matryoshka,
                arXiv 2205.13147: as good as the whole where the model was trained for it).
            output: "float32", "float16"; "int8": each vector scaled to its largest component, which
                keeps cosines; "ubinary" and "binary": a bit a component, eight in a byte, uint8 and
                (less 128) int8.

        Returns:
            (N, D) in the order of the items, of norm 1 where they are floats; (D,) of one alone.

        Raises:
            ValueError: settings that cannot be.
            DataError: an item that cannot be read, or has nothing in it, by its index.
        """
        check_output(output, dimensions, self.dimension)
        if batch_size < 1:
            raise ValueError(f"batch_size: got {batch_size}, expected 1 or more")
        alone = isinstance(items, str | Path | bytes | Image.Image | Item | Mapping)
        given: Sequence[Input] = [items] if alone else items  # type: ignore[list-item,assignment]
        made, pictures = self.as_items(given)
        places = distinct_places(made)
        distinct = [item for item, _ in places]
        rows_of, order = [*places.values()], longest_first(distinct)
        vectors = np.empty((len(made), self.dimension), np.float32)
        batches = [order[n : n + batch_size] for n in range(0, len(order), batch_size)]
        with progress_bar(total=len(order), unit="item", shown=show_progress) as bar:
            for batch, rows in self._over_devices(batches, distinct, rows_of, pictures):
                for number, row in zip(batch, rows, strict=True):
                    vectors[rows_of[number]] = row
                bar.update(len(batch))
        found = as_output(vectors, dimensions, output)
        return found[0] if alone else found

    def as_items(self, given: Sequence[Input]) -> tuple[list[Item], dict[str, bytes | Image.Image]]:
        """What was given as items, and the pictures among them that lie in memory, by what their
        items call them: files as they are, Pillow's images as the model is shown them.

        Raises:
            DataError: something that is no item, or one of Pillow's images that cannot be shown, by
                its index.
        """
        return as_items(given, self.encoders[0].processor.inputs.max_image_pixels)

    def prepare(
        self, item: Item, pictures: Mapping[str, bytes | Image.Image] | None = None
    ) -> Prepared:
        """Read and tokenise an item of `as_items`.

        Raises:
            DataError: an item that cannot be read, or has nothing in it.
        """
        processor, pixels = self.encoders[0].processor, 0
        limit = processor.inputs.max_image_pixels
        before, held = processor.num_truncated, pictures or {}
        names = by_place(item.images, held)  # which errors say
        own = dict(zip(names, item.images, strict=True))
        item = replace(item, images=tuple(names))

        def load(path: str) -> Image.Image:
            nonlocal pixels
            image = loaded(path, held.get(own.get(path, path)), limit)
            pixels += image.width * image.height
            return image

        sample = processor(item, load)
        # other threads count there too
        is_cut = processor.num_truncated > before and processor.shown(item.text)[1]
        return Prepared(sample, len(sample["input_ids"]), pixels, is_cut)

    @torch.inference_mode()
    def embed(self, prepared: Sequence[Prepared], device: int = 0) -> NDArray[np.float32]:
        """Embed one batch.

        Args:
            device: which of its devices does it.

        Returns:
            (B, D) of norm 1.

        Raises:
            DataError: a vector that is zero or not finite, by its index in the batch.
        """
        encoder = self.encoders[device]
        rows = encoder.embed(*encoder.parts([one.sample for one in prepared]))
        if bad := first_unsound(rows):
            raise DataError(f"items[{bad[0]}]: {bad[1]}")
        return rows.numpy()

    def similarity(self, left: ArrayLike, right: ArrayLike) -> NDArray[np.float32]:
        """Cosines of vectors with vectors: (N, D) and (M, D), of floats or int8, to (N, M)."""
        sides = [np.atleast_2d(np.asarray(side, np.float32)) for side in (left, right)]
        units = [side / np.linalg.norm(side, axis=1, keepdims=True) for side in sides]
        return units[0] @ units[1].T

    def classify(
        self,
        images: Input | Sequence[Input],
        labels: Sequence[str],
        template: str | Sequence[str] = "a photo of a {}",
        *,
        batch_size: int = 32,
    ) -> list[dict[str, float]]:
        """How well each label fits each picture, without training (CLIP, arXiv 2103.00020, 3.1.4).

        Args:
            template: one, or several whose vectors are averaged.

        Returns:
            Of each picture: label -> cosine, the best first.

        Raises:
            ValueError: no label, one that is no text, or a template without ``{}``.
        """
        templates = [template] if isinstance(template, str) else [*template]
        texts: list[Input] = [*label_texts(labels, templates)]
        asked = self.encode(texts, batch_size=batch_size)
        shown = np.atleast_2d(self.encode(images, batch_size=batch_size))
        return self.label_scores(shown, asked, labels)

    def label_scores(
        self, shown: ArrayLike, asked: ArrayLike, labels: Sequence[str]
    ) -> list[dict[str, float]]:
        """The same of vectors: of pictures (N, D), and of `label_texts` (L * T, D)."""
        of_labels = np.asarray(asked, np.float32)
        of_labels = of_labels.reshape(len(labels), -1, of_labels.shape[-1]).mean(axis=1)
        found = self.similarity(shown, of_labels)
        return [
            {labels[n]: float(row[n]) for n in np.argsort(-row, kind="stable")} for row in found
        ]

    def _over_devices(
        self,
        batches: Sequence[list[int]],
        items: Sequence[Item],
        places: Sequence[list[int]],
        pictures: Mapping[str, bytes | Image.Image],
    ) -> Iterator[tuple[list[int], NDArray[np.float32]]]:
        """Each batch with its rows, on whichever device is free."""
        free: SimpleQueue[int] = SimpleQueue()
        for number in range(len(self.encoders)):
            free.put(number)

        def one(batch: list[int]) -> NDArray[np.float32]:
            device = free.get()
            try:
                prepared = [self._prepared(items[n], places[n][0], pictures) for n in batch]
                return self.embed(prepared, device)
            finally:
                free.put(device)

        if len(self.encoders) == 1:
            yield from ((batch, one(batch)) for batch in batches)
            return
        with ThreadPoolExecutor(len(self.encoders)) as pool:
            yield from zip(batches, pool.map(one, batches), strict=True)

    def _prepared(
        self, item: Item, place: int, pictures: Mapping[str, bytes | Image.Image]
    ) -> Prepared:
        try:
            return self.prepare(item, pictures)
        except DataError as error:
            plain = f"items[{place}]: {error.plain}"
            raise DataError(f"items[{place}]: {error}", plain=plain) from error


def _check_device(name: str) -> None:
    """Refuse what is no device of this machine."""
    try:
        is_one = torch.empty(0, device=name).device.type != "meta"  # of which nothing is computed
    except (RuntimeError, AssertionError, TypeError):  # each of another kind of device
        is_one = False
    gpus = [f"cuda:{number}" for number in range(torch.cuda.device_count())]
    expected = f"one that is here: {', '.join(['cpu', *gpus])}"
    require(is_one, "device", name, expected)


def _check_word(key: str, word: str | None, kind: type[Enum]) -> None:
    known = [None, *kind, *(one.value for one in kind)]
    require(word in known, key, word, expected_of(kind))


def label_texts(labels: Sequence[str], templates: Sequence[str]) -> list[str]:
    """Each label in each template, label after label.

    Raises:
        ValueError: no label, one that is no text, or a template without ``{}``.
    """
    if isinstance(labels, str) or not all(isinstance(label, str) for label in labels):
        raise ValueError(f"labels: got {labels!r:.80}, expected a list of texts")
    if not labels or not templates or any("{}" not in one for one in templates):
        raise ValueError(f"got labels {labels!r} and templates {templates!r}, expected {{}}")
    return [one.replace("{}", label) for label in labels for one in templates]


def check_output(output: str, dimensions: int | None, dimension: int) -> None:
    """Refuse what vectors cannot be given as.

    Raises:
        ValueError: no such output, or more dimensions than there are, or a part of a byte.
    """
    if output not in OUTPUTS:
        raise ValueError(f"output: got {output!r}, expected one of {', '.join(OUTPUTS)}")
    if dimensions is not None:
        if not is_whole(dimensions) or not 1 <= dimensions <= dimension:
            raise ValueError(f"dimensions: got {dimensions!r}, expected 1 to {dimension}")
    if output in ("binary", "ubinary") and (dimensions or dimension) % 8:
        raise ValueError(f"dimensions: got {dimensions or dimension}, expected a multiple of 8")


def is_whole(number: object) -> bool:
    """Whether it is a whole number, of Python or NumPy."""
    return isinstance(number, Integral) and not isinstance(number, bool)


def as_output(vectors: NDArray[np.float32], dimensions: int | None, output: str) -> Vectors:
    """Vectors (N, D) in another size and type, as `Embedder.encode` gives them."""
    if dimensions is not None and dimensions < vectors.shape[1]:
        vectors = vectors[:, :dimensions]
        vectors = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    if output == "float16":
        return vectors.astype(np.float16)
    if output == "int8":
        largest = np.abs(vectors).max(axis=1, keepdims=True)
        return np.rint(vectors * (127 / np.maximum(largest, 1e-12))).astype(np.int8)
    if output in ("binary", "ubinary"):
        bits = np.packbits(vectors > 0, axis=1)
        return bits if output == "ubinary" else (bits.astype(np.int16) - 128).astype(np.int8)
    return vectors


def _trained_quantization(model: ModelConfig) -> str:
    """That of the run that the adapters come from; "none" of other models."""
    adapter = locate(model).adapter
    described = read_description(adapter.folder) if adapter is not None else {}
    return str(described.get("base", {}).get("quantization", Quantization.none.value))
