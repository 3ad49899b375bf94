"""`unime.Embedder` gives the vectors of the encoder, of whatever it is handed.

./launch.sh test tests/test_embedder.py
"""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.support.exported_runs import shake
from tests.support.paths import ROOT
from unime import Embedder, Encoder, Item
from unime.config import LoraSettings
from unime.errors import ConfigError, DataError


@pytest.fixture(scope="module")
def embedder(tiny_model: Callable[..., Path]) -> Embedder:
    return Embedder(tiny_model("qwen2_vl"), device="cpu")


def test_the_vectors_of_the_encoder(
    embedder: Embedder, items: list[Item], load_tiny: Callable[..., Encoder]
) -> None:
    expected = load_tiny("qwen2_vl").encode(items).numpy()
    found = embedder.encode(items, batch_size=2)
    assert found.dtype == np.float32 and np.abs(found - expected).max() < 1e-5
    named: list[Any] = [
        {"text": i.text, "images": list(i.images), "instruction": i.instruction} for i in items
    ]
    named[0], named[1] = items[0].text, Path(items[1].images[0])
    named[2] = {"text": items[2].text, "image": items[2].images[0]}
    assert np.abs(embedder.encode(named) - expected).max() < 1e-5
    alone = embedder.encode(items[0].text)
    assert alone.shape == (embedder.dimension,) and np.abs(alone - expected[0]).max() < 1e-5
    assert embedder.encode([]).shape == (0, embedder.dimension)


def drawn(mode: str) -> Image.Image:
    noise = np.random.default_rng(1).integers(0, 256, (40, 24, 4), dtype=np.uint8)
    return Image.fromarray(noise, "RGBA").convert(mode)


@pytest.mark.parametrize(
    ("mode", "form"), [("RGBA", "PNG"), ("P", "PNG"), ("CMYK", "TIFF"), ("L", "JPEG")]
)
def test_a_picture_is_the_same_wherever_it_lies(
    mode: str, form: str, embedder: Embedder, tmp_path: Path
) -> None:
    picture = drawn(mode if mode != "P" else "RGB").convert(mode)
    exif = picture.getexif()
    exif[0x0112] = 6  # lies on its side
    picture.save(tmp_path / "picture", form, exif=exif)
    content = (tmp_path / "picture").read_bytes()
    shown: list[Any] = [
        tmp_path / "picture", content, Image.open(io.BytesIO(content)), {"image": content}
    ]  # fmt: skip
    vectors = embedder.encode(shown, batch_size=1)
    assert np.abs(vectors - vectors[0]).max() == 0


def test_equal_items_are_embedded_once(embedder: Embedder, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = []
    embed = Embedder.embed

    def counted(self: Embedder, prepared: Any, device: int = 0) -> Any:
        sizes.append(len(prepared))
        return embed(self, prepared, device)

    monkeypatch.setattr(Embedder, "embed", counted)
    picture = drawn("RGB")
    found = embedder.encode(["a cat", picture, "a cat", picture.copy(), {"text": "a cat"}])
    assert sizes == [2] and np.abs(found[[0, 1]] - found[[2, 3]]).max() == 0


def test_sizes_and_types(embedder: Embedder) -> None:
    texts = [f"a text of number {n}" for n in range(12)]
    whole = embedder.encode(texts)
    short = embedder.encode(texts, dimensions=8)
    assert np.array_equal(short, embedder.encode(texts, dimensions=np.int64(8)))
    expected = whole[:, :8] / np.linalg.norm(whole[:, :8], axis=1, keepdims=True)
    assert short.shape == (12, 8) and np.abs(short - expected).max() < 1e-6
    assert embedder.encode(texts, output="float16").dtype == np.float16
    bytes_ = embedder.encode(texts, output="int8")
    assert bytes_.dtype == np.int8 and set(np.abs(bytes_).max(axis=1)) == {127}
    cosines = embedder.similarity(whole, whole)
    assert np.abs(embedder.similarity(bytes_, bytes_) - cosines).max() < 0.01
    bits = embedder.encode(texts, output="ubinary", dimensions=16)
    assert bits.shape == (12, 2)
    assert (np.unpackbits(bits, axis=1) == (whole[:, :16] > 0)).all()
    signed = embedder.encode(texts, output="binary", dimensions=16)
    assert signed.dtype == np.int8 and (signed.astype(int) + 128 == bits).all()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ({"output": "float8"}, "output: got 'float8'"),
        ({"dimensions": 0}, "dimensions: got 0"),
        ({"dimensions": 10_000}, "dimensions: got 10000"),
        ({"dimensions": 9, "output": "binary"}, "multiple of 8"),
        ({"batch_size": 0}, "batch_size"),
        ({"batch_size": -1}, "batch_size"),
        ({"dimensions": 6.5}, "dimensions"),
        ({"dimensions": True}, "dimensions"),
        ({"dimensions": np.int64(10_000)}, "dimensions"),
        ({"dimensions": np.float32(8)}, "dimensions"),
    ],
)
def test_settings_that_cannot_be(words: dict[str, Any], said: str, embedder: Embedder) -> None:
    with pytest.raises(ValueError, match=said):
        embedder.encode(["a cat"], **words)


