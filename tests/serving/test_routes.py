"""Every route gives the vectors of `Embedder`: ./launch.sh test tests/serving/test_routes.py"""

from __future__ import annotations

import base64
import json
from contextlib import closing
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.serving.services import Running, data_uri, in_base64
from unime.embedder import Embedder

OPENAI, COHERE, VOYAGE = "/v1/embeddings", "/v2/embed", "/v1/multimodalembeddings"


def floats(text: str) -> list[float]:
    return np.frombuffer(base64.b64decode(text), "<f4").tolist()


def turn(*parts: dict[str, Any], role: str = "user") -> dict[str, Any]:
    return {"role": role, "content": list(parts)}


def text(value: str) -> dict[str, Any]:
    return {"type": "text", "text": value}


def image_url(value: str) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": value}}


@pytest.fixture(scope="module")
def forms(pictures: list[str]) -> list[tuple[str, dict[str, Any], list[Any]]]:
    """Each form of each dialect: its address, its body, and what `Embedder` is given for it."""
    one, two = pictures[1], pictures[3]
    uri, bare = data_uri(one), in_base64(Path(two).read_bytes())
    both = {"text": "a red bird", "image": one}
    shown, said = {"image": one}, {"text": "a red bird", "instruction": "Find it."}
    part = [text("a red bird"), image_url(uri)]
    empty = {"role": "assistant", "content": [text("")]}
    voyage = {"type": "image_base64", "image_base64": uri}
    return [
        (OPENAI, {"input": "a cat"}, ["a cat"]),
        (OPENAI, {"input": ["a cat", "a dog"]}, ["a cat", "a dog"]),
        (OPENAI, {"input": [{"text": "a red bird", "image": uri}, {"image": bare}, "a cat"]},
         [both, {"image": two}, "a cat"]),
        (OPENAI, {"input": [said, {"url": uri}, {"bytes": bare}]}, [said, shown, {"image": two}]),
        (OPENAI, {"messages": [turn(*part)]}, [both]),
        (OPENAI, {"messages": [turn(text("Find it."), role="system"), turn(text("a red bird")),
                               empty], "continue_final_message": True}, [said]),
        (OPENAI, {"messages": [turn(image_url(uri)), turn(text("a red bird"))]}, [both]),
        (OPENAI, {"messages": [[turn(*part)], [{"role": "user", "content": "a cat"}]]},
         [both, "a cat"]),
        (OPENAI, {"input": [turn(image_url(uri))]}, [shown]),
        (OPENAI, {"input": [[turn(image_url(uri))], [turn(text("a cat"))]]}, [shown, "a cat"]),
        (COHERE, {"texts": ["a cat", "a dog"], "input_type": "search_query"}, ["a cat", "a dog"]),
        (COHERE, {"images": [uri, data_uri(two)]}, [shown, {"image": two}]),
        (COHERE, {"inputs": [{"content": part}, {"content": [text("a cat")]}]}, [both, "a cat"]),
        (VOYAGE, {"inputs": [{"content": [text("a red bird"), voyage]}, {"content": [voyage]},
                             {"content": [text("a cat")]}], "input_type": "query"},
         [both, shown, "a cat"]),
        ("/vectorize", {"texts": ["a cat"], "images": [bare]}, ["a cat", {"image": two}]),
    ]  # fmt: skip


def vectors(answer: dict[str, Any], path: str) -> list[list[float]]:
    if path == COHERE:
        return answer["embeddings"]["float"]
    if path == "/vectorize":
        return answer["textVectors"] + answer["imageVectors"]
    assert [one.get("index", n) for n, one in enumerate(answer["data"])] == [
        *range(len(answer["data"]))
    ]
    return [one["embedding"] for one in answer["data"]]


def test_every_form_gives_the_vectors_of_embedder(
    forms: list[Any], served: Running, embedder: Embedder
) -> None:
    for path, body, given in forms:
        status, answer, _ = served.ask(path, body)
        assert status == 200, (body, answer)
        found = np.array(vectors(answer, path), np.float32)
        expected = embedder.encode(given)
        assert found.shape == expected.shape, body
        assert np.abs(found - expected).max() < 1e-5, body


