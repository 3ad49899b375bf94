"""The encoder on tiny models of every family: what is embedded depends on the item alone.

python -m pytest tests/models/test_encoder.py
"""

from __future__ import annotations

import pytest
import torch

from tests.support.embedding import check_alone_equals_batched, difference, embed
from tests.support.exported_runs import shake
from tests.support.tiny.models import FAMILIES, PARTS, WITH_PHI3_V, lora_parts
from unime.config import InputConfig, LoraSettings, ModelConfig
from unime.errors import ConfigError, DataError
from unime.inputs.items import Item
from unime.inputs.padding import SEQUENCE_KEYS
from unime.models.encoder import Encoder

# Their last vision layer is not the one that is read.
READ_AN_EARLIER_LAYER = ("llava", "llava_next", "phi4_multimodal", "phi3_v")


@pytest.mark.parametrize("family", WITH_PHI3_V)
@pytest.mark.parametrize("quantization", ["none", "nf4"])
def test_an_embedding_depends_on_the_item_alone(family, quantization, items, load_tiny):
    encoder = load_tiny(family, quantization)
    whole = check_alone_equals_batched(encoder, items)
    assert whole.dtype == torch.float32 and whole.shape == (len(items), encoder.hidden_size)
    assert difference(whole.norm(dim=1), torch.ones(len(items))) < 1e-6


@pytest.mark.parametrize("family", WITH_PHI3_V)
def test_right_padding_gives_the_same_vectors(family, items, load_tiny):
    encoder = load_tiny(family).eval()
    parts = encoder.processor.parts([encoder.processor(item) for item in items])
    padded = []
    for _, left in parts:
        right = dict(left)
        for key in left.keys() & set(SEQUENCE_KEYS):
            rows = zip(left[key], left["attention_mask"].bool(), strict=True)
            right[key] = torch.stack([torch.cat([row[mask], row[~mask]]) for row, mask in rows])
        assert right["attention_mask"][:, 0].all()
        padded.append(not right["attention_mask"].all())
        with torch.no_grad():
            assert difference(encoder(left), encoder(right)) < 1e-5
    assert any(padded)


@pytest.mark.parametrize("family", WITH_PHI3_V)
def test_training_without_dropout_changes_no_vector(family, items, load_tiny):
    """PaliGemma, for one, once read token types otherwise in training."""
    encoder = load_tiny(family, lora=LoraSettings(rank=2, dropout=0.0))
    in_evaluation = embed(encoder, items)
    parts = encoder.processor.parts([encoder.processor(item) for item in items])
    assert difference(encoder.train().embed(parts), in_evaluation) < 1e-5


@pytest.mark.parametrize("family", WITH_PHI3_V)
def test_it_is_the_base_models_last_hidden_state(family, items, load_tiny, tiny_model):
    encoder = load_tiny(family)
    attention = encoder.backbone.attention(None)
    load = encoder.backbone.auto_model.from_pretrained
    with encoder.backbone.importing():
        trusted = {"trust_remote_code": True}
        full = load(tiny_model(family), attn_implementation=attention, **trusted).eval()
    inputs = encoder.processor(items[2])
    inputs = {key: v[None] if key in SEQUENCE_KEYS else v for key, v in inputs.items()}
    with torch.no_grad():
        expected = full.model(**inputs, use_cache=False).last_hidden_state[:, -1]
    expected = torch.nn.functional.normalize(expected, dim=1)
    assert difference(embed(encoder, [items[2]]), expected) < 1e-6
    assert not any("lm_head" in name for name, _ in encoder.named_parameters())


