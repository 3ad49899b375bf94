"""Own data made ready and read again, beside `datasets`' own map on the same work.

    ./launch.sh bench preparing [--small]

200,000 rows of a CSV file, each with a caption and a JPEG of about 1 KB. Ours: `prepare own`, which
reads pictures with several threads, and all pairs of what it wrote. Theirs: `datasets` reads the
table, and its `map` in one process decodes every picture in full, takes its digest and its
perceptual hash and normalises the caption; the rows go to Parquet. Nothing is held out and nothing
checked for errors there. Each is a process of its own, whose memory is the most that it ever held.
"""

from __future__ import annotations

import csv
import hashlib
import json
import subprocess
import sys
import tempfile
import time
import unicodedata
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from benchmarks import memory
from benchmarks.markdown import table
from unime.inputs.picture_files import open_picture

ROWS = 200_000
SIDE = 24  # pixels: of noise about 1 KB
ACTS = ("prepare own", "iterate", "datasets")


def make(folder: Path, rows: int) -> None:
    random = np.random.default_rng(0)
    with (folder / "table.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("image", "caption"))
        for number in range(rows):
            name = f"{number % 1000:03d}/{number}.jpg"
            (folder / name).parent.mkdir(exist_ok=True)
            noise = random.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
            Image.fromarray(noise).save(folder / name, quality=75)
            writer.writerow((name, f"Picture {number} of many, of noise in {SIDE} pixels."))


def prepare(folder: Path) -> int:
    from data_prep.own.__main__ import main

    main([str(folder / "table.csv"), str(folder / "ours"), "directions=i2t"])
    return 0


def iterate(folder: Path) -> int:
    from unime.config import PairData, PairSource
    from unime.data.datasets import PairDataset

    data = PairData(str(folder / "ours"), sources={"table_i2t": PairSource()}, verify_images=False)
    return sum(1 for _ in PairDataset.load(data, 0))


def theirs(folder: Path) -> int:
    import datasets
    import imagehash

    def work(row: dict[str, str]) -> dict[str, Any]:
        content = (folder / row["image"]).read_bytes()
        with open_picture(folder / row["image"]) as image:
            looks = imagehash.phash(image.convert("RGB"))
        text = " ".join(unicodedata.normalize("NFKC", row["caption"]).casefold().split())
        digests = (hashlib.blake2b(part).hexdigest() for part in (content, text.encode()))
        return {"looks": str(looks), **dict(zip(("content", "text"), digests, strict=True))}

    found = datasets.load_dataset(
        "csv", data_files=str(folder / "table.csv"), split="train", cache_dir=str(folder / "cache")
    )
    found.map(work).to_parquet(folder / "theirs.parquet")
    return len(found)


def child(act: str, folder: str) -> None:
    before, began = time.process_time(), time.perf_counter()
    {"prepare own": prepare, "iterate": iterate, "datasets": theirs}[act](Path(folder))
    wall, cpu = time.perf_counter() - began, time.process_time() - before
    print(json.dumps({"CPU seconds": cpu, "wall seconds": wall, "MB": memory()}))


def measured(rows: int) -> dict[str, dict[str, float]]:
    """Of each act, seconds and memory."""
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        make(Path(folder), rows)
        for act in ACTS:
            command = [sys.executable, "-m", "benchmarks.cpu.preparing", act, folder]
            done = subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True)
            found[act] = json.loads(done.stdout.splitlines()[-1]) | {"rows": rows}
    return found


def shown(found: dict[str, dict[str, float]]) -> str:
    heads = ("", "rows", "rows a CPU second", "rows a second", "MiB at most")
    return table(
        heads,
        [
            [
                act,
                f"{of['rows']:,}",
                f"{of['rows'] / of['CPU seconds']:,.0f}",
                f"{of['rows'] / of['wall seconds']:,.0f}",
                f"{of['MB']:,.0f}",
            ]
            for act, of in found.items()
        ],
    )


if __name__ == "__main__":
    child(*sys.argv[1:])
