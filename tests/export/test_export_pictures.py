"""An exported model sees odd pictures as training did, or says that it does not.

python -m pytest tests/export/test_export_pictures.py
"""

from __future__ import annotations

import base64
import json
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from urllib.parse import quote

import huggingface_hub
import numpy as np
import pytest
import yaml
from PIL import Image

from stages import export
from tests.support.embedding import difference, embed, load_exact
from tests.support.exported_runs import in_sentence_transformers, train_small
from unime.config import InputConfig
from unime.errors import RunError
from unime.export.reading_transformer import _file
from unime.export.verification import odd_items
from unime.inputs.images import load_image
from unime.inputs.items import Item
from unime.inputs.resolution import Resolution

OTHERS = ("llava", "idefics3", "internvl", "gemma3", "paligemma", "mllama", "qwen3_vl")
SLOW = pytest.mark.backbones


@pytest.fixture
def odd(tmp_path):
    """The paths of odd pictures by their kind."""
    (tmp_path / "odd").mkdir()
    found = odd_items(tmp_path / "odd", Resolution())
    return {kind: items[0].images[0] for kind, items in found.items()}


def test_odd_pictures_are_odd(odd):
    opened = {kind: Image.open(path) for kind, path in odd.items()}
    modes = {"RGBA", "LA", "P", "RGB", "I;16"}
    assert {picture.mode for picture in opened.values()} == modes
    assert opened["pictures of which one colour is transparent"].info["transparency"]
    assert opened["pictures turned by EXIF"].getexif()[0x0112] == 6
    for picture in opened.values():
        if "transparency" in picture.info or picture.mode in ("RGBA", "LA"):
            transparent = np.asarray(picture.convert("RGBA"))[..., 3] == 0
            assert 0 < transparent.mean() < 0.9


@pytest.mark.parametrize(
    "family, resolution",
    [
        ("qwen2_vl", "native"),
        ("llava_next", "24x32"),
        *(pytest.param(family, "native", marks=SLOW) for family in OTHERS),
    ],
)
def test_odd_pictures_have_the_vectors_of_training(
    family, resolution, odd, tiny_model, tmp_path, capsys
):
    drafted = None if resolution == "native" else Resolution.parse(resolution)
    inputs = InputConfig(resolution=resolution, jpeg_draft=drafted is not None)
    encoder = train_small(tiny_model(family), tmp_path / "run", inputs)
    odd["a large JPEG"] = str(tmp_path / "odd/large.jpg")
    Image.effect_noise((400, 300), 90).convert("RGB").save(odd["a large JPEG"])
    out = tmp_path / "out"
    export.main([str(tmp_path / "run"), str(out)])
    assert "odd pictures, each a file: largest" in capsys.readouterr().out
    with pytest.raises(ValueError, match="trust_remote_code=True"):
        in_sentence_transformers(out, code=False)
    model, paths = in_sentence_transformers(out), list(odd.values())
    items = [Item(images=(path,)) for path in paths]
    right = embed(encoder, items)
    assert difference(embed(load_exact(out), items), right) < 1e-5
    settings = json.loads((out / "sentence_bert_config.json").read_text())
    for key in ("resolution", "jpeg_draft"):
        assert settings.get(key) == (None if resolution == "native" else resolution)
    encoded = [base64.b64encode(Path(path).read_bytes()).decode() for path in paths]
    for way in (
        paths,
        [Image.open(path) for path in paths],
        [{"image": path} for path in paths],
        [f"data:image/png;base64,{text}" for text in encoded],
        [np.asarray(load_image(path, inputs.max_image_pixels, drafted)) for path in paths],
        [[{"role": "user", "content": [{"type": "image", "path": path}]}] for path in paths],
    ):
        vectors = model.encode(way, batch_size=len(paths), convert_to_tensor=True)
        assert difference(vectors, right) < 1e-5
    picture = Image.open(paths[0]).convert("RGB")  # kinds that the library takes for texts
    others = [str(tmp_path / f"other{end}") for end in (".tif", ".tga", ".ppm", ".png")]
    for path in others:
        picture.save(path)
    vectors = model.encode(others, convert_to_tensor=True)
    assert difference(vectors[:3], vectors[3:].expand(3, -1)) < 1e-5
    if family not in ("paligemma", "mllama"):  # which do not take texts, or not beside pictures
        name = model.encode([str(tmp_path / "none.tif")], convert_to_tensor=True)
        assert difference(name, vectors[3:]) > 1e-3, "a name of no file is a text"
    both = [{"image": path, "text": "What is it?"} for path in paths]
    with_text = embed(encoder, [Item("What is it?", (path,)) for path in paths])
    vectors = model.encode(both, batch_size=len(paths), convert_to_tensor=True)
    assert difference(vectors, with_text) < 1e-5
    with pytest.raises(TypeError, match="image of uint16, expected uint8"):
        model.encode([np.zeros((16, 16, 3), dtype=np.uint16)])


