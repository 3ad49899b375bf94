"""Stores of embeddings as they lie on the disk: their files, and whether these are whole."""
