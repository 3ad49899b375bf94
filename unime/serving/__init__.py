"""A service that clients of several embedding APIs use unchanged: each dialect is read into one
list of items, which all go through :class:`unime.Embedder` with the model's trained prompt."""
