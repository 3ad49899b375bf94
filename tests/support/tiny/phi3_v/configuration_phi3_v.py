"""See tests/support/tiny/phi3_v_checkpoint.py."""

from transformers.configuration_utils import PretrainedConfig

DEFAULTS = {
    "vocab_size": 1,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 4096,
    "original_max_position_embeddings": 256,
    "initializer_range": 0.2,
    "sliding_window": None,
    "embd_layer": "default",
    "use_cache": True,
}


class Phi3VConfig(PretrainedConfig):
    model_type = "phi3_v"

    def __init__(self, rope_scaling=None, rope_theta=10000.0, **kwargs):
        for name, value in DEFAULTS.items():
            setattr(self, name, kwargs.pop(name, value))
        self.rope_theta, self.rope_scaling = rope_theta, rope_scaling
        if len(rope_scaling) != 3 or rope_scaling["type"] != "su":
            raise ValueError(f"rope_scaling must have three fields, got {rope_scaling}")
        super().__init__(**kwargs)
