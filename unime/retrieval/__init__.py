"""Embedding many items with any encoder, keeping the vectors, and ranking by them."""

from unime.public import hand_on

__getattr__, __all__ = hand_on(
    __name__,
    {
        "embedding_store": ["EmbeddingStore"],
        "encoding": ["encode_items"],
        "loading": ["load_embedder"],
        "ranking": ["rank_targets", "ranking_metrics"],
    },
)