@pytest.mark.parametrize(
    ("item", "said"),
    [
        (5, "got a int"),
        ({"txt": "a"}, "got 'txt'"),
        ({"text": 5}, "text: got 5"),
        ({"images": [5]}, "got a int, expected a picture"),
        ("", "neither text nor image"),
        (b"no picture", "not a readable image"),
        (Path("/no/such.png"), "no such image"),
        (Image.new("1", (9000, 9000)), "81|9000 x 9000 pixels"),
    ],
)
def test_what_is_no_item_is_named(item: Any, said: str, embedder: Embedder) -> None:
    with pytest.raises(DataError, match=rf"items\[1\].*({said})"):
        embedder.encode(["a cat", item])


def test_pictures_in_memory_are_named_by_their_places(
    embedder: Embedder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    drawn("RGB").save("own.png")
    good = Path("own.png").read_bytes()
    with pytest.raises(DataError, match=r"items\[1\]: picture 3: not a readable image"):
        embedder.encode(["a", {"images": [good, "own.png", b"no picture"]}])
    Path("picture 1").write_bytes(b"no picture")  # a file of that name is no picture in memory
    with pytest.raises(DataError, match=r"items\[0\]: picture 1: not a readable image"):
        embedder.encode([{"images": [good, "picture 1"]}])
    monkeypatch.setattr(embedder.encoders[0].processor, "most_tokens", 100)
    with pytest.raises(DataError, match=r"picture 1, .* and 397 more: .* tokens") as told:
        embedder.encode([{"images": [drawn("RGB")] * 400}])
    assert len(str(told.value)) < 300


def test_a_run_s_folder_is_what_it_trained(
    tiny_model: Callable[..., Path], load_tiny: Callable[..., Encoder], tmp_path: Path
) -> None:
    trained = load_tiny("qwen2_vl", "nf4", lora=LoraSettings(rank=2))
    shake(trained)
    trained.save_adapters(tmp_path / "run/final")
    expected = trained.encode([Item("a cat")]).numpy()
    for place in (tmp_path / "run", tmp_path / "run/final"):
        found = Embedder(place, device="cpu")
        assert found.encoders[0].base_description["quantization"] == "nf4"
        assert np.abs(found.encode(["a cat"]) - expected).max() < 1e-5
    other = Embedder(tmp_path / "run", device="cpu", quantization="none").encode(["a cat"])
    assert np.abs(other - expected).max() > 1e-5


def test_two_devices_are_one(tiny_model: Callable[..., Path], items: list[Item]) -> None:
    both = Embedder(tiny_model("qwen2_vl"), device=["cpu", "cpu"])
    one = Embedder(tiny_model("qwen2_vl"), device="cpu")
    assert np.abs(both.encode(items, batch_size=1) - one.encode(items, batch_size=1)).max() < 1e-6


def test_labels_are_compared_by_the_mean_of_their_templates(embedder: Embedder) -> None:
    labels, templates = ["cat", "dog"], ["a photo of a {}", "a drawing of a {}"]
    picture = drawn("RGB")
    (found,) = embedder.classify([picture], labels, templates)
    shown = embedder.encode([picture])[0]
    for label, score in found.items():
        of = embedder.encode([one.format(label) for one in templates]).mean(axis=0)
        assert abs(score - shown @ of / np.linalg.norm(of)) < 1e-5
    assert list(found.values()) == sorted(found.values(), reverse=True)
    for wrong in ([], "a photo"):
        with pytest.raises(ValueError, match="expected"):
            embedder.classify([picture], labels if wrong else [], wrong or "a {}")
    for of_labels in ("cat", ["cat", 5]):
        with pytest.raises(ValueError, match="labels: got .* expected a list of texts"):
            embedder.classify([picture], of_labels)  # type: ignore[arg-type]


def test_no_such_model() -> None:
    with pytest.raises(ConfigError, match=r"model\.name"):
        Embedder("no/such model here")
    with pytest.raises(ConfigError, match="device"):
        Embedder(ROOT / "assets/base", device=[])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"device": "gpu"}, "device: got 'gpu', expected one that is here: cpu"),
        ({"device": "cuda:77"}, "device: got 'cuda:77', expected one that is here: cpu"),
        ({"device": ["cpu", "meta"]}, "device: got 'meta', expected one that is here: cpu"),
        ({"precision": "fp16"}, "precision: got 'fp16', expected one of float32, bfloat16, float"),
        ({"quantization": "4bit"}, "quantization: got '4bit', expected one of none, nf4, int8"),
    ],
)
def test_words_that_cannot_be(words: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as error:
        Embedder(ROOT / "assets/base", **words)
    assert error.value.key in words


@pytest.mark.parametrize(
    ("picture", "words"),
    [(Image.new("F", (20, 20), 0.5), "mode F"), (Image.new("RGB", (0, 0)), "0 x 0 pixels")],
)
def test_a_picture_in_memory_that_cannot_be_shown(
    embedder: Embedder, picture: Image.Image, words: str
) -> None:
    with pytest.raises(DataError, match=rf"items\[1\]: .*{words}"):
        embedder.encode(["a text", picture])
