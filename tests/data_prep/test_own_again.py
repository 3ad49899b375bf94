"""`prepare own` into a folder that is there: its own is known again, somebody else's stays.

./launch.sh test tests/data_prep/test_own_again.py
"""

from __future__ import annotations

from pathlib import Path

import pytest

from data_prep.made_once import make_once
from data_prep.own.__main__ import main
from tests.data_prep.test_own import prepare, write
from unime.errors import ConfigError
from unime.runtime.digests import digests_below

ROWS = [{"query": f"q{n}", "positive": f"p{n}"} for n in range(20)]
FOREIGN = [{".work/mine.txt": "mine", "thesis.txt": "years of work", "src/a.py": "x"}]
FOREIGN += [{".work/mine.txt": "mine"}]


@pytest.mark.parametrize("files", FOREIGN)
def test_a_folder_with_somebody_s_own_work_stays(files: dict[str, str], tmp_path: Path) -> None:
    out = tmp_path / "project"
    for name, text in files.items():
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        (out / name).write_text(text)
    with pytest.raises(ConfigError, match="exists already, and is no prepared set"):
        main([str(write(tmp_path / "t.csv", ROWS)), str(out)])
    assert {name: (out / name).read_text() for name in files} == files


def test_what_a_kill_leaves_at_the_start_is_gone_on_with(tmp_path: Path) -> None:
    (tmp_path / "out/.work").mkdir(parents=True)
    (tmp_path / "out/.work/made_of.json.partial").write_text("{")
    prepare(write(tmp_path / "t.csv", ROWS), tmp_path / "out")
    assert not (tmp_path / "out/.work").exists()


def test_another_program_s_summary_stays(tmp_path: Path) -> None:
    (tmp_path / "summary.json").write_text('{"accuracy": 0.93}')
    (tmp_path / "checkpoint.bin").write_bytes(b"weeks")
    before = digests_below(tmp_path)
    with pytest.raises(ConfigError, match="is there and holds no such data"):
        make_once(tmp_path, {"seed": 1}, "holds no such data", lambda _: {})
    assert {n: d for n, d in digests_below(tmp_path).items() if n != ".lock"} == before
