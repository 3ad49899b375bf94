"""What a run will need, from its configuration alone."""

from unime.public import hand_on

__getattr__, __dir__, __all__ = hand_on(__name__, {"planner": ["make_plan"]})
