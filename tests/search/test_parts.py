"""Passages, pages, pictures in the terminal, and both programs.

./launch.sh test tests/search/test_parts.py
"""

from __future__ import annotations

import base64
import io
import json
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from stages.index import main as index_main
from stages.search import main as search_main
from stages.search import parse as parse_search
from tests.search.conftest import Counting, drawing
from tests.support.paths import ROOT
from unime.config.searching import SearchConfig
from unime.errors import ConfigError, DataError
from unime.search import Index
from unime.search.outcome import Hit
from unime.search.parts import passages
from unime.search.pdf import count_pages, page_as_png
from unime.search.terminal import picture_codes, shows_pictures


def test_passages_end_where_a_reader_would() -> None:
    text = "One. Two is longer.\n\nThree\nand four words. " + "five " * 30 + "x" * 90 + "。" * 3
    found = passages(text, 38)
    assert "".join(passage for _, passage in found).replace(" ", "").replace("\n", "") == re.sub(
        r"\s", "", text
    )
    assert max(len(passage) for _, passage in found) <= 38
    assert found[0] == (1, "One. Two is longer.") and found[1][0] == 3
    assert passages("  \n ", 10) == []
    short = passages("word " * 100, 400, fits=lambda passage: len(passage) < 50)
    assert max(len(passage) for _, passage in short) < 50 and len(short) < 25


def minimal_pdf(box: str) -> bytes:
    return (
        b"%PDF-1.4\n1 0 obj<</Type/Catalog/Pages 2 0 R>>endobj\n"
        b"2 0 obj<</Type/Pages/Kids[3 0 R]/Count 1>>endobj\n"
        b"3 0 obj<</Type/Page/Parent 2 0 R/MediaBox[" + box.encode() + b"]>>endobj\n"
        b"trailer<</Root 1 0 R>>\n%%EOF\n"
    )


def test_pages(tmp_path: Path) -> None:
    path = tmp_path / "pages.pdf"
    drawing(1).save(path, save_all=True, append_images=[drawing(2)])
    assert count_pages(str(path)) == 2
    with Image.open(io.BytesIO(page_as_png(str(path), 2, 128))) as page:
        assert page.size == (128, 128)
        expected = drawing(2).resize((128, 128), Image.Resampling.NEAREST)
        pairs = zip(page.convert("L").tobytes(), expected.convert("L").tobytes(), strict=True)
        assert sum(abs(a - b) for a, b in pairs) / 128**2 < 12
    for box in ("0 0 100000000 100000000", "0 0 14400 1", "0 0 nan nan"):
        path.write_bytes(minimal_pdf(box))
        began = time.monotonic()
        try:
            with Image.open(io.BytesIO(page_as_png(str(path), 1, 2048))) as page:
                assert page.width * page.height <= 1.01 * (3 << 20)
        except DataError as error:
            assert str(path) in str(error)
        assert time.monotonic() - began < 60
    path.write_bytes(b"%PDF-1.4 and nothing")
    with pytest.raises(DataError, match="pages"):
        count_pages(str(path))


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_pictures_only_where_the_terminal_says_so(tmp_path: Path) -> None:
    kitty, iterm = {"TERM": "xterm-kitty"}, {"TERM": "xterm-256color", "TERM_PROGRAM": "iTerm.app"}
    assert shows_pictures(Terminal(), kitty) == "kitty"
    assert shows_pictures(Terminal(), iterm) == "iterm2"
    for out, environment in (
        (io.StringIO(), kitty),
        (io.StringIO(), iterm),
        (Terminal(), {"TERM": "xterm-256color"}),
        (Terminal(), {}),
        (Terminal(), {"TERM": "screen-256color", "TERM_PROGRAM": "iTerm.app"}),
    ):
        assert shows_pictures(out, environment) == ""
    large = Image.effect_noise((300, 200), 90)
    large.save(tmp_path / "a.png")
    hit = Hit(0.5, str(tmp_path / "a.png"), "picture")
    codes = picture_codes(hit, "kitty")
    pieces = re.findall(r"\033_G(?:a=T,f=100,)?m=([01]);([^\033]*)\033\\", codes)
    assert [more for more, _ in pieces] == ["1"] * (len(pieces) - 1) + ["0"] and len(pieces) > 1
    shown = base64.b64decode("".join(piece for _, piece in pieces))
    inline = picture_codes(hit, "iterm2")
    assert base64.b64encode(shown).decode() in inline and inline.endswith("\a")
    with Image.open(io.BytesIO(shown)) as picture:
        assert max(picture.size) == 160
    assert picture_codes(Hit(0.5, str(tmp_path / "gone.png"), "picture"), "kitty") == ""
    assert picture_codes(Hit(0.5, "a.txt", "text", text="a"), "kitty") == ""


