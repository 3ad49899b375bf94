"""Search in folders of pictures, texts and PDF files: an index that follows its files."""

from unime.public import hand_on

__getattr__, __dir__, __all__ = hand_on(
    __name__, {"index": ["Index"], "outcome": ["Hit", "Report"]}
)
