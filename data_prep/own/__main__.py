"""Somebody's data as a prepared set: pairs in one form, a part of them held out.

    python -m data_prep.own PATH OUT [key=value …] [--dry-run]
    ./launch.sh prepare own ~/pictures data/own captions=sidecar
    ./launch.sh prepare own pets.csv data/pets columns.foto=image columns.what=text directions=t2i

PATH is a folder of pictures, tables (CSV, TSV, JSON, JSONL, Parquet), or what a reader of
data_prep/own/readers/ takes. OUT is then `data.root` of stage 2, and of an evaluation with
`data.suite=OUT/suite.yaml`:

    OUT/<task>/{train,test}-00000-of-00001.parquet   pairs
    OUT/images/                                      copies of pictures, if they are copied
    OUT/suite.yaml, OUT/rejected.jsonl, OUT/set.json what is held out, bad rows, how it was made

No picture, text or group is both trained on and held out. Killed, the same command goes on; typed
again, it says that the set is there. With --dry-run nothing is written.
"""

from __future__ import annotations

import os
import shutil
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from data_prep.own.pictures import IMAGES, Pictures
from data_prep.own.readers.base import Reader
from data_prep.own.recognise import open_reader
from data_prep.own.split import Split, split
from data_prep.own.state import state_beside, state_of
from data_prep.own.survey import Survey, survey
from data_prep.own.write import examples_in_words, write_set
from unime.config import OwnDataConfig
from unime.config.loader import built, parse_words, program_parser
from unime.config.reading.descriptions import made_otherwise
from unime.data.prepared.folder import PreparedSet
from unime.data.tables import image_folder
from unime.errors import ConfigError, DataError, in_a_line
from unime.runtime.files import read_json, sync, write_json, writing
from unime.runtime.folder_lock import NAME as LOCK
from unime.runtime.folder_lock import lock_folder
from unime.runtime.program import run_program

WORK = ".work"  # the folder of what is kept until the set is written
MADE_OF = "made_of.json"
REJECTED = "rejected.jsonl"


def main(argv: list[str] | None = None) -> None:
    config = parse(argv)
    out = Path(os.path.abspath(config.output_dir))
    if config.dry_run:
        reader, why = open_reader(config)
        pictures = _pictures(reader, config, None)
        found = survey(reader, config, pictures, None)
        say(reader, why, found, split(found, config, reader, pictures), True)
        if found.bad:
            print(f"bad rows, of {found.counts()['bad rows']}:")
            print(*(f"  {bad.where}: {bad.reason}" for bad in found.bad), sep="\n")
        if refusal := unfit(out, made_of(config), config):
            print(f"it would be refused: {refusal}")
        return
    lock_folder("output_dir", out)
    with writing("output_dir", out):
        made = made_of(config)
        if is_new(out, made, config):
            prepare(out, config, made)
        else:
            print(f"{out}: is there already, of the same data and settings")


def parse(argv: list[str] | None) -> OwnDataConfig:
    parser = program_parser(OwnDataConfig)
    parser.add_argument("path", metavar="PATH")
    parser.add_argument("out", metavar="OUT")
    parser.add_argument("--dry-run", action="store_true", help="the same as dry_run=true")
    args = parse_words(parser, argv)
    words = [*args.overrides, "path=PATH", "output_dir=OUT"]
    words += ["dry_run=true"] if args.dry_run else []
    config = built(parser, OwnDataConfig, None, words)
    path, out = os.path.expanduser(args.path), os.path.expanduser(args.out)
    if Path(os.path.realpath(out)).is_relative_to(os.path.realpath(path)):
        parser.exit(2, f"error: output_dir: {in_a_line(out)} lies in the data, {in_a_line(path)}\n")
    return replace(config, path=path, output_dir=out)


def prepare(out: Path, config: OwnDataConfig, made: dict[str, Any]) -> None:
    """Write the set.

    Args:
        made: settings and data, by `made_of`.

    Raises:
        DataError: data that cannot be used.
    """
    reader, why = open_reader(config)
    pictures = _pictures(reader, config, out / WORK / "pictures")
    found = survey(reader, config, pictures, out / REJECTED)
    if found.bad and config.on_bad_row == "raise":
        first, count = found.bad[0], found.counts()["bad rows"]
        raise DataError(
            f"{first.where}: {first.reason}; {count} of {len(found.rows)} rows are bad, see"
            f" {out / REJECTED}; on_bad_row=drop leaves them out"
        )
    done = split(found, config, reader, pictures)
    copies, remarks = write_set(out, reader, config, found, done, pictures)
    remarks = [*done.remarks, *remarks]
    source: dict[str, Any] = made | {
        "beside": found.beside,
        "recognised": [why, *reader.recognised],
        "counts": found.counts(),
        "remarks": remarks,
    }
    root = "" if copies else reader.image_root
    sync(out)
    PreparedSet(root, done.sizes, source).write(out)
    shutil.rmtree(out / WORK)
    say(reader, why, found, replace(done, remarks=remarks), False)
    print(f"{out}: written; ./launch.sh tune {config.output_dir} trains on it")


