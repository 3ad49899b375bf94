"""What is wrong with pairs before a model sees them, found once and remembered."""
