"""Ways to compute the same step faster or in less memory; those that cost something are settings
of ``optim``."""
