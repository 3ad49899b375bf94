"""Scores while training, on rows that are held out or on a suite."""
