"""A Qdrant server by its address, the same code: what it would be sent, answered by qdrant-client's
own local mode behind HTTP.

./launch.sh test tests/search/test_server.py
"""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from qdrant_client import QdrantClient, models

from tests.search.conftest import Counting, drawing
from unime.config import IndexConfig, VectorStoreConfig
from unime.errors import ConfigError, RunError
from unime.search import Index
from unime.search.server import open_server

OK = (200, b"")


class Server:
    """The routes of Qdrant's REST that an index uses."""

    def __init__(self) -> None:
        self.local, self.asked = QdrantClient(":memory:"), []
        self.created: dict[str, Any] = {}
        self.keys: set[str | None] = set()
        self.wrong: dict[str, tuple[int, bytes]] = {}  # how paths that end so are answered

    def answer(self, method: str, path: str, body: Any) -> Any:  # noqa: C901
        path = path.partition("?")[0]
        self.asked.append(f"{method} {path}")
        name, rest = [*path.removeprefix("/collections/").split("/", 1), ""][:2]
        local = self.local
        match method, rest:
            case "GET", "exists":
                return {"exists": local.collection_exists(name)}
            case "PUT", "":
                self.created = body
                sizes = {n: models.VectorParams(**one) for n, one in body["vectors"].items()}
                return local.create_collection(name, sizes)
            case "GET", "":
                return local.get_collection(name)
            case "DELETE", "":
                return local.delete_collection(name)
            case "PUT", "index":
                return {"operation_id": 0, "status": "completed"}
            case "PUT", "points":
                return local.upsert(name, [models.PointStruct(**one) for one in body["points"]])
            case "POST", "points/delete":
                chosen = body.get("points") or models.Filter(**body["filter"])
                return local.delete(name, chosen)
            case "POST", "points/count":
                return local.count(name)
            case "POST", "points/scroll":
                points, following = local.scroll(name, limit=body["limit"], with_payload=False)
                return {"points": points, "next_page_offset": following}
            case "POST", "points":
                return local.retrieve(name, body["ids"], with_vectors=True)
            case "POST", "points/query/batch":
                asked = [models.QueryRequest(**one) for one in body["searches"]]
                return local.query_batch_points(name, asked)
        raise LookupError(f"{method} {path}")


@pytest.fixture
def server() -> Iterator[tuple[Server, str]]:
    made = Server()

    class Handler(BaseHTTPRequestHandler):
        def reply(self) -> None:
            length = int(self.headers.get("Content-Length") or 0)
            body = json.loads(self.rfile.read(length) or b"null")
            made.keys.add(self.headers.get("api-key"))
            asked = f"{self.command} {self.path}".partition("?")[0]
            status, sent = next((one for end, one in made.wrong.items() if asked.endswith(end)), OK)
            if (status, sent) == OK:
                result = made.answer(self.command, self.path, body)
                content = {"result": result, "status": "ok", "time": 0}
                sent = json.dumps(content, default=lambda one: one.model_dump(mode="json")).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(sent)))
            self.end_headers()
            self.wfile.write(sent)

        do_GET = do_PUT = do_POST = do_DELETE = reply  # noqa: N815

        def log_message(self, *_: object) -> None:
            pass

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=http.serve_forever, daemon=True).start()
    yield made, f"http://127.0.0.1:{http.server_port}"
    http.shutdown()
    http.server_close()


