"""Tiny random models of real families, with real processors."""
