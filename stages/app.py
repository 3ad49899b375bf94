"""A page in your browser: search by a sentence, a picture or both, try labels, compare.

    ./launch.sh app                       runs/index, if it was made; else the demo's pictures
    ./launch.sh app my-index [key=value …]
    ./launch.sh app runs/qwen2-vl-2b/stage2 port=9000

INDEX is a folder that `index` made. A MODEL alone searches the demo's held-out pictures, or, where
the demo was not run, a few that are drawn for it; they are indexed at the first start, in runs/app.
The page is at a loopback address; elsewhere (host=0.0.0.0) it needs a key in UNIME_API_KEY, which
the browser asks for. Ctrl-C ends it.
"""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from stages.index import BASE, ROOT, default_model, is_setting
from unime.config import AppConfig, IndexConfig, InputConfig, ServeConfig
from unime.config.loader import built, parse_words, program_parser
from unime.config.searching import INDEX
from unime.errors import ConfigError, require_package
from unime.runtime.program import run_program
from unime.runtime.progress import quiet_transformers
from unime.search.about import fingerprint, model_of
from unime.search.index import Index

if TYPE_CHECKING:
    from unime.app.page import About

OWN = ROOT / "runs/app"  # indexes of what comes with the project, and drawings
DEMO, TASK = ROOT / "data/demo/test", "Emoji_t2i"
CAPTION = "Find an image that matches the given caption:"  # begins the demo's queries
EXAMPLES = 5
LABELS = ["an animal", "food", "a plant", "a building", "a vehicle", "clothes", "a face", "a tool"]
CONNECTIONS = 32  # a browser has six
UNTRAINED = (
    "This model, assets/base, is small and not trained to embed: most of its answers are wrong."
    " ./launch.sh demo trains it; app RUN takes another."
)


def main(argv: list[str] | None = None) -> None:
    config = parse(argv)
    for package in ("fastapi", "uvicorn", "prometheus_client", "qdrant_client"):
        require_package(package, "use", "app")
    from unime.app.page import make_page, make_service
    from unime.serving.access import Access
    from unime.serving.server import address_of, listen, run

    served = ServeConfig(
        "app",
        host=config.host,
        port=config.port,
        connections=CONNECTIONS,
        max_pixels=InputConfig().max_image_pixels,
    )
    Access(served)  # before a model is loaded
    quiet_transformers()
    with listen(served) as listening:
        index, about = opened(config)
        with index:
            service = make_service(index, served, about.model)
            looks = ROOT / "eval/page/static"
            style, elements = (
                (looks / name).read_text("utf-8") for name in ("page.css", "elements.js")
            )
            page = make_page(service, index, about, style, elements)
            for remark in about.remarks:
                print(remark)
            items = f"{index.store.count():,} items of {index.folder}"
            print(f"{items}, by {about.model}: {address_of(listening)}", flush=True)
            run(service, listening, page)


def parse(argv: list[str] | None) -> AppConfig:
    """MODEL or INDEX, if the first word is no setting, and settings."""
    parser = program_parser(AppConfig)
    parser.usage = "%(prog)s [MODEL|INDEX] [key=value …]"
    args = parse_words(parser, argv)
    words, given = [*args.overrides], {}
    if words and not is_setting(words[0]):
        named = os.path.expanduser(words.pop(0))
        given["model" if model_of(named) is None else "index"] = named
    return replace(built(parser, AppConfig, None, words), **given)


def opened(config: AppConfig) -> tuple[Index, About]:
    """The index that is searched, and what the page says of it.

    Raises:
        ConfigError: there is no such index or model, or another program has the index.
    """
    from unime.app.page import About

    folder = config.index
    if folder is None and config.model is None and model_of(INDEX) is not None:
        folder = INDEX
    if folder is None:
        return of_demo(config)
    if model_of(folder) is None:
        reason = f"index: {folder} is none; ./launch.sh index FOLDER {folder} makes it"
        raise ConfigError(reason, "index")
    index = Index(folder, config.model, IndexConfig(index=folder, device=config.device))
    name = Path(index.embedder.name)
    remarks = [UNTRAINED] if name == BASE else []
    return index, About(f"Search {Path(folder).resolve().name}", name.name, remarks)


def of_demo(config: AppConfig) -> tuple[Index, About]:
    """An index of the demo's held-out pictures, or of a few drawings, made at the first start."""
    from unime.app.page import About
    from unime.embedder import Embedder

    embedder = Embedder(config.model or default_model(), device=config.device)
    pictures, table = DEMO / "images" / TASK, DEMO / TASK / "test-00000-of-00001.parquet"
    is_run = pictures.is_dir() and table.is_file()
    if is_run:
        captions = captions_of(table)
    else:
        from data_prep.demo.samples import draw_samples

        pictures = OWN / "pictures"
        captions = draw_samples(pictures)
    kind = "demo" if is_run else "drawings"
    index = Index(OWN / f"{kind}-{fingerprint(embedder)[:12]}", embedder)
    try:
        index.update(pictures, say=lambda line: print(line, flush=True))
    except BaseException:
        index.close()
        raise
    is_base = Path(embedder.name) == BASE
    return index, About(
        f"Search {index.store.count()} drawings",
        Path(embedder.name).name,
        [UNTRAINED] if is_base else [],
        "" if is_base else CAPTION,
        captions[:EXAMPLES],
        LABELS,
    )


def captions_of(table: Path) -> list[str]:
    """What the demo's queries ask for."""
    import pyarrow.parquet as pq

    queries = pq.read_table(table, columns=["qry_text"]).column(0).to_pylist()
    return [query.removeprefix(CAPTION).strip() for query in queries]


if __name__ == "__main__":
    run_program(main)
