"""What each family of multimodal LLMs does in its own way."""