@pytest.mark.parametrize("family", WITH_PHI3_V)
@pytest.mark.parametrize("part", PARTS)
def test_lora_on_a_part_trains_only_that_part(family, part, items, load_tiny):
    lora = LoraSettings(rank=2, dropout=0.0, train=[part])
    if part not in lora_parts(family):
        with pytest.raises(ConfigError, match=f"'{family}' has no linear layer in '{part}'"):
            load_tiny(family, lora=lora)
        return
    encoder = shake(load_tiny(family, lora=lora))
    assert {p.dtype for _, p in encoder.trainable_named_parameters()} == {torch.float32}
    assert encoder.trained_parts == [part]
    parts = encoder.processor.parts([encoder.processor(item) for item in items])
    encoder.train()
    (encoder.embed(parts) * torch.randn(len(items), encoder.hidden_size)).sum().backward()
    gradients = {name: p.grad for name, p in encoder.named_parameters() if p.grad is not None}
    with_gradient = {name for name, gradient in gradients.items() if gradient.any()}
    adapters = {name for name, _ in encoder.trainable_named_parameters()}
    assert with_gradient and gradients.keys() <= adapters
    without = adapters - with_gradient
    late = ("encoder.layers.1.", "head.mlp.")
    assert all(part == "vision" and any(name in path for name in late) for path in without)
    assert not without or family in READ_AN_EARLIER_LAYER


@pytest.mark.parametrize("family", WITH_PHI3_V)
def test_texts_have_a_graph_where_only_images_train(family, items, load_tiny):
    """A chunk of texts must be able to go through backward, and move nothing."""
    train = [lora_parts(family)[1]]  # the projector, or what else sees images only
    encoder = load_tiny(family, lora=LoraSettings(rank=2, train=train)).train()
    texts = [encoder.processor(item) for item in items if not item.images]
    encoder(encoder.processor.collate(texts)).sum().backward()
    for _, parameter in encoder.trainable_named_parameters():
        assert parameter.grad is not None and not parameter.grad.any()


@pytest.mark.parametrize("family", WITH_PHI3_V)
def test_decoder_only(family, load_tiny):
    texts = [Item("a cat"), Item("two red birds over the sea, and a dog in the garden")]
    lora = LoraSettings(rank=2)
    full = load_tiny(family, lora=lora)
    decoder = load_tiny(family, lora=lora, decoder_only=True)
    assert difference(embed(full, texts), embed(decoder, texts)) < 1e-5
    backbone = full.backbone
    # PaliGemma's texts need the whole model, and Phi's vision tower is inside the decoder
    whole = backbone.whole_for_texts or backbone.language_model == "model"
    assert whole == (family in ("paligemma", "phi4_multimodal", "phi3_v"))
    base = decoder._unregistered[0]
    inside = f"{backbone.language_model}." if not whole else "model."
    counts = [len(list(one.parameters())) for one in (decoder, full)]
    assert counts[0] == sum(name.startswith(inside) for name, _ in base.named_parameters())
    assert whole == (counts[0] == counts[1])
    decoder.to("meta")
    for name, parameter in base.named_parameters():
        assert parameter.is_meta == name.startswith(inside), name


@pytest.mark.parametrize(
    "family", ["llava", pytest.param("phi4_multimodal", marks=pytest.mark.backbones)]
)
def test_decoder_only_refuses_images(family, items, load_tiny):
    encoder = load_tiny(family, decoder_only=True)
    with pytest.raises(ValueError, match="takes texts only, got pixel_values"):
        embed(encoder, items)


@pytest.mark.parametrize("family", FAMILIES)
def test_missing_token_types_are_refused(family, items, load_tiny):
    encoder = load_tiny(family)
    batch = encoder.processor.collate([encoder.processor(items[1])])
    types = [key for key in batch if "token_type_ids" in key]
    assert types == list(encoder.backbone.required_keys)
    for key in types:
        del batch[key]
        with pytest.raises(ValueError, match=f"{family} needs {key}, which is missing"):
            encoder(batch)


@pytest.mark.parametrize("family", WITH_PHI3_V)
@pytest.mark.parametrize("decoder_only", [False, True])
def test_gradient_checkpointing_changes_no_gradient(family, decoder_only, items, load_tiny):
    chosen = [item for item in items if not (decoder_only and item.images)]
    train = ["llm"] if decoder_only else lora_parts(family)
    gradients = []
    for checkpointing in (False, True):
        encoder = load_tiny(
            family, "nf4", lora=LoraSettings(rank=2, dropout=0.0, train=train),
            decoder_only=decoder_only, gradient_checkpointing=checkpointing,
        )  # fmt: skip
        shake(encoder)
        calls = []
        attention = encoder.base.get_decoder().layers[-1].self_attn
        attention.register_forward_pre_hook(lambda *call, calls=calls: calls.append(call))
        parts = encoder.processor.parts([encoder.processor(item) for item in chosen])
        encoder.train().embed(parts)[:, 0].sum().backward()
        assert len(calls) == len(parts) * (1 + checkpointing)
        gradients.append({name: p.grad for name, p in encoder.trainable_named_parameters()})
    # Llama's cross-attention layers run beside images only
    trained = [(name, p) for name, p in encoder.base.named_parameters() if p.requires_grad]
    missing = [p.grad is None for name, p in trained if encoder.backbone.part_of(name) == "llm"]
    assert any(missing) == (decoder_only and family == "mllama")
    for name, gradient in gradients[0].items():
        other = gradients[1][name]
        assert other is None if gradient is None else difference(gradient, other) < 1e-6, name


