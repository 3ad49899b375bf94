"""Losses beside each other on pictures that nobody has tuned settings on."""
