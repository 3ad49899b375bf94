"""What a run needs to go on: adapters, the optimizer's moments, random states."""