def test_base64_and_dimensions(served: Running, embedder: Embedder) -> None:
    asked = {"input": ["a cat", "a dog"], "encoding_format": "base64", "dimensions": 8}
    _, answer, _ = served.ask(OPENAI, asked | {"model": "text-embedding-3-large"})
    found = [floats(one["embedding"]) for one in answer["data"]]
    assert np.abs(found - embedder.encode(["a cat", "a dog"], dimensions=8)).max() < 1e-5
    assert answer["model"] == "tiny"


def test_types_of_vectors(served: Running, embedder: Embedder) -> None:
    types = ["float", "int8", "uint8", "binary", "ubinary", "base64"]
    body = {"texts": ["a cat"], "embedding_types": types, "output_dimension": 16}
    found = served.ask(COHERE, body)[1]["embeddings"]
    assert list(found) == types
    for output in ("int8", "binary", "ubinary"):
        expected = embedder.encode(["a cat"], dimensions=16, output=output)
        assert np.abs(np.array(found[output]) - expected).max() <= (output == "int8"), output
        content = [{"content": [text("a cat")]}]
        asked = {"inputs": content, "output_dtype": output, "output_dimension": 16}
        assert served.ask(VOYAGE, asked)[1]["data"][0]["embedding"] == found[output][0]
    for key in ("embedding_type", "encoding_type"):  # Jina's, and LlamaIndex's for Jina's
        asked = {"input": "a cat", key: "ubinary", "dimensions": 16}
        assert served.ask(OPENAI, asked)[1]["data"][0]["embedding"] == found["ubinary"][0]
    assert np.array_equal(np.array(found["uint8"]) - 128, found["int8"])
    assert np.allclose(floats(found["base64"][0]), found["float"][0])


def test_usage_counts_what_the_model_reads(
    served: Running, embedder: Embedder, pictures: list[str]
) -> None:
    items, _ = embedder.as_items([{"text": "a cat", "image": pictures[1]}, "a dog"])
    prepared = [embedder.prepare(item) for item in items]
    tokens = sum(one.tokens for one in prepared)
    token = embedder.encoders[0].processor.hf_processor.image_token_id
    images = int((prepared[0].sample["input_ids"] == token).sum())
    part = [text("a cat"), {"type": "image_base64", "image_base64": data_uri(pictures[1])}]
    body = {"inputs": [{"content": part}, {"content": [text("a dog")]}]}
    assert served.ask(VOYAGE, body)[1]["usage"] == {
        "text_tokens": tokens - images, "image_pixels": prepared[0].pixels, "video_pixels": 0,
        "total_tokens": tokens,
    }  # fmt: skip
    assert images > 0
    asked = {"input": [{"text": "a cat", "image": data_uri(pictures[1])}, "a dog"]}
    assert served.ask(OPENAI, asked)[1]["usage"]["prompt_tokens"] == tokens
    units = served.ask(COHERE, body)[1]["meta"]["billed_units"]
    assert units == {"input_tokens": tokens - images, "image_tokens": images}


def test_a_text_that_is_cut_is_said(served: Running) -> None:
    long = " ".join(["word"] * 2000)
    assert served.ask(OPENAI, {"input": [long, "a cat"]})[2]["x-unime-cut"] == "1"
    for path, body in (
        (COHERE, {"texts": [long], "truncate": "NONE"}),
        (VOYAGE, {"inputs": [{"content": [text(long)]}], "truncation": False}),
    ):
        status, answer, _ = served.ask(path, body)
        assert status == 400 and "longer than 512 tokens" in str(answer)


def test_what_else_clients_ask(served: Running, embedder: Embedder) -> None:
    listed = served.ask("/v1/models")[1]["data"]
    names = [one["id"] for one in listed]
    assert [served.ask(f"/v1/models/{name}")[1] for name in names] == listed
    assert served.ask("/v1/models/another")[0] == 404
    assert names == ["tiny", "text-embedding-3-large"]
    assert served.ask("/health")[1]["status"] == "ok"
    assert served.ask("/meta")[1]["dimensions"] == embedder.dimension
    assert served.ask("/.well-known/ready")[0] == served.ask("/.well-known/live")[0] == 204
    before = served.service.metrics.registry.get_sample_value("unime_items_total")
    served.ask(OPENAI, {"input": ["a cat", "a dog"]})
    assert f"unime_items_total {before + 2}" in served.ask("/metrics")[1]


