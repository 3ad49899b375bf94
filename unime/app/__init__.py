"""A page on this machine: search an index by words and pictures, try labels, compare."""
