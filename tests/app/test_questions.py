"""The page's questions over HTTP, and who gets no answer: ./launch.sh test tests/app"""

from __future__ import annotations

import base64
import http.client
import io
import json
import re
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.app.conftest import ABOUT, Page
from tests.app.served import indexed, paged
from tests.search.conftest import drawing
from tests.serving.services import data_uri
from unime.app.page import HEADERS, SIDES
from unime.embedder import Embedder
from unime.serving.access import KEY


def fetched(
    page: Page, path: str, headers: Mapping[str, str] | None = None
) -> tuple[int, bytes, dict[str, str]]:
    served = page.served
    with closing(http.client.HTTPConnection(served.host, served.port, timeout=60)) as asked:
        asked.request("GET", path, headers=dict(headers or {}))
        answer = asked.getresponse()
        return answer.status, answer.read(), {k.lower(): v for k, v in answer.headers.items()}


def hits(page: Page, **asked: Any) -> list[dict[str, Any]]:
    status, found, _ = page.served.ask("/search", asked)
    assert status == 200, found
    return found["hits"]


def same(found: list[dict[str, Any]], expected: list[Any]) -> bool:
    scores = [one["score"] for one in found], [one.score for one in expected]
    return [one["id"] for one in found] == [one.id for one in expected] and np.allclose(
        *scores, atol=1e-5
    )


def test_search_is_the_index_s(tiny: Page) -> None:
    picture = tiny.folder / "0.png"
    search = tiny.index.search
    assert same(hits(tiny, text="Paragraph 3"), search("Paragraph 3", 24))
    found = hits(tiny, image=data_uri(picture), limit=3)
    assert same(found, search(picture, 3)) and found[0]["name"] == "0.png"
    both = {"text": "but blue", "image": picture}
    found = hits(tiny, text="but blue", image=data_uri(picture))
    assert same(found, search(both, 24)) and not same(found, search(picture, 24))
    told = {"text": "a", "instruction": "Find it."}
    assert same(hits(tiny, **told, kind="picture"), search(told, 24, kind="picture"))
    assert {one["kind"] for one in hits(tiny, text="a", kind="page")} == {"page"}


def test_more_like_what_was_found(tiny: Page) -> None:
    """A picture is the index's own, as it was embedded; a text is its passage, a page is drawn."""
    for kind in ("picture", "text", "page"):
        (one, *_) = hits(tiny, text="Paragraph", kind=kind)
        first = hits(tiny, like=one["id"], kind=kind)[0]
        assert first["id"] == one["id"] and first["score"] > (0.9 if kind == "page" else 0.999)
    both = {"text": "but blue", "image": tiny.folder / "1.png"}
    (one,) = (hit for hit in hits(tiny, text="a", kind="picture") if hit["name"] == "1.png")
    assert same(hits(tiny, like=one["id"], text="but blue"), tiny.index.search(both, 24))


def test_classify_is_the_embedder_s(tiny: Page) -> None:
    paths = [tiny.folder / "0.png", tiny.folder / "1.png"]
    labels, templates = ["a cat", "a dog", "a cat", " "], ["{}", "a photo of {}", ""]
    images = [{"image": data_uri(path)} for path in paths]
    asked = {"images": images, "labels": labels, "templates": templates}
    status, found, _ = tiny.served.ask("/classify", asked)
    expected = tiny.embedder.classify(paths, ["a cat", "a dog"], ["{}", "a photo of {}"])
    assert status == 200
    for of_one, wanted in zip(found["pictures"], expected, strict=True):
        assert [label for label, _ in of_one] == [*wanted]
        assert dict(of_one) == pytest.approx(wanted, abs=1e-5)


def test_compare_is_the_embedder_s(tiny: Page) -> None:
    items = [{"image": data_uri(tiny.folder / "0.png")}, {"text": "a cat"}, {"text": "a dog"}]
    status, found, _ = tiny.served.ask("/compare", {"items": items})
    vectors = tiny.embedder.encode([tiny.folder / "0.png", "a cat", "a dog"])
    assert status == 200
    assert np.allclose(found["cosines"], tiny.embedder.similarity(vectors, vectors), atol=1e-5)