def test_what_weaviate_sends(served: Running, embedder: Embedder, pictures: list[str]) -> None:
    """The requests of its module multi2vec-clip, as Go writes them: no content type, null for an
    empty list. It waits for "ready" with a status below 300, and reads "/meta" as an object."""

    def ask(path: str, body: bytes | None = None) -> tuple[int, bytes]:
        with closing(HTTPConnection(served.host, served.port, timeout=60)) as asked:
            agent = {"User-Agent": "Go-http-client/1.1", "Accept-Encoding": "gzip"}
            asked.request("GET" if body is None else "POST", path, body, agent)
            answer = asked.getresponse()
            return answer.status, answer.read()

    assert ask("/.well-known/ready")[0] < 300 and isinstance(json.loads(ask("/meta")[1]), dict)
    image = in_base64(Path(pictures[1]).read_bytes())
    for body, given in (
        ('{"texts":["a cat","\\u003ca dog\\u003e"],"images":null}', ["a cat", "<a dog>"]),
        (f'{{"texts":null,"images":["{image}"]}}', [{"image": pictures[1]}]),
        (f'{{"texts":["a cat"],"images":["{image}"]}}', ["a cat", {"image": pictures[1]}]),
        ('{"texts":null,"images":[]}', []),
    ):
        status, answer = ask("/vectorize", body.encode())
        found = vectors(json.loads(answer), "/vectorize")
        assert status == 200 and len(found) == len(given)
        assert not given or np.abs(np.array(found) - embedder.encode(given)).max() < 1e-5
    status, answer = ask("/vectorize", b'{"texts":[""],"images":null}')
    assert status > 399 and "neither text nor image" in json.loads(answer)["error"]


REFUSED = [
    (OPENAI, {"input": [1, 2, 3]}, "check_embedding_ctx_length=False"),
    (OPENAI, {"input": [[1, 2], [3]]}, "check_embedding_ctx_length=False"),
    (OPENAI, {"input": "a", "chat_template": "{{ x }}"}, "chat_template"),
    (OPENAI, {"input": "a", "messages": [turn(text("a"))]}, "one of input and messages"),
    (OPENAI, {"input": ["a", ""]}, "input[1]: an item has neither text nor image"),
    (OPENAI, {"messages": [turn(text("a")), turn(text("b"), role="assistant")]}, "messages[1]"),
    (OPENAI, {"input": "a", "dimensions": 10**6}, "dimensions"),
    (OPENAI, {"input": "a", "encoding_format": "bytes"}, "encoding_format"),
    (OPENAI, {"input": "a", "embedding_type": "int4"}, "embedding_type"),
    (OPENAI, {"input": "a", "encoding_format": "base64", "encoding_type": "binary"}, "one type"),
    (OPENAI, {"input": "a", "model": "gpt"}, "model: got 'gpt'"),
    (COHERE, {"texts": ["a"], "images": ["b"]}, "texts, images, inputs"),
    (COHERE, {"texts": []}, "texts: got a list of 0"),
    (
        COHERE,
        {"texts": ["a"], "output_dimension": 9, "embedding_types": ["binary"]},
        "output_dimension: got 9, expected a multiple",
    ),
    (VOYAGE, {"inputs": [{"content": [{"type": "video_url", "video_url": "x"}]}]}, "videos"),
    ("/vectorize", {"texts": "a"}, "texts: got 'a', expected a list"),
]


@pytest.mark.parametrize(("path", "body", "said"), REFUSED)
def test_what_is_refused_says_why_as_the_dialect_does(
    path: str, body: dict[str, Any], said: str, served: Running
) -> None:
    status, answer, _ = served.ask(path, body)
    assert 400 <= status < 500
    reason = {
        OPENAI: lambda: answer["error"]["message"], COHERE: lambda: answer["message"],
        VOYAGE: lambda: answer["detail"], "/vectorize": lambda: answer["error"],
    }[path]()  # fmt: skip
    assert said in reason
