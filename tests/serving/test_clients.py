"""The official clients, unchanged, get the vectors of `Embedder`:

./launch.sh test -m use tests/serving/test_clients.py
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pydantic
import pytest
from PIL import Image

from tests.serving.services import Running, data_uri, running
from unime.embedder import Embedder
from unime.serving.access import KEY

pytestmark = pytest.mark.use
SECRET = "a key of nobody"
TEXTS = ["a cat", "two red birds over the sea"]


@pytest.fixture
def locked(embedder: Embedder, monkeypatch: pytest.MonkeyPatch) -> Iterator[Running]:
    """A service with a key, which knows the names that clients insist on."""
    monkeypatch.setenv(KEY, SECRET)
    names = ("embed-v4.0", "voyage-multimodal-3.5", "text-embedding-3-large")
    with running(embedder, names) as found:
        yield found


def near(found: Any, expected: np.ndarray) -> bool:
    found = np.array(found, np.float32)
    return found.shape == expected.shape and float(np.abs(found - expected).max()) < 1e-5


def test_openai(locked: Running, embedder: Embedder, pictures: list[str]) -> None:
    import openai

    client = openai.OpenAI(base_url=f"{locked.url}/v1", api_key=SECRET, max_retries=0)

    def ask(**words: Any) -> list[list[float]]:
        found = client.embeddings.create(model="text-embedding-3-large", **words)
        return [one.embedding for one in found.data]

    assert near(ask(input=TEXTS), embedder.encode(TEXTS))  # it asks for base64
    assert near(ask(input=TEXTS[0], encoding_format="float"), embedder.encode(TEXTS[:1]))
    assert near(ask(input=TEXTS, dimensions=8), embedder.encode(TEXTS, dimensions=8))
    uri = data_uri(pictures[1])
    given: list[Any] = [{"text": TEXTS[0], "image": pictures[1]}, {"image": pictures[1]}]
    both = [{"text": TEXTS[0], "image": uri}, {"image": uri}]
    assert near(ask(input=both), embedder.encode(given))
    content = [
        {"type": "image_url", "image_url": {"url": uri}},
        {"type": "text", "text": TEXTS[0]},
    ]
    body = {"messages": [{"role": "user", "content": content}], "model": "embed-v4.0"}
    found = client.post("/embeddings", body=body, cast_to=openai.types.CreateEmbeddingResponse)
    assert near([found.data[0].embedding], embedder.encode(given[:1]))
    assert [one.id for one in client.models.list()][-1] == "text-embedding-3-large"
    with pytest.raises(openai.BadRequestError, match="check_embedding_ctx_length"):
        ask(input=[1, 2, 3])
    with pytest.raises(openai.NotFoundError, match="expected one of"):
        client.embeddings.create(model="another", input="a")
    with pytest.raises(openai.AuthenticationError):
        openai.OpenAI(base_url=f"{locked.url}/v1", api_key="guessed").embeddings.create(
            model="embed-v4.0", input="a"
        )


def test_cohere(locked: Running, embedder: Embedder, pictures: list[str]) -> None:
    import cohere

    client = cohere.ClientV2(api_key=SECRET, base_url=locked.url)
    asked: dict[str, Any] = {"model": "embed-v4.0", "input_type": "search_document"}
    found = client.embed(texts=TEXTS, embedding_types=["float", "int8"], **asked)
    assert near(found.embeddings.float_, embedder.encode(TEXTS))
    assert found.texts == TEXTS and found.meta.billed_units.input_tokens > 0
    whole = embedder.encode(TEXTS, output="int8").astype(int)
    assert np.abs(np.array(found.embeddings.int8) - whole).max() <= 1
    uri = data_uri(pictures[1])
    found = client.embed(images=[uri], embedding_types=["float"], **asked)
    assert near(found.embeddings.float_, embedder.encode([{"image": pictures[1]}]))
    content = [
        {"type": "text", "text": TEXTS[0]},
        {"type": "image_url", "image_url": {"url": uri}},
    ]
    found = client.embed(
        inputs=[{"content": content}], embedding_types=["float", "ubinary"],
        output_dimension=16, **asked,
    )  # fmt: skip
    item = [{"text": TEXTS[0], "image": pictures[1]}]
    assert near(found.embeddings.float_, embedder.encode(item, dimensions=16))
    bits = embedder.encode(item, dimensions=16, output="ubinary")
    assert np.array_equal(found.embeddings.ubinary, bits)
    with pytest.raises(cohere.errors.UnauthorizedError):
        cohere.ClientV2(api_key="guessed", base_url=locked.url).embed(texts=TEXTS, **asked)


def test_voyageai(locked: Running, embedder: Embedder, pictures: list[str]) -> None:
    import voyageai

    client = voyageai.Client(api_key=SECRET, base_url=f"{locked.url}/v1")
    name = "voyage-multimodal-3.5"
    with Image.open(pictures[1]) as picture:
        inputs = [[TEXTS[0], picture], [picture], [TEXTS[1]]]
        found = client.multimodal_embed(inputs=inputs, model=name, input_type="document")
    given: list[Any] = [{"text": TEXTS[0], "image": pictures[1]}, {"image": pictures[1]}, TEXTS[1]]
    assert near(found.embeddings, embedder.encode(given))
    with Image.open(pictures[1]) as picture:
        assert found.image_pixels == 2 * picture.width * picture.height
    assert found.total_tokens > found.text_tokens > 0
    for output in ("int8", "binary", "ubinary"):
        found = client.multimodal_embed(
            inputs=[[TEXTS[1]]], model=name, output_dtype=output, output_dimension=16
        )
        whole = embedder.encode([TEXTS[1]], dimensions=16, output=output).astype(int)
        assert np.abs(np.array(found.embeddings) - whole).max() <= (output == "int8")
    with pytest.raises(voyageai.error.AuthenticationError):
        voyageai.Client(api_key="guessed", base_url=f"{locked.url}/v1").multimodal_embed(
            inputs=[[TEXTS[1]]], model=name
        )


def test_langchain(served: Running, embedder: Embedder) -> None:
    from langchain_openai import OpenAIEmbeddings

    asked = OpenAIEmbeddings(
        model="tiny", base_url=f"{served.url}/v1", api_key="none", check_embedding_ctx_length=False
    )
    assert near(asked.embed_documents(TEXTS), embedder.encode(TEXTS))
    assert near([asked.embed_query(TEXTS[0])], embedder.encode(TEXTS[:1]))


def test_llama_index(served: Running, embedder: Embedder) -> None:
    from llama_index.embeddings.openai_like import OpenAILikeEmbedding

    asked = OpenAILikeEmbedding(model_name="tiny", api_base=f"{served.url}/v1", api_key="none")
    assert near(asked.get_text_embedding_batch(TEXTS), embedder.encode(TEXTS))
    assert near([asked.get_query_embedding(TEXTS[0])], embedder.encode(TEXTS[:1]))


def test_llama_index_with_pictures(
    served: Running, embedder: Embedder, pictures: list[str]
) -> None:
    """Its client of Jina's API takes pictures, too, and has no setting for the address."""
    from llama_index.embeddings.jinaai import JinaEmbedding

    asked = JinaEmbedding(model="tiny", api_key="none")
    asked._api.api_url = f"{served.url}/v1/embeddings"
    assert near(asked.get_text_embedding_batch(TEXTS), embedder.encode(TEXTS))
    given: list[Any] = [{"image": path} for path in pictures[1:4:2]]
    assert near(asked.get_image_embedding_batch(pictures[1:4:2]), embedder.encode(given))
    asked = JinaEmbedding(model="tiny", api_key="none", encoding_queries="ubinary")
    asked._api.api_url = f"{served.url}/v1/embeddings"
    bits = np.unpackbits(embedder.encode(TEXTS[0], output="ubinary"))
    assert np.array_equal(asked.get_query_embedding(TEXTS[0]), bits)
    asked._api.model = "another"
    with pytest.raises(RuntimeError, match="expected one of tiny"):
        asked.get_text_embedding("a cat")


def test_lancedb(
    served: Running, embedder: Embedder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import lancedb
    from lancedb.embeddings import get_registry
    from lancedb.pydantic import LanceModel, Vector

    monkeypatch.setenv("OPENAI_API_KEY", "none")
    asked = (
        get_registry()
        .get("openai")
        .create(name="text-embedding-3-large", dim=embedder.dimension, base_url=f"{served.url}/v1")
    )
    fields = {"text": (str, asked.SourceField())}
    fields["vector"] = (Vector(asked.ndims()), asked.VectorField())
    rows = lancedb.connect(tmp_path).create_table(
        "texts", schema=pydantic.create_model("Row", __base__=LanceModel, **fields)
    )
    rows.add([{"text": text} for text in TEXTS])
    found = {row["text"]: row["vector"] for row in rows.to_arrow().to_pylist()}
    assert near([found[text] for text in TEXTS], embedder.encode(TEXTS))
    assert rows.search(TEXTS[1]).limit(1).to_list()[0]["text"] == TEXTS[1]