def say(reader: Reader, why: str, found: Survey, done: Split, is_dry: bool) -> None:
    """What was recognised, how much of it there is, what it looks like."""
    print(why)
    print(*(f"  {line}" for line in reader.recognised), sep="\n")
    print(", ".join(f"{count} {name}" for name, count in found.counts().items()))
    for task, sizes in done.sizes.items():
        verb = "would be" if is_dry else "are"
        print(f"{task}: {sizes['train']} pairs {verb} trained on, {sizes['test']} held out")
    print(*done.remarks, sep="\n")
    for kind, (number, first) in found.passed_over.items():
        print(f"passed over, {kind}: {number}, {first}{', …' * (number > 1)}")
    if is_dry:
        print("examples:", *examples_in_words(found.examples), sep="\n  ")


def made_of(config: OwnDataConfig) -> dict[str, Any]:
    """Settings and data, by which a set is known again, but for what the rows show beside them."""
    settings = asdict(config) | {"output_dir": "", "dry_run": False}
    settings["path"] = os.path.abspath(config.path) if os.path.exists(config.path) else config.path
    return {"settings": settings, "data": state_of(Path(config.path))}


def is_new(out: Path, made: dict[str, Any], config: OwnDataConfig) -> bool:
    """Whether there is something to do: what another command left half-written goes, but for what
    is known of pictures.

    Raises:
        ConfigError: the folder holds something else.
    """
    if refusal := unfit(out, made, config):
        raise ConfigError(f"output_dir: {refusal}", "output_dir")
    work = out / WORK
    if PreparedSet.of(out) is not None:
        shutil.rmtree(work, ignore_errors=True)
        return False
    entries = _entries(out)
    work.mkdir(exist_ok=True)
    is_same = (work / MADE_OF).is_file() and read_json(work / MADE_OF) == made
    for path in entries:
        if path.is_dir():
            if path.name != IMAGES or not is_same:
                shutil.rmtree(path)
        else:
            path.unlink()
    write_json(work / MADE_OF, made)
    return True


def unfit(out: Path, made: dict[str, Any], config: OwnDataConfig) -> str:
    """Why a set cannot be written into a folder, or is none of this command's; "": it is."""
    there = PreparedSet.of(out)
    if there is not None:
        beside = there.source.get("beside", "")  # sets of older versions do not say it
        words = made_otherwise(out, _parts(there.source), _parts(made | {"beside": beside}))
        if beside and not words:  # of equal data rows are the same, and show files beside them
            made = made | {"beside": state_beside(open_reader(config)[0], config)}
            words = made_otherwise(out, _parts(there.source), _parts(made))
        return words
    if not _is_begun(out):
        return f"{out} exists already, and is no prepared set"
    return ""


def _is_begun(out: Path) -> bool:
    """Whether this program began what lies in a folder, or nothing does."""
    work = out / WORK
    held = [*_entries(out), *(work.iterdir() if work.is_dir() else ())]
    return (work / MADE_OF).is_file() or all(path.name.startswith(MADE_OF) for path in held)


def _entries(out: Path) -> list[Path]:
    entries = out.iterdir() if out.is_dir() else ()
    return [path for path in entries if path.name not in (LOCK, WORK)]


def _parts(made: dict[str, Any]) -> dict[str, Any]:
    """Settings by their names, those of an older version that had fewer, and the data."""
    usual = asdict(OwnDataConfig(".", "."))
    data = [made.get("data"), made.get("beside", "")]
    return usual | made.get("settings", {}) | {"data": data}


def _pictures(reader: Reader, config: OwnDataConfig, notes: Path | None) -> Pictures:
    folder = image_folder(reader.image_root, reader.image_root, [], config.follow_links)
    return Pictures(folder, notes, config.inputs.max_image_pixels)


if __name__ == "__main__":
    run_program(main)
