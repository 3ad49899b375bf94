"""UniME: a multimodal LLM becomes a universal embedding model in two stages (arXiv 2504.17432)."""

import logging
from typing import TYPE_CHECKING

from unime.public import hand_on

if TYPE_CHECKING:
    from unime.config import InputConfig, LoraSettings, ModelConfig  # noqa: F401
    from unime.inputs.items import Item, Pair  # noqa: F401
    from unime.models.encoder import Encoder  # noqa: F401

# On some CPUs bitsandbytes recommends an optional kernel from a model hub at every start.
logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)

__getattr__, __all__ = hand_on(
    __name__,
    {
        "config": ["InputConfig", "LoraSettings", "ModelConfig"],
        "inputs.items": ["Item", "Pair"],
        "models.encoder": ["Encoder"],
    },
)
