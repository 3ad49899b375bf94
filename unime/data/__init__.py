"""What is trained on: texts, pairs, embeddings on disk, and the order of rows."""

from unime.public import hand_on

__getattr__, __dir__, __all__ = hand_on(
    __name__,
    {
        "embedding_store": ["EmbeddingStore", "StoredEmbeddings"],
        "datasets": ["PairDataset", "TextDataset"],
        "sampler": ["GlobalBatchSampler"],
        "teacher_store": ["open_store"],
    },
)
