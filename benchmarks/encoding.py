"""Encoding for evaluation beside `SentenceTransformer.encode`, on the same weights.

    python -m benchmarks.encoding [runs/bench/encoding_alone.json] [--small] [--repeat 5]

Random adapters on `assets/base` are merged and exported; both sides load that folder. Pictures
(Tux Paint's stamps, else drawn) have 64 to 330 pixels a side and stand beside a few words; texts
have 4 to 90 words; small pictures have 64 pixels, short texts 1 to 7 words. No two items are alike,
but in the last row, where 3 of 10 were there before. Each side takes its best batch size. CPU
seconds of one thread in turns, from files to vectors, the files' digests, by which ours finds equal
items, among them.
"""

from __future__ import annotations

import argparse
import os
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from PIL import Image
from torch import Tensor

from benchmarks.markdown import table
from benchmarks.stamps.data import PACKAGE, stamps
from eval.miniatures.mmeb import picture
from tests.support.paths import ROOT
from unime.config import LoraSettings, ModelConfig, Precision, Quantization
from unime.errors import RunError, require_package
from unime.export.merged import save_merged
from unime.inputs.items import Item, _digest
from unime.models.encoder import Encoder
from unime.retrieval.encoding import encode_items
from unime.retrieval.unime_embedder import UnimeEmbedder
from unime.runtime.environment import device_name, git_commit, installed_versions
from unime.runtime.files import write_json

BASE = ROOT / "assets/base"
BATCH_SIZES = (4, 8, 16, 32)
SIDES, WORDS = (64, 330), (4, 90)  # of pictures in pixels, and of texts
SMALL, SHORT = (64, 64), (1, 7)
AGREEMENT = 1e-5
COPIES = 3  # of 10 items of the last row so many are there already
OUTPUT = Path("runs/bench/encoding_alone.json")  # not what `./launch.sh bench encoding` writes

Encode = Callable[[Sequence[Item], int], Tensor]