@pytest.mark.filterwarnings("error::UserWarning")  # of an API key, among others
def test_a_server_by_its_address(
    server: tuple[Server, str],
    counting: Counting,
    pictures: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made, url = server
    monkeypatch.setenv("QDRANT_API_KEY", "a secret")
    store = VectorStoreConfig(url=url, quantization="binary")
    config = IndexConfig(store=store, dimensions=[8])
    with Index(tmp_path / "index", counting, config) as index:
        first = index.update(pictures)
        assert first.added == 6 and index.store.count() == first.embedded
        (pictures / "b.tif").rename(pictures / "c.tif")
        (pictures / "notes.md").unlink()
        second = index.update(pictures)
        assert (second.moved, second.removed, second.embedded) == (1, 2, 0)
        hit = index.search(drawing(1), limit=1, kind="picture", below=pictures)[0]
        assert hit.path == str(pictures / "c.tif") and hit.score > 0.999
        assert len(index.search("a", limit=2, dimensions=8)) == 2
    with Index(tmp_path / "index", counting) as index:  # a search shuts nobody out
        assert Index(tmp_path / "index", counting).search(drawing(1), 1)[0].path == hit.path
    assert made.created["quantization_config"] == {"binary": {"always_ram": True}}
    assert {name: one["size"] for name, one in made.created["vectors"].items()} == {
        "whole": counting.dimension,
        "8": 8,
    }
    assert "a secret" not in (tmp_path / "index/index.json").read_text()
    assert made.keys <= {"a secret", None} and "a secret" in made.keys
    with pytest.raises(ConfigError, match="another index's"):
        Index(tmp_path / "other", counting, config)


def test_no_server(counting: Counting, tmp_path: Path) -> None:
    config = IndexConfig(store=VectorStoreConfig(url="http://127.0.0.1:9"))
    with pytest.raises(ConfigError, match=r"store\.url"):
        Index(tmp_path / "index", counting, config)


@pytest.mark.parametrize(
    ("status", "body", "expected"),
    [
        (200, b"no JSON", "its answer is none of Qdrant's"),
        (200, b"\xff\xfe", "its answer is none of Qdrant's"),
        (200, b"[]", "its answer is none of Qdrant's"),
        (200, b'{"result": {"other": 1}}', "its answer is none of Qdrant's"),
        (200, b"{}", ".+"),
        (302, b"", "302 Found"),
        (401, b'{"status": {"error": "Wrong key"}}', "401 Unauthorized: Wrong key"),
        (500, b"boom\r\n\x1b[31m" + b"x" * 999, r"500 Internal Server Error: boom \S{,200} …"),
    ],
)
def test_a_server_that_is_no_qdrant(
    server: tuple[Server, str],
    counting: Counting,
    pictures: Path,
    tmp_path: Path,
    status: int,
    body: bytes,
    expected: str,
) -> None:
    made, url = server
    config = IndexConfig(store=VectorStoreConfig(url=url))
    made.wrong = {"": (status, body)}
    line = f"{url} does not do what it is asked: {expected}"
    for _ in range(2):
        with pytest.raises(ConfigError, match=rf"^store\.url: {line}$"):
            Index(tmp_path / "index", counting, config)
        assert not (tmp_path / "index/index.json").exists()
    made.wrong = {}
    with Index(tmp_path / "index", counting, config) as index:
        made.wrong = {"": (status, body)}
        with pytest.raises(RunError, match=f"^{line}$"):
            index.update(pictures)


@pytest.mark.parametrize("path", ["PUT /collections/unime", "PUT /collections/unime/index"])
def test_a_collection_that_cannot_be_made(
    server: tuple[Server, str], counting: Counting, pictures: Path, tmp_path: Path, path: str
) -> None:
    """There is no index then, and nothing is left on the server; the next time it may be made."""
    made, url = server
    config = IndexConfig(store=VectorStoreConfig(url=url))
    made.wrong = {path: (507, b"full")}
    with pytest.raises(ConfigError, match="507 Insufficient Storage: full"):
        Index(tmp_path / "index", counting, config)
    assert not (tmp_path / "index/index.json").exists()
    assert not made.local.collection_exists("unime")
    made.wrong = {}
    with Index(tmp_path / "index", counting, config) as index:
        assert index.update(pictures).added == 6
    with pytest.raises(ConfigError, match="another index's"):
        Index(tmp_path / "other", counting, config)
    assert not (tmp_path / "other/index.json").exists()
    assert made.local.collection_exists("unime")


@pytest.mark.parametrize("url", ["localhost:6333", "ftp://server", "http://", "https:///a", ""])
def test_no_address_of_a_server(url: str) -> None:
    with pytest.raises(ConfigError, match=rf"^store\.url: got '{url}', expected http://… or"):
        VectorStoreConfig(url=url)


@pytest.mark.parametrize("url", ["http://[", "http://host:99999999", "http://a..b", "http://a%b"])
def test_an_address_of_nothing(counting: Counting, tmp_path: Path, url: str) -> None:
    with pytest.raises(ConfigError, match=r"^store\.url: http://.* does not do what it is asked: "):
        Index(tmp_path / "index", counting, IndexConfig(store=VectorStoreConfig(url=url)))


@pytest.mark.filterwarnings("error::UserWarning")
def test_a_key_that_others_can_read(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(logging.getLogger("unime"), "propagate", True)
    urls = ["http://127.0.0.2:6333", "http://[::1]", "http://localhost", "https://192.0.2.1"]
    open_server("http://192.0.2.1")
    monkeypatch.setenv("QDRANT_API_KEY", "a secret")
    for url in urls:
        open_server(url)
    assert not caplog.messages
    open_server("http://192.0.2.1:6333")
    assert {*caplog.messages} == {"QDRANT_API_KEY goes to http://192.0.2.1:6333 unencrypted"}
