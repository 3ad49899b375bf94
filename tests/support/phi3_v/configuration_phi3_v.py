"""See tests/support/phi3_v_checkpoint.py."""

from transformers.configuration_utils import PretrainedConfig


class Phi3VConfig(PretrainedConfig):
    model_type = "phi3_v"

    def __init__(
        self,
        vocab_size=1,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=4096,
        original_max_position_embeddings=256,
        initializer_range=0.2,
        rope_theta=10000.0,
        rope_scaling=None,
        sliding_window=None,
        embd_layer="default",
        use_cache=True,
        **kwargs,
    ):
        self.vocab_size, self.hidden_size = vocab_size, hidden_size
        self.intermediate_size, self.num_hidden_layers = intermediate_size, num_hidden_layers
        self.num_attention_heads, self.use_cache = num_attention_heads, use_cache
        self.max_position_embeddings = max_position_embeddings
        self.original_max_position_embeddings = original_max_position_embeddings
        self.initializer_range, self.embd_layer = initializer_range, embd_layer
        self.sliding_window = sliding_window
        self.rope_theta, self.rope_scaling = rope_theta, rope_scaling
        if len(rope_scaling) != 3 or rope_scaling["type"] != "su":
            raise ValueError(f"rope_scaling must have three fields, got {rope_scaling}")
        super().__init__(**kwargs)
