"""Where a teacher's embeddings come from: a model here, an endpoint, or a file."""
