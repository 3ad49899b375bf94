"""What is trained on: texts, pairs, the teacher's embeddings, and the order of rows."""

from unime.public import hand_on

__getattr__, __all__ = hand_on(
    __name__,
    {
        "datasets": ["PairDataset", "TextDataset"],
        "sampler": ["GlobalBatchSampler"],
        "teacher_store": ["TeacherStore"],
    },
)
