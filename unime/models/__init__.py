"""A multimodal LLM with its adapters and processor as an encoder of items."""

from unime.public import hand_on

__getattr__, __dir__, __all__ = hand_on(
    __name__,
    {
        "encoder": ["Encoder"],
        "item_processor": ["ItemProcessor"],
    },
)
