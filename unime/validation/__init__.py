"""Scores while training, on rows that are held out or on a suite."""

from unime.public import hand_on

__getattr__, __dir__, __all__ = hand_on(
    __name__,
    {
        "measure": ["Validation"],
    },
)
