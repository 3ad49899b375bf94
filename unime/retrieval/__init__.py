"""Embedding many items with any encoder, keeping the vectors, and ranking by them."""
