"""UniME: a multimodal LLM becomes a universal embedding model in two stages (arXiv 2504.17432)."""

import logging
from typing import TYPE_CHECKING

from unime.public import hand_on

if TYPE_CHECKING:
    from unime.config import InputConfig as InputConfig
    from unime.config import LoraSettings as LoraSettings
    from unime.config import ModelConfig as ModelConfig
    from unime.embedder import Embedder as Embedder
    from unime.inputs.items import Item as Item
    from unime.inputs.items import Pair as Pair
    from unime.models.encoder import Encoder as Encoder

# On some CPUs bitsandbytes recommends an optional kernel from a model hub at every start.
logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)

if not TYPE_CHECKING:
    __getattr__, __dir__, __all__ = hand_on(
        __name__,
        {
            "config": ["InputConfig", "LoraSettings", "ModelConfig"],
            "embedder": ["Embedder"],
            "inputs.items": ["Item", "Pair"],
            "models.encoder": ["Encoder"],
        },
    )
