"""What `prepare own` leaves out or would refuse, it says: by kind, file, row and line.

./launch.sh test tests/data_prep/test_own_told.py
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from data_prep.own.__main__ import main
from stages import check
from tests.data_prep.test_own import draw, picture, prepare, write
from tests.support.forms.own_formats import FORMATS
from unime.data.checks.leakage import near_pairs
from unime.errors import ConfigError, DataError

WORDS = "cat dog bird cow horse sheep fish frog snake goat duck hare".split()


def captioned(folder: Path) -> Path:
    for name, word in zip(draw(folder, len(WORDS)), WORDS, strict=True):
        (folder / name).with_suffix(".txt").write_text(f"A {word}.\n")
    return folder


def test_every_file_of_a_folder_is_a_row_or_passed_over(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = captioned(tmp_path / "mine")
    picture(99).save(tmp_path / "elsewhere.png")
    (tmp_path / "linked").mkdir()
    (folder / "there").symlink_to(tmp_path / "linked")
    (folder / "IMG_1.HEIC").write_bytes(b"no format that is read")
    (folder / "IMG_2.heic").write_bytes(b"another")
    (folder / ".DS_Store").write_bytes(b"")
    (folder / ".thumbnails").mkdir()
    picture(98).save(folder / ".thumbnails/1.png")
    (folder / "0.json").write_text('{"caption": "a second one"}')
    (folder / "gone.txt").write_text("the caption of no picture")
    (folder / "README").write_text("mine")
    prepare(folder, tmp_path / "own", "captions=sidecar")
    said = capsys.readouterr().out
    rejected = [json.loads(line) for line in (tmp_path / "own/rejected.jsonl").open()]
    found = {Path(row["where"]).name: row["reason"] for row in rejected}
    assert found == {
        "there": "passed over: linked folder",
        "IMG_1.HEIC": "passed over: .heic",
        "IMG_2.heic": "passed over: .heic",
        ".DS_Store": "passed over: hidden",
        ".thumbnails": "passed over: hidden",
        "0.json": "passed over: .json",
        "gone.txt": "passed over: .txt",
        "README": "passed over: without an ending",
    }
    assert "passed over, .heic: 2, IMG_1.HEIC, …" in said
    assert "passed over, linked folder: 1, there\n" in said


def test_pictures_that_no_row_of_a_table_shows(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = draw(tmp_path / "mine", 14)
    rows = [{"image": f"./{n}", "text": w} for n, w in zip(names, WORDS, strict=False)]
    write(tmp_path / "mine/pets.csv", rows)
    main([str(tmp_path / "mine"), str(tmp_path / "own"), "--dry-run"])
    assert "passed over, picture of no row: 2, 12.png, …" in capsys.readouterr().out


def test_a_dry_run_lists_bad_rows_by_line_and_what_would_be_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = draw(tmp_path, 12)
    lines = [json.dumps({"image": n, "text": w}) for n, w in zip(names, WORDS, strict=True)]
    lines[3:3] = ["", '{"image": "gone.png", "text": "gone"}']
    lines += ["{"] + ['{"image": 5, "text": "five"}'] * 12
    (tmp_path / "pets.jsonl").write_text("\n".join(lines) + "\n")
    (tmp_path / "own").mkdir()
    (tmp_path / "own/mine.txt").write_text("something else")
    main([str(tmp_path / "pets.jsonl"), str(tmp_path / "own"), "--dry-run"])
    said = capsys.readouterr().out
    assert "bad rows, of 14:\n" in said
    assert "pets.jsonl, row 3 (line 5): " in said
    assert "pets.jsonl, row 13 (line 15): cannot read it" in said
    assert said.count("pets.jsonl, row ") == 10
    assert "it would be refused: " in said
    assert (tmp_path / "own/mine.txt").read_text() == "something else"


def test_lines_of_csv_whose_cells_have_several(tmp_path: Path) -> None:
    draw(tmp_path, 2)
    (tmp_path / "pets.csv").write_text('image,text\n0.png,"a cat\non a mat"\n\n1.png\n')
    with pytest.raises(DataError, match=r"row 1 \(line 5\): 1 cells, expected 2"):
        main([str(tmp_path / "pets.csv"), str(tmp_path / "own")])


def test_paths_as_windows_writes_them(tmp_path: Path) -> None:
    names = draw(tmp_path / "cats", 12)
    rows = [{"image": f"cats\\{n}", "text": w} for n, w in zip(names, WORDS, strict=True)]
    found = prepare(write(tmp_path / "pets.csv", rows), tmp_path / "own", "directions=t2i")
    shown = {p.target.images[0] for split in found["pets_t2i"].values() for p in split}
    assert shown == {str(tmp_path / "cats" / name) for name in names}


def test_a_table_in_another_encoding(tmp_path: Path) -> None:
    for encoding in ("latin-1", "utf-16"):
        (tmp_path / "pets.csv").write_bytes("image,text\n0.png,Küken\n".encode(encoding))
        with pytest.raises(DataError, match=r"pets\.csv: cannot read it: .*save it as UTF-8"):
            main([str(tmp_path / "pets.csv"), str(tmp_path / "own")])


def test_a_column_that_is_not_there(tmp_path: Path) -> None:
    table = write(tmp_path / "pets.csv", [{"foto": "0.png", "what": "a cat"}])
    with pytest.raises(ConfigError, match=r"columns\.photo: .* there are foto, what"):
        main([str(table), str(tmp_path / "own"), "columns.photo=image", "columns.what=text"])


def test_copies_that_nearly_look_the_same_are_on_one_side(tmp_path: Path) -> None:
    """Half the size, as JPEG: their hashes differ by some bits, which is what the check finds."""
    (tmp_path / "mine").mkdir()
    stamps = sorted(Path("/usr/share/tuxpaint/stamps").rglob("*.png"))
    if not stamps:
        pytest.skip("apt-get install tuxpaint-stamps-default")
    for number, path in enumerate(stamps[::20][:36]):
        with Image.open(path) as opened:
            shown = opened.convert("RGBA")
        white = Image.new("RGBA", shown.size, "white")
        plain = Image.alpha_composite(white, shown).convert("RGB")
        plain.save(tmp_path / f"mine/{number}.png")
        plain.reduce(2).save(tmp_path / f"mine/half {number}.jpg", quality=60)
    prepare(tmp_path / "mine", tmp_path / "own", "captions=filename", "held_out=0.2")
    check.main([str(tmp_path / "own"), f"check.output_dir={tmp_path / 'check'}"])
    found = json.loads((tmp_path / "check/check.json").read_text())
    assert found["leaks"] == 0 and found["compared_with"] > 0


def test_near_pairs_are_all_pairs_within_so_many_bits() -> None:
    draw = np.random.default_rng(0)
    base = draw.integers(0, 1 << 63, 40, dtype=np.uint64)
    flips = [np.uint64(1) << np.uint64(bit) for bit in range(64)]
    near = [
        one ^ np.bitwise_xor.reduce(draw.choice(flips, n)) for n in range(1, 12) for one in base
    ]
    looks = np.unique(np.concatenate([base, np.array(near, np.uint64)]))
    apart = np.bitwise_count(looks[:, None] ^ looks[None])
    for most in (0, 3, 6):
        expected = {(i, j) for i, j in zip(*np.nonzero(apart <= most), strict=True) if i < j}
        assert {tuple(pair) for pair in near_pairs(looks, most).tolist()} == expected


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"image": "0.png", "text": float("nan")}, "no target"),
        ({"image": "0.png", "text": "half a \ud83d face"}, "half a character"),
        ({"query": "a", "positive": "b", "negative": ["c", ""]}, "one is empty"),
        ({"query": "a", "positive": "b", "negative": ["c", "b"]}, "the same as a right answer"),
        ({"query": "a", "positive": "b", "id": 7}, "comes twice"),
        ({"query": "a", "positive": True}, "'positive': got True, expected a text or a picture"),
        ({"image": True, "text": "a"}, "'image': got True, expected a picture"),
    ],
)
def test_nothing_is_changed_or_lost_in_silence(
    row: dict[str, object], said: str, tmp_path: Path
) -> None:
    draw(tmp_path, 12)
    good = [
        {
            k: f"{v} {n}".replace("\ud83d", "")
            for k, v in row.items()
            if k not in ("image", "negative", "id")
        }
        | ({"image": f"{n}.png"} if "image" in row else {})
        | ({"id": n} if "id" in row else {})
        for n in range(12)
    ]
    table = write(tmp_path / "t.jsonl", [*good, row])
    with pytest.raises(DataError, match=f"row 12 .*{said}"):
        main([str(table), str(tmp_path / "own")])


def half_in_a_cell(folder: Path) -> Path:
    lines = ["query,positive", *(f"q{n},p{n}" for n in range(12)), 'q99,"[""\\ud83d x""]"']
    (folder / "t.csv").write_text("\n".join(lines))
    return folder / "t.csv"


def half_in_a_sidecar(folder: Path) -> Path:
    captioned(folder / "mine")
    picture(99).save(folder / "mine/99.png")
    (folder / "mine/99.json").write_text('{"caption": "a \\ud83d cat"}')
    return folder / "mine"


def half_in_nemo_s_json(folder: Path) -> Path:
    path = FORMATS["nemo"](folder)
    content = json.loads(path.read_text())
    content["data"][0]["question"] = "what \ud83d"
    path.write_text(json.dumps(content))
    return path


def half_in_a_file_s_name(folder: Path) -> Path:
    captioned(folder / "mine")
    for name in (b"99.png", b"98.heic"):
        picture(99).save(folder / "mine" / os.fsdecode(b"\xff" + name), "PNG")
    return folder / "mine"


@pytest.mark.parametrize(
    "make", [half_in_a_cell, half_in_a_sidecar, half_in_nemo_s_json, half_in_a_file_s_name]
)
def test_half_a_character_makes_a_bad_row(make: Callable[[Path], Path], tmp_path: Path) -> None:
    path, out = make(tmp_path), tmp_path / "own"
    words = ["captions=sidecar"] if path.is_dir() else []
    prepare(path, out, "on_bad_row=drop", "held_out=0", *words)
    rejected = [json.loads(line) for line in (out / "rejected.jsonl").open()]
    bad = [row for row in rejected if not row["reason"].startswith("passed over")]
    assert len(bad) == 1 and ("half a character" in bad[0]["reason"] or "\udcff" in bad[0]["where"])


def test_ids_of_rows_are_their_own(tmp_path: Path) -> None:
    rows = [{"query": f"q{n}", "positive": f"p{n}", "id": f"mine-{n}"} for n in range(12)]
    found = prepare(write(tmp_path / "t.csv", rows), tmp_path / "own", "held_out=0")
    assert [pair.row_id for pair in found["t"]["train"]] == [f"t.csv:mine-{n}" for n in range(12)]


def test_a_picture_in_a_table_is_named_by_file_row_and_column(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    draw(tmp_path, 12)
    contents = [(tmp_path / f"{n}.png").read_bytes() for n in range(12)]
    contents[3], contents[5] = b"no picture", contents[5][:60]
    rows = [{"foto": one, "what": what} for one, what in zip(contents, WORDS, strict=True)]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "pets.parquet")
    words = [str(tmp_path / "pets.parquet"), str(tmp_path / "own")]
    main([*words, "columns.foto=image", "columns.what=text", "--dry-run"])
    said = capsys.readouterr().out
    assert "foto → picture (in the table)" in said and "1 table (pets.parquet)\n" in said
    for row in (3, 5):
        assert f"{tmp_path / 'pets.parquet'}, row {row}: column 'foto': the picture: " in said


def test_a_path_to_a_damaged_picture_is_named_by_file_row_and_column(tmp_path: Path) -> None:
    names = draw(tmp_path, 12)
    (tmp_path / names[4]).write_bytes(b"no picture")
    rows = [{"query": w, "positive": n} for n, w in zip(names, WORDS, strict=True)]
    with pytest.raises(DataError, match=r"pets\.csv, row 4 \(line 6\): column 'positive': /"):
        main([str(write(tmp_path / "pets.csv", rows)), str(tmp_path / "own")])


def test_how_large_a_picture_may_be_is_a_setting(tmp_path: Path) -> None:
    folder = captioned(tmp_path / "mine")
    picture(77).resize((90, 90)).save(folder / "large.png")
    (folder / "large.txt").write_text("A large one.")
    words = [str(folder), str(tmp_path / "own"), "captions=sidecar"]
    limit = "inputs.max_image_pixels=8000"
    with pytest.raises(DataError, match=f"large.png: .*more than {limit}"):
        main([*words, limit])
    main(words)
    with pytest.raises(ConfigError, match=r"made with other inputs\.max_image_pixels; name"):
        main([*words, limit])


def test_a_table_of_one_row(tmp_path: Path) -> None:
    table = write(tmp_path / "pets.csv", [{"image": draw(tmp_path, 1)[0], "text": "a cat"}])
    with pytest.raises(DataError, match="of 1 row: held_out=0") as caught:
        main([str(table), str(tmp_path / "own")])
    assert "hang together" not in str(caught.value)


def test_json_that_begins_with_a_mark(tmp_path: Path) -> None:
    names = draw(tmp_path, 12)
    rows = [{"image": name, "text": what} for name, what in zip(names, WORDS, strict=True)]
    (tmp_path / "pets.json").write_text("\ufeff" + json.dumps(rows), encoding="utf-8")
    found = prepare(tmp_path / "pets.json", tmp_path / "own", "directions=i2t", "held_out=0")
    assert len(found["pets_i2t"]["train"]) == 12


@pytest.mark.parametrize("name", ["pets.xlsx", "nothing"])
def test_why_no_reader_takes_it(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(b"PK") if path.suffix else path.mkdir()
    with pytest.raises(ConfigError, match="save it as CSV" if path.suffix else "is empty"):
        main([str(path), str(tmp_path / "own")])


def test_a_picture_that_is_written_as_a_text(tmp_path: Path) -> None:
    rows = [{"image": f"data:image/png;base64,{'iVBOR' * 9000}", "text": what} for what in WORDS]
    with pytest.raises(DataError, match=r"pets\.csv, row 0 .*column 'image': .*a path") as caught:
        main([str(write(tmp_path / "pets.csv", rows)), str(tmp_path / "own")])
    assert len(str(caught.value)) < 1000
