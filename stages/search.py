"""Search in an index by a sentence, a picture, or both.

    ./launch.sh search "a dog on a beach" [INDEX] [key=value …]
    ./launch.sh search --image holiday.jpg [INDEX]
    ./launch.sh search "the same, but blue" --image car.jpg limit=5 kind=picture below=~/pictures

Prints score and path of what was found (of a text the line, of a PDF file the page), with small
pictures in terminals that say that they show them (kitty, iTerm2, WezTerm); --json prints one JSON
object a line instead.
"""

from __future__ import annotations

import json
import sys
from dataclasses import asdict, fields, replace
from itertools import takewhile
from pathlib import Path

from stages.index import is_setting
from unime.config.loader import built, parse_words, program_parser
from unime.config.searching import IndexConfig, SearchConfig
from unime.errors import ConfigError, in_a_line, in_plain_words
from unime.runtime.program import run_program
from unime.runtime.progress import quiet_transformers
from unime.search.about import ABOUT, model_of
from unime.search.index import Index
from unime.search.outcome import Hit
from unime.search.terminal import picture_codes, shows_pictures

LONGEST = 160  # characters of a passage
KEYS = {setting.name for setting in fields(SearchConfig)}


def main(argv: list[str] | None = None) -> None:
    config, as_json = parse(argv)
    if model_of(config.index) is None:
        raise ConfigError(
            f"index: {config.index} is none; ./launch.sh index FOLDER {config.index} makes it",
            "index",
        )
    quiet_transformers()
    asked = {"text": config.text, "instruction": config.instruction, "image": config.image}
    with Index(config.index, None, IndexConfig(device=config.device)) as index:
        try:
            found = index.search(
                asked,
                config.limit,
                kind=config.kind,
                below=config.below,
                dimensions=config.dimensions,
            )
        except ValueError as error:
            raise ConfigError(in_plain_words(error)) from None
        show(found, as_json)


def show(found: list[Hit], as_json: bool) -> None:
    """Print what was found, the best first."""
    protocol = "" if as_json else shows_pictures(sys.stdout)
    for hit in found:
        if as_json:
            print(json.dumps(asdict(hit), ensure_ascii=False))
            continue
        text = in_a_line(hit.text)
        text = f"{text[:LONGEST]} …" if len(text) > LONGEST else text
        print(f"{hit.score:.3f}  {in_a_line(hit.where)}" + f"\n       {text}" * bool(text))
        if protocol and (codes := picture_codes(hit, protocol)):
            print(codes)
    if not found and not as_json:
        print("nothing was found")


def parse(argv: list[str] | None) -> tuple[SearchConfig, bool]:
    """TEXT, INDEX if the second word is no setting, and settings; whether to print JSON. Beside an
    image one word that is an index's folder is the INDEX."""
    parser = program_parser(SearchConfig)
    parser.usage = "%(prog)s [TEXT] [INDEX] [--image FILE] [--json] [key=value …]"
    parser.add_argument("--image", metavar="FILE")
    parser.add_argument("--json", action="store_true")
    args = parse_words(parser, argv)
    words, given = [*args.overrides], {}
    if args.image is not None:
        given["image"] = args.image
    for key in _plain_keys(words, args.image is not None):
        given[key] = words.pop(0)
    config = replace(built(parser, SearchConfig, None, words), **given)
    if not config.text.strip() and config.image is None:
        parser.exit(2, "error: got nothing to look for, expected a text, --image FILE, or both\n")
    if config.image is not None and not Path(config.image).is_file():
        parser.exit(2, f"error: image: there is no file {in_a_line(config.image)}\n")
    return config, args.json


def _plain_keys(words: list[str], is_like_image: bool) -> list[str]:
    """What the first words are that are no settings."""
    named = [word.partition("=")[0] for word in words]
    plain = [*takewhile(lambda word: not is_setting(word), words)][:2]
    if is_like_image and len(plain) == 1 and "index" not in named:
        is_index = (Path(plain[0]).expanduser() / ABOUT).is_file()
        return ["index"] if is_index else ["text"]
    if words and not plain and not is_like_image and not {"text", named[0]} & {*named} & KEYS:
        plain = [words[0], *takewhile(lambda word: not is_setting(word), words[1:2])]  # "a=b"
    return ["text", "index"][: len(plain)]


if __name__ == "__main__":
    run_program(main)
