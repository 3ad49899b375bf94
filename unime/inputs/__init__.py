"""What is embedded: items, their pictures, and what a model is asked beside them."""
