import sys

sys.path.insert(0, "/work/main")
from tests.conftest import *
from tests.engines.test_engines import *
import pytest

for n in [n for n in dir() if n.startswith("test_")]:
    del globals()[n]


@pytest.mark.parametrize(
    ("engine", "count"),
    [("single", 1), ("ddp", 2), ("zero1", 2), ("zero2", 2), ("zero3", 2), ("fsdp2", 2)],
)
def test_kept(engine, count, engine_folder, tmp_path):
    ranks = Ranks(tmp_path, count)
    try:
        found = run_cases(ranks, engine, ["kept", "kept_some", "kept_checkpointing"], engine_folder)
    finally:
        ranks.stop()
    for c, r in found.items():
        print(engine, c, r)
    judge(engine, found)
