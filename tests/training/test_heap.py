"""Large blocks that lie between small ones are given back when they are freed.

./launch.sh test tests/training/test_heap.py
"""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

from tests.support.paths import ROOT

PROGRAM = """
import sys
from pathlib import Path
import numpy as np
from unime.training.kernels.heap import return_large_blocks

def resident():
    return int(Path("/proc/self/status").read_text().partition("VmRSS:")[2].split()[0]) / 1024

if sys.argv[1] == "returned":
    return_large_blocks()
block = np.ones(30 << 17)  # 30 MiB; freed, it raises the limit of glibc
del block
before, large, small = resident(), [], []
for _ in range(30):
    large.append(np.ones(8 << 17))
    small.append(np.ones(1 << 10))
del large
print(resident() - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="of glibc")
def test_what_is_free_is_given_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MALLOC_MMAP_THRESHOLD_", raising=False)
    grown = {
        word: float(
            subprocess.run(
                [sys.executable, "-c", PROGRAM, word],
                cwd=ROOT, capture_output=True, text=True, check=True,
            ).stdout
        )
        for word in ("kept", "returned")
    }  # fmt: skip
    assert grown["returned"] < 20 < 150 < grown["kept"], grown
