"""UniME: a multimodal LLM becomes a universal embedding model in two stages (arXiv 2504.17432)."""

import logging

# On some CPUs bitsandbytes recommends an optional kernel from a model hub at every start.
logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)
