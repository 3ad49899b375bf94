"""A real language model of 135 M parameters for stage 1, and texts to train and judge it on."""
