"""`prepare own` into a folder that is there: its own is known again, somebody else's stays.

./launch.sh test tests/data_prep/test_own_again.py
"""

from __future__ import annotations

from pathlib import Path

import pytest

from data_prep.made_once import make_once
from data_prep.own.__main__ import main
from tests.data_prep.test_own import draw, picture, prepare, read, write
from tests.support.forms.own_formats import FORMATS
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


def test_pictures_that_come_later_are_other_data(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names, out = [f"{n}.png" for n in range(24)], tmp_path / "own"
    draw(tmp_path, 12)
    rows = [{"image": name, "caption": f"thing {name}"} for name in names]
    words = (str(write(tmp_path / "t.csv", rows)), str(out), "on_bad_row=drop")
    main([*words])
    before = read(out)
    main([*words])
    assert "is there already" in capsys.readouterr().out
    (tmp_path / "of_no_row.txt").write_text("nothing of these data")
    main([*words])
    assert "is there already" in capsys.readouterr().out
    picture(12).save(tmp_path / "12.png")
    with pytest.raises(ConfigError, match="made with other data"):
        main([*words])
    main([*words, "--dry-run"])
    assert "it would be refused: " in capsys.readouterr().out
    assert read(out) == before
    (tmp_path / "12.png").unlink()
    main([*words])
    picture(99).save(tmp_path / "3.png")
    with pytest.raises(ConfigError, match="made with other data"):
        main([*words])


@pytest.mark.parametrize("name", ["ms_swift", "mme5", "nemo", "webdataset"])
def test_what_lies_beside_other_forms(name: str, tmp_path: Path) -> None:
    """Pictures in a folder of their own, and corpora; what lies in the data is seen with them."""
    (tmp_path / "in").mkdir()
    path = FORMATS[name](tmp_path / "in")
    words = [str(path), str(tmp_path / "out"), "held_out=0", "copy_images=true"]
    if name == "mme5":
        (path / "images").rename(tmp_path / "images")
        words.append(f"image_root={tmp_path}")
    main(words)
    main(words)
    if name == "webdataset":
        return
    suffix = "*.parquet" if name == "nemo" else "*.png"
    for place in tmp_path.rglob(suffix):
        if not place.is_relative_to(tmp_path / "out"):
            place.touch()
    with pytest.raises(ConfigError, match="made with other data"):
        main(words)


@pytest.mark.parametrize("name", ["folder", "table"])
def test_no_row_is_read_to_know_a_set_again(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where all that the rows show lies in the data."""
    words = [str(tmp_path / "mine"), str(tmp_path / "own"), "held_out=0"]
    names = draw(tmp_path / "mine" / "cats", 6)
    if name == "folder":
        words.append("captions=filename")
    else:
        rows = [{"image": f"cats/{n}", "caption": f"a {n}"} for n in names]
        write(tmp_path / "mine" / "t.csv", rows)
    main(words)
    monkeypatch.setattr("data_prep.own.__main__.open_reader", None)
    main(words)
    picture(50).save(tmp_path / "mine/cats/0.png")
    with pytest.raises(ConfigError, match="made with other data"):
        main(words)
