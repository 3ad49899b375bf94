"""How each API asks, answers and refuses: OpenAI (with vLLM's, SGLang's and Jina's forms), Cohere,
Voyage and Weaviate's container."""