def test_programs(
    counting: Counting, pictures: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    index = str(tmp_path / "index")
    (pictures / "cut.png").write_bytes((pictures / "a.png").read_bytes()[:-40])
    index_main([str(pictures), index, f"model={counting.name}", "device=cpu"])
    said = capfd.readouterr().out
    assert "6 added" in said and "cut.png" in said and "1 .mp4 files" in said
    assert [*json.loads((tmp_path / "index/unreadable.json").read_text())] == [
        str(pictures / "cut.png")
    ]
    asked = ["", index, "--image", str(pictures / "b.tif"), "device=cpu", "limit=3"]
    search_main([*asked, "--json"])
    lines = [json.loads(line) for line in capfd.readouterr().out.splitlines()]
    assert len(lines) == 3 and lines[0]["path"] == str(pictures / "b.tif")
    assert lines[0]["score"] > 0.999 >= lines[1]["score"] >= lines[2]["score"]
    search_main(["a = b", index, "device=cpu", "kind=text"])
    said = capfd.readouterr().out
    assert f"{pictures / 'notes.md'}:1" in said and "\033" not in said
    search_main(["a=b", index, "device=cpu", "limit=1"])
    search_main(["--image", str(pictures / "b.tif"), index, "device=cpu", "limit=1"])
    assert capfd.readouterr().out.splitlines()[-1].endswith(str(pictures / "b.tif"))
    with pytest.raises(ConfigError, match="dimensions"):
        search_main(["a", index, "device=cpu", "dimensions=3"])
    with pytest.raises(ConfigError, match="index"):
        search_main(["a", str(tmp_path)])
    for words in ([], ["a", index, "--image", str(tmp_path / "none.png")], ["a", "limit=0"]):
        with pytest.raises(SystemExit, match="2"):
            search_main(words)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["a=b"], {"text": "a=b"}),
        (["a=b", "INDEX", "limit=3"], {"text": "a=b", "index": "INDEX", "limit": 3}),
        (["a", "limit=3"], {"text": "a", "limit": 3}),
        (["--image", "PICTURE", "INDEX"], {"image": "PICTURE", "index": "INDEX"}),
        (["--image", "PICTURE", "a", "INDEX"], {"image": "PICTURE", "text": "a", "index": "INDEX"}),
        (["--image", "PICTURE", "a"], {"image": "PICTURE", "text": "a"}),
        (
            ["--image", "PICTURE", "INDEX", "index=other"],
            {"image": "PICTURE", "text": "INDEX", "index": "other"},
        ),
        (["text=a", "index=INDEX"], {"text": "a", "index": "INDEX"}),
    ],
)
def test_words_of_a_search(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], expected: dict[str, Any]
) -> None:
    monkeypatch.chdir(tmp_path)
    drawing(1).save("PICTURE", "PNG")
    Path("INDEX").mkdir()
    Path("INDEX/index.json").write_text("{}")
    assert parse_search(words) == (SearchConfig(**expected), False)


@pytest.mark.parametrize("words", [["a", "limt=3"], ["text=a", "limt=3"], ["limt=3", "text=a"]])
def test_a_setting_that_there_is_not(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        parse_search(words)
    assert "limt" in capsys.readouterr().err


@pytest.mark.use
def test_an_index_is_one_programs(counting: Counting, pictures: Path, tmp_path: Path) -> None:
    with Index(tmp_path / "index", counting):
        done: Any = subprocess.run(
            [sys.executable, "-m", "stages.search", "a", str(tmp_path / "index"), "device=cpu"],
            cwd=ROOT,
            capture_output=True,
            text=True,
        )
    assert done.returncode == 2 and "in use by process" in done.stderr
    assert "Traceback" not in done.stderr
