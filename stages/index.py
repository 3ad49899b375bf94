"""An index of your pictures, texts and PDF files, which `search` and `app` look in.

    ./launch.sh index ~/pictures                          in runs/index, by the demo's model
    ./launch.sh index ~/pictures my-index model=runs/qwen2-vl-2b/stage2 [key=value …]
    ./launch.sh index ~/pictures my-index forget=true     takes the folder out again

Only files that are new or have changed are embedded, those that are gone leave, and other folders
that were indexed before stay. A folder that is gone as a whole may be on a disk that is not
mounted: what the index has of it leaves by forget=true alone. Killed or stopped, the same command
goes on. What cannot be read is listed with its reason in INDEX/unreadable.json, and tried again
when it changes.
"""

from __future__ import annotations

from pathlib import Path

from unime.config.loader import built, parse_words, program_parser
from unime.config.searching import IndexConfig
from unime.runtime.files import write_json
from unime.runtime.program import run_program
from unime.runtime.progress import quiet_transformers
from unime.search.about import model_of
from unime.search.index import Index

ROOT = Path(__file__).resolve().parent.parent
DEMO, BASE = ROOT / "runs/demo/stage1_stage2", ROOT / "assets/base"
UNREADABLE = "unreadable.json"
SHOWN = 10  # reasons


def main(argv: list[str] | None = None) -> None:
    config = parse(argv)
    quiet_transformers()
    model = config.model or model_of(config.index) or default_model()
    with Index(config.index, model, config) as index:
        if config.forget:
            report = index.forget(config.folder)
        else:
            report = index.update(
                config.folder, config.follow_links, lambda line: print(line, flush=True)
            )
            write_json(index.folder / UNREADABLE, report.unreadable)
        for line in report.lines():
            print(line)
        for reason in list(report.unreadable.values())[:SHOWN]:
            print(f"  {reason}")
        if report.unreadable:
            print(f"all of them: {index.folder / UNREADABLE}")
        print(f"index: {index.folder}, {index.store.count():,} items, by {index.embedder.name}")


def parse(argv: list[str] | None) -> IndexConfig:
    """FOLDER, INDEX if the second word is no setting, and settings."""
    parser = program_parser(IndexConfig)
    parser.usage = "%(prog)s FOLDER [INDEX] [key=value …]"
    args = parse_words(parser, argv)
    words = [*args.overrides]
    for number, key in enumerate(("folder", "index")):
        if number < len(words) and not is_setting(words[number]):
            words[number] = f"{key}={words[number]}"
    return built(parser, IndexConfig, None, words)


def is_setting(word: str) -> bool:
    """Whether it is key=value, and not a text or path that has a sign in it."""
    key, sign, _ = word.partition("=")
    return bool(sign) and key.replace(".", "").replace("_", "").isalpha()


def default_model() -> str:
    """The demo's, where it was trained; else the small base, which is no embedder yet."""
    if (DEMO / "final").is_dir():
        return str(DEMO)
    print(f"model: {BASE}, untrained, finds little; model=RUN names a trained one", flush=True)
    return str(BASE)


if __name__ == "__main__":
    run_program(main)
