"""What is trained on: texts, pairs, the teacher's embeddings, and the order of rows."""
