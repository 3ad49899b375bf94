"""Ways to compute the same step faster or in less memory, each a setting of ``optim``."""