def main(words: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser("python -m benchmarks.encoding", description=__doc__)
    parser.add_argument("output", nargs="?", type=Path, default=OUTPUT)
    parser.add_argument("--small", action="store_true", help="a few items, one turn")
    parser.add_argument("--repeat", type=int, default=5, help="turns that are counted")
    args = parser.parse_args(words)
    result = measure(args.small, 1 if args.small else args.repeat)
    args.output.parent.mkdir(parents=True, exist_ok=True)
    write_json(args.output, result)
    print(shown(result))


def measure(small: bool, repeat: int) -> dict[str, Any]:
    """Raw seconds of both sides, their medians and ratios.

    Raises:
        ConfigError: sentence-transformers is not installed.
        RunError: the sides' vectors differ.
    """
    require_package("sentence_transformers", "export", "benchmark")
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        sides = both(Path(folder))
        material = gather(Path(folder), 6 if small else 48)
        sizes = BATCH_SIZES[:1] if small else BATCH_SIZES
        rows = {name: compared(sides, items, sizes, repeat) for name, items in material.items()}
    return {
        "name": "encoding",
        "command": "python -m benchmarks.encoding",
        "commit": git_commit(),
        "device": device_name(),
        "versions": installed_versions(),
        "rows": rows,
    }


def shown(result: dict[str, Any]) -> str:
    cells = [
        [
            name,
            str(row["items"]),
            *(f"{row[side]['per second']:.1f} ({row[side]['batch_size']})" for side in SIDES_NAMED),
            f"{row['ratio']:.2f}×",
        ]
        for name, row in result["rows"].items()
    ]
    heads = ("", "items", *(f"{side}, items/s (batch)" for side in SIDES_NAMED), "ratio")
    return table(heads, cells)


SIDES_NAMED = ("ours", "sentence-transformers")


def both(folder: Path) -> dict[str, Encode]:
    """How each side encodes with the weights that are exported into the folder."""
    from sentence_transformers import SentenceTransformer

    held = {"quantization": Quantization.none, "precision": Precision.float32}
    trained = Encoder.load(ModelConfig(str(BASE), **held), lora=LoraSettings())
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in trained.trainable_named_parameters():
            if "lora_B" in name:
                parameter.copy_(0.02 * torch.randn(parameter.shape, generator=generator))
    trained.save_adapters(folder / "adapter")
    model = ModelConfig(str(BASE), adapter=str(folder / "adapter"), merge_adapter=True, **held)
    save_merged(Encoder.load(model), folder / "export", "5GB", BASE, code=False)
    embedder = UnimeEmbedder(Encoder.load(ModelConfig(str(folder / "export"), **held)))
    theirs = SentenceTransformer(str(folder / "export"), device="cpu")
    accelerator = Accelerator(cpu=True)

    def ours(items: Sequence[Item], batch_size: int) -> Tensor:
        _digest.cache_clear()  # a program reads every picture's file once
        return encode_items(accelerator, embedder, items, batch_size)

    def peer(items: Sequence[Item], batch_size: int) -> Tensor:
        values = [  # opened, not read: they sort by the sizes of opened pictures, not of named ones
            {"image": Image.open(item.images[0]), "text": item.text} if item.images else item.text
            for item in items
        ]
        return theirs.encode(
            values, batch_size=batch_size, convert_to_tensor=True, show_progress_bar=False
        )

    return dict(zip(SIDES_NAMED, (ours, peer), strict=True))


def gather(folder: Path, count: int) -> dict[str, list[Item]]:
    """Items of each row of the table."""
    draw = random.Random(0)
    found = stamps(Path(PACKAGE)) if Path(PACKAGE).is_dir() else []
    draw.shuffle(found)
    vocabulary = " ".join(caption for _, caption in found) or "a small red bird over the sea"
    known = sorted(set(vocabulary.split()))

    def shown(number: int, sides: tuple[int, int]) -> Item:
        side = draw.randint(*sides)
        path = folder / f"{number}-{side}.{'jpg' if number % 2 else 'png'}"
        image = picture(number, side)
        if number < len(found):
            image = Image.open(Path(PACKAGE) / found[number][0]).convert("RGBA")
            image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
        image.convert("RGB").resize((side, side)).save(path)
        return Item(f"{number} {said(draw, known, 5)}", images=(str(path),))

    def text(number: int, words: tuple[int, int]) -> Item:
        return Item(f"{number} {said(draw, known, draw.randint(*words))}")

    pictures = [shown(number, SIDES) for number in range(count)]
    small = [shown(number, SMALL) for number in range(count, 3 * count)]
    texts = [text(number, WORDS) for number in range(2 * count)]
    short = [text(number, SHORT) for number in range(2 * count, 4 * count)]
    mixed = [*pictures, *texts]
    again = [*mixed, *draw.choices(mixed, k=round(len(mixed) * COPIES / (10 - COPIES)))]
    for items in (mixed, again):
        draw.shuffle(items)
    return {
        "pictures with words": pictures,
        "small pictures with words": small,
        "texts": texts,
        "short texts": short,
        "both": mixed,
        f"both, {COPIES} of 10 again": again,
    }


def said(draw: random.Random, known: Sequence[str], count: int) -> str:
    return " ".join(draw.choices(known, k=count))


def compared(
    sides: dict[str, Encode], items: Sequence[Item], batch_sizes: Sequence[int], repeat: int
) -> dict[str, Any]:
    """Both sides on some items: first every batch size once, then the best of each in turns."""
    tried: dict[str, dict[int, float]] = {name: {} for name in sides}
    for size in batch_sizes:
        vectors = []
        for name, encode in sides.items():
            seconds, rows = timed(lambda encode=encode, size=size: encode(items, size))
            tried[name][size] = seconds
            vectors.append(rows.float())
        apart = float((vectors[0] - vectors[1]).abs().max())
        if apart > AGREEMENT:
            raise RunError(f"the sides' vectors are {apart:.1e} apart: they embed other things")
    best = {name: min(of, key=of.__getitem__) for name, of in tried.items()}
    seconds_of: dict[str, list[float]] = {name: [] for name in sides}
    for turn in range(repeat):
        for name in sorted(sides, reverse=bool(turn % 2)):
            encode = sides[name]
            seconds, _ = timed(lambda encode=encode, name=name: encode(items, best[name]))
            seconds_of[name].append(seconds)
    medians = {name: statistics.median(of) for name, of in seconds_of.items()}
    return {
        "items": len(items),
        "apart": apart,
        **{
            name: {
                "batch_size": best[name],
                "per second": len(items) / medians[name],
                "CPU seconds": seconds_of[name],
                "tried": tried[name],
            }
            for name in sides
        },
        "ratio": medians[SIDES_NAMED[1]] / medians[SIDES_NAMED[0]],
    }


def timed(work: Callable[[], Tensor]) -> tuple[float, Tensor]:
    began = time.process_time()
    found = work()
    return time.process_time() - began, found


if __name__ == "__main__":
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    main()
