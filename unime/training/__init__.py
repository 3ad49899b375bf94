"""The two stages' one loop: the cached step, engines, checkpoints."""

from unime.public import hand_on

__getattr__, __dir__, __all__ = hand_on(
    __name__,
    {
        "chunks": ["ChunkLimits"],
        "collator": ["PairCollator", "TextCollator"],
        "grad_cache": ["cached_backward"],
        "loop": ["train"],
        "run": ["start_run"],
    },
)