def test_pictures_by_their_ids(tiny: Page) -> None:
    (one, *_), (drawn, *_), (text, *_) = (
        hits(tiny, text="a", kind=kind) for kind in ("picture", "page", "text")
    )
    for side, most in SIDES.items():
        for hit in (one, drawn):
            status, content, headers = fetched(tiny, f"/pictures/{hit['id']}/{side}")
            with Image.open(io.BytesIO(content)) as picture:
                assert (status, picture.format, max(picture.size) <= most) == (200, "PNG", True)
            assert headers["content-type"] == "image/png"
    own = (tiny.folder / one["name"]).read_bytes()
    assert content != own  # drawn anew, whatever the file holds beside its pixels
    path = str(tiny.folder / "0.png")
    for point in (text["id"], "0" * 32, "..", "%2e%2e%2f0.png", path.replace("/", "%2F"), "0.png"):
        assert fetched(tiny, f"/pictures/{point}/small")[0] == 404, point
    assert fetched(tiny, f"/pictures/{one['id']}/huge")[0] == 404
    assert fetched(tiny, f"/pictures/{path}")[0] == 404
    assert fetched(tiny, "/favicon.ico")[0] == 200
    for name in ("/static/app.js", "/../pyproject.toml", "/app.html", "/docs", "/openapi.json"):
        assert fetched(tiny, name)[0] == 404, name


def test_what_is_gone_is_said(tiny_model: Any, tmp_path: Path) -> None:
    for seed in range(2):
        (tmp_path / "own").mkdir(exist_ok=True)
        drawing(seed).save(tmp_path / f"own/{seed}.png")
    embedder = Embedder(tiny_model("qwen2_vl"), device="cpu")
    with (
        indexed(tmp_path / "own", embedder, tmp_path / "at") as index,
        paged(index, ABOUT) as served,
    ):
        page = Page(served, index, tmp_path)
        first, second = hits(page, text="a")
        (Path(first["folder"]) / first["name"]).unlink()
        (Path(second["folder"]) / second["name"]).write_bytes(b"no picture any more")
        assert [fetched(page, f"/pictures/{one['id']}/small")[0] for one in (first, second)] == [
            404
        ] * 2
        for one, status in ((first, 404), (second, 400)):
            got, said, _ = served.ask("/search", {"like": one["id"]})
            assert (got, "read" in said["error"]) == (status, True)
        later = {one["id"]: one["is_there"] for one in hits(page, text="a")}  # it still answers
        assert later == {first["id"]: False, second["id"]: True}


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("/search", {}, 400),
        ("/search", {"text": " \n"}, 400),
        ("/search", {"text": 5}, 400),
        ("/search", {"text": "\ud800"}, 400),
        ("/search", {"text": "a", "limit": 0}, 400),
        ("/search", {"text": "a", "limit": 10**9}, 400),
        ("/search", {"text": "a", "limit": True}, 400),
        ("/search", {"text": "a", "kind": "film"}, 400),
        ("/search", {"text": "a", "path": "/etc/passwd"}, 400),
        ("/search", {"like": "/etc/passwd"}, 404),
        ("/search", {"like": ["a"]}, 400),
        ("/search", {"image": "/etc/passwd"}, 400),
        ("/search", {"image": "file:///etc/passwd"}, 400),
        ("/search", {"image": "http://127.0.0.1:1/a.png"}, 400),
        ("/search", {"image": "data:image/png;base64,AAAA"}, 400),
        ("/search", {"image": "data:image/png;base64,"}, 400),
        ("/search", [], 400),
        ("/search", b"{", 400),
        ("/search", b"[" * 300_000, 413),
        ("/classify", {"images": [], "labels": ["a"], "templates": ["{}"]}, 400),
        ("/classify", {"images": ["data:image/png;base64,AAAA"], "labels": ["a"]}, 400),
        ("/classify", {"images": [{"name": "a.png"}], "labels": ["a"], "templates": ["{}"]}, 400),
        ("/classify", {"images": [{"image": "a"}] * 999, "labels": ["a"]}, 400),
        ("/compare", {"items": [{}]}, 400),
        ("/compare", {"items": [{"text": "a"}] * 300}, 413),
        ("/compare", {"items": ["a"]}, 400),
    ],
)
def test_questions_that_cannot_be_answered(tiny: Page, path: str, body: Any, status: int) -> None:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    got, said, _ = tiny.served.ask(path, content)
    assert got == status and len(said["error"]) > 10, said
    assert "passwd:" not in str(said) and "root:" not in str(said)


def test_labels_and_templates_are_said_to_be_wrong(tiny: Page) -> None:
    asked: dict[str, Any] = {"images": [{"image": data_uri(tiny.folder / "0.png")}]}
    for words, said in (
        ({"labels": [" "], "templates": ["{}"]}, "labels"),
        ({"labels": ["a"], "templates": ["a photo"]}, "templates"),
        ({"labels": ["a"], "templates": [""]}, "templates"),
    ):
        status, found, _ = tiny.served.ask("/classify", asked | words)
        assert (status, said in found["error"]) == (400, True)


