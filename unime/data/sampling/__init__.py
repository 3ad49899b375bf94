"""What decides which rows share a batch, beside chance: their right answers, and clusters."""
