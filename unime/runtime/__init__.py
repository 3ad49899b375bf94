"""Processes, files and machine: how a program runs, writes and ends."""

from unime.public import hand_on

__getattr__, __dir__, __all__ = hand_on(__name__, {"program": ["run_program"]})
