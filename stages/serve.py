"""A trained model as a service that clients of OpenAI, vLLM, Cohere, Voyage, Jina and Weaviate use.

    python -m stages.serve runs/qwen2-vl-2b/stage2 [key=value …]
    python -m stages.serve models/my-embedder port=8080 names='[text-embedding-3-large]'
    UNIME_API_KEY=… python -m stages.serve me/my-embedder host=0.0.0.0

MODEL is a run, an exported folder, an adapter or a hub id. Every route embeds with the prompt that
the model was trained with. docs/serving.md has each client's lines. SIGTERM and Ctrl-C let it
answer what it has accepted.
"""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

from unime.config import ServeConfig
from unime.config.loader import built, parse_words, program_parser
from unime.errors import require_package
from unime.runtime.program import run_program
from unime.runtime.progress import quiet_transformers


def main(argv: list[str] | None = None) -> None:
    parser = program_parser(ServeConfig)
    parser.add_argument("model", metavar="MODEL")
    args = parse_words(parser, argv)
    config = built(parser, ServeConfig, None, [*args.overrides, "model=MODEL"])
    config = replace(config, model=os.path.expanduser(args.model))
    for package in ("fastapi", "uvicorn", "prometheus_client"):
        require_package(package, "use", "serve")
    serve(config)


def serve(config: ServeConfig) -> None:
    """Load the model and serve it.

    Raises:
        ConfigError: there is no such model, or others could reach it without a key.
        OSError: the address cannot be listened at.
    """
    from unime.embedder import Embedder
    from unime.serving.access import Access
    from unime.serving.server import address_of, listen, run
    from unime.serving.service import Service
    from unime.training.kernels.heap import return_large_blocks

    return_large_blocks()  # a batch of pictures would leave a third of its memory on the heap
    Access(config)  # before a model is loaded
    quiet_transformers()
    with listen(config) as listening:
        embedder = Embedder(
            config.model,
            device=config.device or None,
            precision=config.precision.value if config.precision else None,
            quantization=config.quantization.value if config.quantization else None,
            trust_remote_code=config.trust_remote_code,
        )
        names = config.names or [Path(config.model).name]
        service = Service(embedder, config, names)
        place = address_of(listening)
        print(f"serving {names[0]} ({embedder.dimension} dimensions) at {place}", flush=True)
        run(service, listening)


if __name__ == "__main__":
    run_program(main)
