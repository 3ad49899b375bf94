"""A language model as the decoder of a LLaVA, whose vision tower is small and random.

Stage 1 reads texts and trains the decoder alone: neither tower nor projector ever runs. They are
there so that every program of the project takes the model as it takes any other of its kind. How
such a model is joined with a tower that sees: docs/own_model.md.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from tokenizers import AddedToken
from transformers import (
    CLIPImageProcessor,
    CLIPVisionConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PretrainedConfig,
)

from data_prep.real_llm.language_model import (
    PROMPTS,
    SENTENCES,
    LanguageModel,
    continuation,
    text_logits,
)
from unime.errors import DataError

IMAGE = "<image>"
SIDE, PATCH = 32, 16  # pixels
CLOSE = 1e-3  # logits are some tens


def join(part: LanguageModel) -> tuple[LlavaForConditionalGeneration, LlavaProcessor]:
    """The language model as a LLaVA, the same whenever it is made.

    The token that stands for a picture is new: its embedding is the mean of all others.
    """
    llm: Any = part.model
    tokenizer: Any = part.tokenizer
    tokenizer.add_tokens([AddedToken(IMAGE, special=True, normalized=False)], special_tokens=True)
    tokenizer.image_token = IMAGE
    with torch.no_grad():
        known = llm.get_input_embeddings().weight
        mean = known[: len(tokenizer) - 1].mean(0)
        llm.resize_token_embeddings(len(tokenizer), mean_resizing=False)
        for head in {llm.get_input_embeddings().weight, llm.get_output_embeddings().weight}:
            head[-1] = mean
    config = _config(llm.config, tokenizer.convert_tokens_to_ids(IMAGE))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = LlavaForConditionalGeneration(config).eval()
    model.model.language_model.load_state_dict(llm.base_model.state_dict())
    model.get_output_embeddings().load_state_dict(llm.get_output_embeddings().state_dict())
    model.tie_weights()
    model.generation_config = llm.generation_config
    square = {"height": SIDE, "width": SIDE}
    processor = LlavaProcessor(
        image_processor=CLIPImageProcessor(size={"shortest_edge": SIDE}, crop_size=square),
        tokenizer=tokenizer,
        patch_size=PATCH,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,  # CLIP's class token
    )
    return model, processor


def _config(text: PretrainedConfig, image_token: int) -> LlavaConfig:
    vision = CLIPVisionConfig(
        hidden_size=64,  # blocks of 64 columns are what bitsandbytes quantises
        intermediate_size=128,
        projection_dim=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=SIDE,
        patch_size=PATCH,
    )
    return LlavaConfig(
        vision_config=vision,
        text_config=text,
        image_token_index=image_token,
        image_seq_length=(SIDE // PATCH) ** 2,
        vision_feature_select_strategy="default",
        tie_word_embeddings=text.tie_word_embeddings,
    )


def write_model(part: LanguageModel, folder: Path) -> dict[str, str]:
    """Write the joined model to `folder`, read it again, and compare it with what it was made of;
    returns what both say after a few prompts.

    Raises:
        DataError: they differ.
    """
    before = [part.logits(sentence) for sentence in SENTENCES]
    said = {prompt: continuation(part.model, part.tokenizer, prompt) for prompt in PROMPTS}
    model, processor = join(part)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    (folder / "model.safetensors").chmod(0o644)  # safetensors writes it for its owner only
    written = LlavaForConditionalGeneration.from_pretrained(folder, dtype=torch.float32).eval()
    tokenizer = LlavaProcessor.from_pretrained(folder).tokenizer
    after = [text_logits(written, tokenizer, sentence) for sentence in SENTENCES]
    apart = max(
        (one - other[:, : one.shape[1]]).abs().max().item()
        for one, other in zip(before, after, strict=True)
    )
    again = {prompt: continuation(written, tokenizer, prompt) for prompt in PROMPTS}
    if apart > CLOSE or again != said:
        raise DataError(f"{folder}: what was written is another model: logits {apart:.2g} apart")
    return said
