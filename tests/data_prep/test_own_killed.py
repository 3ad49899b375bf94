"""Own data that are prepared by a program that is killed: ./launch.sh test -m data
tests/data_prep/test_own_killed.py"""

from __future__ import annotations

import io
import random
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from tests.support.paths import ROOT
from unime.runtime.digests import digests_below

pytestmark = pytest.mark.data
ROWS, KILLS = 3000, 5


def table(folder: Path) -> Path:
    """Pictures of about 1 KB within a table, of which some come twice."""
    drawn = np.random.default_rng(0)
    rows = []
    for number in range(ROWS):
        held = io.BytesIO()
        noise = drawn.integers(0, 256, (24, 24, 3), dtype=np.uint8)
        Image.fromarray(noise).save(held, "JPEG", quality=75)
        again = rows[-7]["image"]["bytes"] if number % 10 == 9 else held.getvalue()
        rows.append({"image": {"bytes": again}, "caption": f"picture {number}"})
    path = folder / "table.parquet"
    pq.write_table(pa.Table.from_pylist(rows), path)
    return path


def start(path: Path, out: Path) -> subprocess.Popen[bytes]:
    words = ["-m", "data_prep.own", str(path), str(out)]
    return subprocess.Popen([sys.executable, *words], cwd=ROOT, stdout=subprocess.DEVNULL)


def written(out: Path) -> int:
    return sum(path.stat().st_size for path in out.rglob("*") if path.is_file())


def test_killed_five_times_it_writes_the_same_bytes(tmp_path: Path) -> None:
    path, whole, killed = table(tmp_path), tmp_path / "whole", tmp_path / "killed"
    assert start(path, whole).wait(300) == 0
    choose, notes = random.Random(0), killed / ".work" / "pictures"
    for number in range(KILLS):  # while pictures are read, and while the set is written
        program = start(path, killed)
        known = notes.stat().st_size if notes.is_file() else 0
        deadline = time.monotonic() + 300
        while program.poll() is None and time.monotonic() < deadline:
            is_writing = any(killed.glob("table_*/*.parquet"))
            if is_writing if number > 2 else notes.is_file() and notes.stat().st_size > known:
                break
            time.sleep(0.01)
        time.sleep(choose.random() * (0.3 if number > 2 else 0.1))
        assert program.poll() is None, "done before it was killed"
        program.kill()
        program.wait()
        if notes.is_file():
            assert notes.stat().st_size >= known  # what was read is not read again
            with notes.open("ab") as file:
                file.write(b"half a line")
    assert start(path, killed).wait(300) == 0
    found, expected = (
        {name: of for name, of in digests_below(out).items() if name != ".lock"}
        for out in (killed, whole)
    )
    assert found == expected and written(killed) > 0
    assert not (killed / ".work").exists()
