"""What each family of multimodal LLMs does in its own way."""

from unime.public import hand_on

__getattr__, __dir__, __all__ = hand_on(
    __name__,
    {
        "backbone": ["Backbone"],
        "families": ["BACKBONES", "backbone_of"],
    },
)
