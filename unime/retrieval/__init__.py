"""Embedding many items with any encoder, and ranking by their vectors."""

from unime.public import hand_on

__getattr__, __dir__, __all__ = hand_on(
    __name__,
    {
        "encoding": ["encode_items"],
        "loading": ["load_embedder"],
        "ranking": ["rank_targets", "ranking_metrics"],
    },
)
