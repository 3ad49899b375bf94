"""A multimodal LLM with its adapters and processor as an encoder of items."""
