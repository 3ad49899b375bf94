"""./launch.sh app: what it opens, and what it says of it: ./launch.sh test tests/app"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from stages import app
from tests.search.conftest import drawing
from tests.support.checkout import Checkout
from unime.config import AppConfig
from unime.embedder import Embedder
from unime.errors import ConfigError
from unime.search import Index
from unime.serving.access import KEY


def test_launch(checkout: Checkout) -> None:
    assert checkout.launch("app", "my index", "port=0")[0] == 0
    assert checkout.ran()[1:] == ["-m", "stages.app", "my index", "port=0"]
    assert checkout.launch("app")[0] == 0


@pytest.fixture
def made(tiny_model: Callable[..., Path], tmp_path: Path) -> Path:
    """An index of one picture."""
    (tmp_path / "own").mkdir()
    drawing(0).save(tmp_path / "own/a.png")
    with Index(tmp_path / "made", Embedder(tiny_model("qwen2_vl"), device="cpu")) as index:
        index.update(tmp_path / "own")
    return tmp_path / "made"


def test_a_folder_is_an_index_or_a_model(made: Path) -> None:
    assert app.parse([str(made), "port=0"]) == AppConfig(index=str(made), port=0)
    assert app.parse(["me/my-embedder"]) == AppConfig(model="me/my-embedder")
    assert app.parse([]) == AppConfig()


def test_an_index_of_one_s_own(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    index, about = app.opened(AppConfig(index=str(made)))
    with index:
        assert (about.title, about.remarks, about.examples) == ("Search made", [], [])
        assert len(index.search("a")) == 1
    monkeypatch.setattr(app, "INDEX", str(made))  # without a word, too
    index, _ = app.opened(AppConfig())
    index.close()
    assert index.folder == made
    with pytest.raises(ConfigError, match=r"is none; ./launch.sh index"):
        app.opened(AppConfig(index=str(made.parent)))


def test_the_demo_or_drawings(
    tiny_model: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without an index of one's own; a second start embeds nothing."""
    monkeypatch.setattr(app, "OWN", tmp_path / "runs/app")
    monkeypatch.setattr(app, "DEMO", tmp_path / "demo")
    monkeypatch.setattr(app, "INDEX", str(tmp_path / "none"))
    monkeypatch.setattr("data_prep.demo.samples.draw_samples.__defaults__", (6,))
    model = str(tiny_model("qwen2_vl"))
    index, about = app.opened(AppConfig(model=model))
    with index:
        assert index.store.count() == 6
        names = {Path(hit.path).stem for hit in index.search("a")}
        assert {*about.examples} <= names and " on a" in about.examples[0]
        assert index.folder.parent == tmp_path / "runs/app"
    pictures = tmp_path / "demo/images/Emoji_t2i/Test"
    pictures.mkdir(parents=True)
    drawing(0).save(pictures / "0.png")
    table = tmp_path / "demo/Emoji_t2i/test-00000-of-00001.parquet"
    table.parent.mkdir()
    pq.write_table(pa.table({"qry_text": [f"{app.CAPTION} a bat\n"]}), table)
    for _ in range(2):
        index, about = app.opened(AppConfig(model=model))
        with index:
            assert (index.store.count(), about.examples) == (1, ["a bat"])
            assert about.instruction == app.CAPTION


def test_the_base_says_what_it_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(app, "OWN", tmp_path)
    monkeypatch.setattr(app, "DEMO", tmp_path / "none")
    monkeypatch.setattr(app, "INDEX", str(tmp_path / "none"))
    monkeypatch.setattr("data_prep.demo.samples.draw_samples.__defaults__", (2,))
    monkeypatch.setattr(app, "default_model", lambda: str(app.BASE))
    index, about = app.opened(AppConfig())
    index.close()
    assert about.remarks == [app.UNTRAINED] and about.instruction == ""


def test_others_reach_it_with_a_key_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(KEY, raising=False)
    with pytest.raises(ConfigError, match="host: got .*expected a loopback address, a key in"):
        app.main(["no/such/model", "host=0.0.0.0"])
