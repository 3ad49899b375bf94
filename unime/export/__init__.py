"""Models that other libraries load, and the card that says what they are."""

from unime.public import hand_on

__getattr__, __dir__, __all__ = hand_on(
    __name__, {"merged": ["save_combined_adapter", "save_merged"]}
)
