"""The two stages' one loop: the cached step, engines, checkpoints, collapse."""