def test_checkpointing_does_not_back_propagate_a_frozen_tower(items, load_tiny):
    encoder = load_tiny("qwen2_vl", lora=LoraSettings(rank=2), gradient_checkpointing=True)
    seen = []
    encoder.model.visual.register_forward_hook(
        lambda _, __, output: seen.append(output.pooler_output.requires_grad)
    )
    batch = encoder.processor.collate([encoder.processor(item) for item in items])
    assert encoder.train()(batch).requires_grad
    assert seen == [False]


def test_a_model_that_is_not_there(tmp_path):
    with pytest.raises(ConfigError, match="model.name: .*nowhere cannot be loaded"):
        Encoder.load(ModelConfig(name=str(tmp_path / "nowhere")), InputConfig())
    (tmp_path / "config.json").write_text('{"model_type": "unheard_of"}')
    with pytest.raises(ConfigError, match="cannot be loaded: .*unheard_of"):
        Encoder.load(ModelConfig(name=str(tmp_path)), InputConfig())


@pytest.mark.backbones
def test_sharded_weights_need_as_many_forwards_on_every_rank(load_tiny):
    with pytest.raises(ConfigError, match="model.name: mllama takes as many forwards as .* ZeRO-2"):
        load_tiny("mllama", sharded=True)


def test_settings_that_cannot_be(load_tiny):
    with pytest.raises(ConfigError, match="inputs.prompt: got 'haiku', expected one of unime"):
        load_tiny("llava", inputs=InputConfig(prompt="haiku"))
    with pytest.raises(ConfigError, match=r"lora.train: .*expected \[llm\] for the decoder only"):
        load_tiny("llava", lora=LoraSettings(train=["vision"]), decoder_only=True)
    with pytest.raises(ConfigError, match="got 'int8', expected nf4 or none where the decoder alo"):
        load_tiny("llava", "int8", lora=LoraSettings(), decoder_only=True, device="cuda")
    with pytest.raises(ConfigError, match="lora.train: 'llava' has no linear layer in 'ears'"):
        load_tiny("llava").backbone.lora_targets(torch.nn.Linear(1, 1), ["ears"])


def test_encode_gives_each_item_its_vector_in_order(items, load_tiny, monkeypatch):
    """Each distinct item is prepared once, the longest first, whatever the batches."""
    encoder = load_tiny("qwen2_vl", lora=LoraSettings(rank=2, dropout=0.5))
    assert not any(module.training for module in encoder.modules())
    encoder.train()
    prepared = []
    own = type(encoder.processor).__call__
    monkeypatch.setattr(
        type(encoder.processor),
        "__call__",
        lambda processor, item: prepared.append(item) or own(processor, item),
    )
    asked = [items[0], items[5], items[0], items[1], items[2]]
    vectors = encoder.encode(asked, batch_size=2)
    assert len(prepared) == 4 and prepared[0] == items[2], "a picture beside a long text"
    assert encoder.training and not vectors.requires_grad and vectors.dtype == torch.float32
    assert difference(vectors, embed(encoder, asked)) < 1e-5
    assert torch.equal(vectors[0], vectors[2])
    assert encoder.encode([]).shape == (0, encoder.hidden_size)
    with pytest.raises(DataError, match=r"^items\[1\]: "):
        encoder.encode([items[0], Item()])
    with pytest.raises(ValueError, match="batch_size: got -1"):
        encoder.encode(asked, batch_size=-1)
    with pytest.raises(TypeError, match="images: got 'a.png', expected a tuple"):
        Item("a", "a.png")
