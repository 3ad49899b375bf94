"""A tiny random checkpoint that brings its own code, in the layout of Phi-3.5-vision-instruct.

    write_phi3_v(tmp_path / "phi3_v")

The code in ``tests/phi3_v`` is written for these tests. It stands for the released one in what
touches transformers or the caller: its files, what they import of transformers, ``auto_map`` and
class names; a configuration that allows just three fields of ``rope_scaling``; names of modules and
of stored tensors (those of the tower begin with ``vision_model``, as in transformers 4); fused
projections; attention masks, caches and ``use_return_dict`` as of transformers 4, and no sdpa;
rotary factors chosen for the longest row; negative ids where images go, which the forward
overwrites in the caller's tensor; a processor of one text at a time, without
``ProcessorMixin.__init__`` and a chat template. Its numbers are its own: tiles of 336 pixels are
4 × 4 patches here, 24 × 24 there, with separators between their lines.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import torch
from safetensors.torch import save_file
from tokenizers.processors import TemplateProcessing
from transformers import AutoConfig, AutoModelForCausalLM

from tests.support.tiny.tokenizers import build_tokenizer
from unime.backbones.phi3_v import importable

CODE = Path(__file__).parent / "phi3_v"
# Only strings for contents, as released: unime's own template is the one that is used.
CHAT_TEMPLATE = "{% for m in messages %}{{ '<|' + m['role'] + '|>\n' + m['content'] }}{% endfor %}"


def write_phi3_v(folder: Path, seed: int = 0) -> Path:
    """Write the checkpoint into `folder` (its code is run to draw the weights), and return it."""
    shutil.copytree(CODE, folder, ignore=shutil.ignore_patterns("__pycache__"))
    tokenizer = build_tokenizer({"user_token": "<|user|>", "end_token": "<|end|>"})
    tokenizer.add_special_tokens({"bos_token": "<s>"})
    tokenizer.padding_side, tokenizer.chat_template = "right", CHAT_TEMPLATE
    start = ("<s>", tokenizer.bos_token_id)
    begins = TemplateProcessing(single="<s> $A", pair="<s> $A $B", special_tokens=[start])
    tokenizer.backend_tokenizer.post_processor = begins
    tokenizer.save_pretrained(folder)
    config = {
        "model_type": "phi3_v",
        "architectures": ["Phi3VForCausalLM"],
        "auto_map": {
            "AutoConfig": "configuration_phi3_v.Phi3VConfig",
            "AutoModelForCausalLM": "modeling_phi3_v.Phi3VForCausalLM",
        },
        "rope_scaling": {"type": "su", "short_factor": [1.1] * 8, "long_factor": [4.0] * 8},
        "vocab_size": len(tokenizer),
        "pad_token_id": tokenizer.pad_token_id,
        "tie_word_embeddings": False,
    }
    processing = {
        "auto_map": {
            "AutoProcessor": "processing_phi3_v.Phi3VProcessor",
            "AutoImageProcessor": "processing_phi3_v.Phi3VImageProcessor",
        },
        "image_processor_type": "Phi3VImageProcessor",
        "processor_class": "Phi3VProcessor",
        "num_crops": 2,
        "num_img_tokens": 4,
    }
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "preprocessor_config.json").write_text(json.dumps(processing))
    torch.manual_seed(seed)
    own = AutoConfig.from_pretrained(folder, trust_remote_code=True)
    with importable():
        model = AutoModelForCausalLM.from_config(own, trust_remote_code=True)
    tower, stored = "vision_embed_tokens.img_processor.", {}
    for name, tensor in model.state_dict().items():
        if not name.endswith(("wte.weight", "position_ids")):  # embed_tokens again, and a buffer
            if tower in name and tensor.ndim > 1:
                tensor.normal_(0, 0.2)
            stored[name.replace(tower, f"{tower}vision_model.")] = tensor
    save_file(stored, folder / "model.safetensors", metadata={"format": "pt"})
    return folder
