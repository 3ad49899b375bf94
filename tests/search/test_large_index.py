"""An index of 100,000 pictures, of synthetic vectors, and one that is killed five times.

./launch.sh test -m use tests/search/test_large_index.py

UNIME_LARGE_INDEX=10000 makes the first smaller.
"""

from __future__ import annotations

import functools
import os
import resource
import signal
import sqlite3
import subprocess
import sys
import time
import zlib
from collections.abc import Mapping, Sequence
from contextlib import closing, suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.search.conftest import Counting
from tests.search.test_index import LOCAL, check_equals_new, held
from tests.support.paths import ROOT
from unime.config import IndexConfig, ModelConfig, Quantization
from unime.embedder import Embedder, Prepared
from unime.inputs.items import Item
from unime.search import Index
from unime.search import index as index_module

pytestmark = pytest.mark.use
COUNT = int(os.environ.get("UNIME_LARGE_INDEX", "100000"))
SIZE = 384
PNG = b"\x89PNG\r\n\x1a\n"


class Synthetic(Embedder):
    """Makes a vector of a file's bytes, without a model."""

    def __init__(self) -> None:
        inputs = SimpleNamespace(max_text_tokens=64)
        self.encoders: Any = [
            SimpleNamespace(processor=SimpleNamespace(inputs=inputs), hidden_size=SIZE)
        ]
        self.name, self.model = (
            "synthetic",
            ModelConfig("synthetic", quantization=Quantization.none),
        )
        self.embedded = 0

    def prepare(self, item: Item, pictures: Mapping[str, Any] | None = None) -> Prepared:
        return Prepared({"seed": zlib.crc32(Path(item.images[0]).read_bytes())}, 1, 1, False)  # type: ignore[typeddict-item]

    def embed(self, prepared: Sequence[Prepared], device: int = 0) -> Any:
        self.embedded += len(prepared)
        rows = [np.random.default_rng(one.sample["seed"]).standard_normal(SIZE) for one in prepared]
        return np.array([row / np.linalg.norm(row) for row in rows], np.float32)


def vector_of(path: Path) -> np.ndarray:
    embedder = Synthetic()
    return embedder.embed([embedder.prepare(Item(images=(str(path),)))])


def write(path: Path, number: int) -> None:
    path.write_bytes(PNG + number.to_bytes(8, "big"))


def test_one_percent_costs_one_percent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(index_module, "fingerprint", lambda embedder: "synthetic")
    monkeypatch.setattr("unime.search.about.fingerprint", lambda embedder: "synthetic")
    folder, embedder, part = tmp_path / "pictures", Synthetic(), COUNT // 100
    for number in range(COUNT):
        place = folder / f"{number // 1000:03}"
        if number % 1000 == 0:
            place.mkdir(parents=True)
        write(place / f"{number}.png", number)
    said, seconds = [], {}

    def timed(name: str, work: Any) -> Any:
        began, cpu = time.monotonic(), time.process_time()
        done = work()
        seconds[name] = time.process_time() - cpu
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
        spent = f"{seconds[name]:.1f} s of CPU, {time.monotonic() - began:.1f} s"
        said.append(f"{name}: {spent}, {memory:.2f} GB at most")
        return done

    config = IndexConfig(batch_size=64)
    with Index(tmp_path / "index", embedder, config) as index:
        report = timed("all", lambda: index.update(folder))
        assert report.added == embedder.embedded == COUNT
    opened = timed("open", lambda: Index(tmp_path / "index", embedder))
    with opened as index:
        assert timed("nothing", lambda: index.update(folder)).unchanged == COUNT
        embedder.embedded = 0
        files = sorted(folder.rglob("*.png"))
        new = [folder / f"000/new {number}.png" for number in range(part)]
        for number, path in enumerate(new + files[:part]):
            write(path, COUNT + number)
        for path in files[-part:]:
            path.unlink()
        report = timed("1 % added, changed and removed", lambda: index.update(folder))
        assert embedder.embedded == report.embedded == 2 * part
        assert report.added == report.changed == report.removed == part
        assert index.store.count() == COUNT
        for path in (new[0], files[0], files[COUNT // 2]):
            row = vector_of(path)
            (found,) = timed("search", functools.partial(index.nearest, row, 1))
            assert found[0].path == str(path) and found[0].score > 0.999
        assert str(files[-1]) not in {path for path, _ in held(index)}
    print("\n".join(["", f"{COUNT:,} points of {SIZE} dimensions", *said]))
    more = seconds["1 % added, changed and removed"] - seconds["nothing"]
    assert more < 0.1 * seconds["all"] or COUNT < 50_000  # three times 1 %


def files_done(ledger: Path) -> int:
    with (
        suppress(sqlite3.Error),
        closing(sqlite3.connect(f"file:{ledger}?mode=ro", uri=True)) as file,
    ):
        return file.execute("select count(*) from files where places is not null").fetchone()[0]
    return 0


def test_killed_five_times(counting: Counting, tmp_path: Path) -> None:
    folder = tmp_path / "pictures"
    folder.mkdir()
    for number in range(200):
        pixels = np.random.default_rng(number).integers(0, 256, (28, 28, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
    (folder / "text.md").write_text("\n\n".join(f"Line {n}, {n * n}." for n in range(500)))
    words = [sys.executable, "-m", "stages.index", str(folder), str(tmp_path / "index")]
    words += [f"model={counting.name}", "device=cpu", "passage_characters=400", "batch_size=2"]
    ledger, done_before = tmp_path / "index/files.sqlite", 0
    for _ in range(5):
        program = subprocess.Popen(words, cwd=ROOT, stdout=subprocess.DEVNULL)
        while files_done(ledger) < done_before + 20:
            assert program.poll() is None
            time.sleep(0.01)
        program.kill()
        assert program.wait() == -signal.SIGKILL
        done_before = files_done(ledger)
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=True)
    assert "unchanged" in done.stdout  # what killed runs had done stays
    with Index(tmp_path / "index", counting) as index:
        assert len({path for path, _ in held(index)}) == 201
        assert index.update(folder).embedded == 0
        check_equals_new(index, folder, tmp_path)
    assert LOCAL.passage_characters == 400
