"""Hard negatives from a whole corpus of texts, pictures and both."""

from unime.public import hand_on

__getattr__, __dir__, __all__ = hand_on(
    __name__,
    {
        "corpus": ["Corpus"],
        "miner": ["Miner", "Mined", "Tally"],
        "rules": ["Found", "Rule"],
    },
)