def test_without_code_it_says_what_it_embeds_otherwise(odd, items, tiny_model, tmp_path, capsys):
    encoder = train_small(tiny_model("qwen2_vl"), tmp_path / "run")
    out = tmp_path / "out"
    export.main([str(tmp_path / "run"), str(out), "code=false"])
    said = capsys.readouterr().out
    assert not list(out.glob("*.py"))
    model = in_sentence_transformers(out, code=False)
    card = (out / "README.md").read_text()
    listed = yaml.safe_load((out / "config.yaml").read_text())["embeds_otherwise"]
    for kind, path in odd.items():
        right = embed(encoder, [Item(images=(path,))])
        given = {"a file": path, "a PIL image": Image.open(path)}
        wrong = [
            way
            for way, picture in given.items()
            if difference(model.encode([picture], convert_to_tensor=True), right) > 1e-4
        ]
        words = kind + ("" if len(wrong) == 2 else f", given as {''.join(wrong)}")
        assert (words in listed) == bool(wrong)
        if wrong:
            assert f"embeds otherwise than the run: {words}\n" in said and f"- {words}\n" in card
    assert "transparent pictures, given as a file" in listed
    assert "pictures turned by EXIF, given as a PIL image" in listed
    opaque = load_image(items[1].images[0], InputConfig().max_image_pixels)
    vector = model.encode([opaque], convert_to_tensor=True)
    assert difference(vector, embed(encoder, items[1:2])) < 1e-5


def test_without_code_a_size_is_for_others_to_do(pictures, tiny_model, tmp_path):
    inputs = InputConfig(resolution="24x24")
    encoder = train_small(tiny_model("qwen2_vl"), tmp_path / "run", inputs)
    export.main([str(tmp_path / "run"), str(tmp_path / "out"), "code=false"])
    card = (tmp_path / "out" / "README.md").read_text()
    assert "- pictures that are not 24x24\n" in card and "trust_remote_code" not in card
    model = in_sentence_transformers(tmp_path / "out", code=False)
    resized = Image.open(pictures[1]).resize((24, 24), Image.Resampling.BICUBIC)
    vector = model.encode([resized], convert_to_tensor=True)
    assert difference(vector, embed(encoder, [Item(images=(pictures[1],))])) < 1e-5


def test_code_that_reads_otherwise_is_found_out(tiny_model, tmp_path, monkeypatch):
    """The export's own check looks at odd pictures, not only at those that all read alike."""
    train_small(tiny_model("qwen2_vl"), tmp_path / "run")
    monkeypatch.setattr("unime.inputs.images.as_seen", lambda image, _: image.convert("RGB"))
    with pytest.raises(RunError, match="odd pictures, each a file: largest difference"):
        export.main([str(tmp_path / "run"), str(tmp_path / "out")])
    assert not (tmp_path / "out").exists()


def test_a_picture_is_fetched_from_its_address(odd, monkeypatch):
    path = Path(odd["pictures turned by EXIF"])
    handler = partial(SimpleHTTPRequestHandler, directory=str(path.parent))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}/{quote(path.name)}"
        assert _file(address).read() == path.read_bytes()
        with pytest.raises(Exception, match="404"):
            _file(f"{address}.absent")
        server.shutdown()