@pytest.mark.parametrize("path", ["/classify", "/compare"])
def test_a_broken_picture_is_called_by_its_file_s_name(tiny: Page, path: str) -> None:
    whole = data_uri(tiny.folder / "0.png")
    cut = whole[: 22 + (len(whole) - 22) // 8 * 4]
    given = [{"image": whole, "name": "a.png"}, {"image": cut, "name": "cut.png"}]
    labels = {"images": given, "labels": ["a"], "templates": ["{}"]}
    status, found, _ = tiny.served.ask(path, labels if path == "/classify" else {"items": given})
    assert status == 400
    assert re.match("cut.png: not a readable (image|picture): ", found["error"])


def test_each_answer_shuts_others_out(tiny: Page) -> None:
    for path in ("/", "/style.css", "/script.js", "/about", "/nowhere", "/health"):
        status, content, headers = fetched(tiny, path)
        assert status == (404 if path == "/nowhere" else 200)
        for name, value in HEADERS.items():
            assert headers[name.lower()] == value, (path, name)
    policy = HEADERS["Content-Security-Policy"]
    assert "default-src 'none'" in policy and "unsafe" not in policy and "http" not in policy
    about = json.loads(fetched(tiny, "/about")[1])
    assert about["items"] == tiny.index.store.count() and about["title"] == ABOUT.title


def test_a_server_of_vectors_that_is_gone_is_said(
    tiny: Page, monkeypatch: pytest.MonkeyPatch
) -> None:
    point = hits(tiny, text="a", kind="picture")[0]["id"]

    def gone(*_: object, **__: object) -> None:
        raise ConnectionError("refused")

    monkeypatch.setattr(tiny.index.store, "is_local", False)
    for name in ("query_batch_points", "retrieve", "count"):
        monkeypatch.setattr(tiny.index.store._client, name, gone)
    assert tiny.served.ask("/search", {"like": point})[0] == 503
    status, said, _ = tiny.served.ask("/search", {"text": "a"})
    assert (status, "does not do what it is asked" in said["error"]) == (503, True)
    for path in ("/about", f"/pictures/{point}/small"):
        assert fetched(tiny, path)[0] == 503


PLACES = ("/", "/about", "/script.js", "/pictures/{point}/small", "/search")


@pytest.mark.parametrize(
    "headers",
    [
        {"Host": "evil.example"},
        {"Host": "evil.example:80", "Origin": "http://evil.example:80"},
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors"},
        {"Sec-Fetch-Site": "same-site", "Sec-Fetch-Mode": "cors"},
    ],
)
def test_pages_of_others_get_nothing(tiny: Page, headers: dict[str, str]) -> None:
    point = hits(tiny, text="a", kind="picture")[0]["id"]
    for path in PLACES:
        place = path.format(point=point)
        if path == "/search":
            assert tiny.served.ask(path, {"text": "a"}, headers)[0] == 403
        else:
            assert fetched(tiny, place, headers)[0] == 403
    visit = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"}  # a link to it
    assert fetched(tiny, "/", visit)[0] == 200
    assert tiny.served.ask("/search", {"text": "a"}, visit)[0] == 403
    kinds = {"content-type": "text/plain"}, {"content-type": "application/x-www-form-urlencoded"}
    for kind in kinds:  # what a form of another site could send
        assert tiny.served.ask("/search", {"text": "a"}, kind)[0] == 415


def test_the_key_is_asked_for_by_the_browser(tiny: Page, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(KEY, "a köy")
    key = base64.b64encode("anybody:a köy".encode()).decode()
    wrong = base64.b64encode(b"anybody:another").decode()
    with paged(tiny.index, ABOUT, host="127.0.0.1") as served:
        page = Page(served, tiny.index, tiny.folder)
        for path in ("/", "/about", "/script.js", "/pictures/x/small", "/v1/models"):
            status, _, headers = fetched(page, path)
            assert (status, headers["www-authenticate"].partition(" ")[0]) == (401, "Basic"), path
        for given in (f"Basic {wrong}", "Basic a b", "Basic ", f"Bearer {key}", "Bearer another"):
            assert fetched(page, "/about", {"Authorization": given})[0] == 401, given
        for given in (f"Basic {key}", f"basic {key}"):
            assert fetched(page, "/about", {"Authorization": given})[0] == 200
            asked = served.ask("/search", {"text": "a"}, {"Authorization": given})
            assert asked[0] == 200
