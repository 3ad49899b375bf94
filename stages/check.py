"""Whether stores of embeddings hold what was written into them: every record, vector and digest.

    python -m stages.check STORE [repair=true]

STORE is a teacher's output_dir, or an evaluation's store or output_dir, which may hold several.
With repair=true damaged rows are taken out: the command that made the store embeds them again, and
only them. The exit status is 0 when all is sound (or repaired), 1 when something is damaged.
"""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

from unime.config import CheckConfig
from unime.config.loader import built, parse_words, program_parser
from unime.data.stores.check import check_store, find_stores
from unime.runtime.program import run_program


def main(argv: list[str] | None = None) -> None:
    config = parse(argv)
    all_sound, helps, half_written = True, False, 0
    for folder in find_stores(Path(config.store)):
        for findings in check_store(folder, config.repair):
            print(findings.in_words(), flush=True)
            all_sound &= findings.is_sound
            helps |= not (findings.is_sound or findings.problem or config.repair)
            half_written += findings.half_written
    if not all_sound:
        print(f"damaged{'; repair=true takes out such rows' if helps else ''}")
        raise SystemExit(1)
    lost = f", but for {half_written} half-written rows: the next run embeds them again"
    print(f"sound{lost if half_written else ''}")


def parse(argv: list[str] | None) -> CheckConfig:
    parser = program_parser(CheckConfig)
    parser.add_argument("store", metavar="STORE")
    args = parse_words(parser, argv)
    config = built(parser, CheckConfig, None, [*args.overrides, "store=STORE"])
    return replace(config, store=os.path.expanduser(args.store))


if __name__ == "__main__":
    run_program(main)
