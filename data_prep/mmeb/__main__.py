"""MMEB's training and evaluation sets, ready for stage 2 and the evaluation.

    ./launch.sh prepare mmeb --dry-run                    sizes, times and rows, nothing is written
    ./launch.sh prepare mmeb                              downloads, verifies, unpacks
    ./launch.sh prepare mmeb train_source=FOLDER eval_source=FOLDER      from copies of yours
    ./launch.sh prepare mmeb sample=random seed=1 rows=20000 'subsets=[A-OKVQA, MSCOCO_i2t]'

Killed or stopped, the same command goes on, at the commit that was begun with. It writes into
train_dir stage2.yaml, the `data` section that trains on the chosen rows, for a copy of one of
configs/stage2/, and into both folders prepared.json, which says what was taken from where.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

from data_prep.mmeb.archives import Inside, look_through, unpack
from data_prep.mmeb.needed import Part, check_part, eval_part, train_part
from data_prep.mmeb.plan import print_plan
from data_prep.mmeb.record import Notes, unfit, write_record, write_stage2
from data_prep.mmeb.sources import check_file, open_source
from unime.config import MmebConfig
from unime.config.loader import built, parse_words, program_parser
from unime.config.reading.descriptions import commented
from unime.errors import ConfigError, DataError
from unime.runtime.files import writing
from unime.runtime.folder_lock import lock_folder
from unime.runtime.program import run_program
from unime.runtime.progress import progress_bar

ROOM = 1 << 30  # bytes of the disk that stay free


def main(argv: list[str] | None = None) -> None:
    config, is_dry = parse(argv)
    parts = list(open_parts(config))
    if is_dry:
        print_plan(config, parts)
        return
    for part in parts:
        lock_folder(f"{part.key}_dir", part.folder)
        if words := unfit(config, part):
            raise ConfigError(f"{part.key}_dir: {words}", f"{part.key}_dir")
    for part in parts:
        with writing(f"{part.key}_dir", part.folder):
            prepare(config, part)


def parse(argv: list[str] | None) -> tuple[MmebConfig, bool]:
    """The settings, from a YAML file if the first word names one, and whether it is only a plan."""
    parser = program_parser(MmebConfig)
    parser.add_argument("--dry-run", action="store_true", help="say what would be done")
    parser.add_argument("--print-config", action="store_true", help="show the settings and exit")
    args = parse_words(parser, argv)
    is_file = bool(args.overrides) and "=" not in args.overrides[0]
    path = Path(args.overrides[0]).expanduser() if is_file else None
    config = built(parser, MmebConfig, path, args.overrides[is_file:])
    if args.print_config:
        print(commented(config))
        parser.exit(0)
    return config, args.dry_run


def open_parts(config: MmebConfig) -> Iterator[Part]:
    """The parts that are asked for, with the files that there are of them."""
    if config.train:
        notes = Notes.of(Path(config.train_dir))
        revision = config.train_revision or notes.revision(config.train_source)
        yield train_part(config, open_source("train", config.train_source, revision))
    if config.eval:
        notes = Notes.of(Path(config.eval_dir))
        revision = config.eval_revision or notes.revision(config.eval_source)
        yield eval_part(config, open_source("eval", config.eval_source, revision))


def prepare(config: MmebConfig, part: Part) -> None:
    """Have one part in its folder, all of it looked at."""
    notes = Notes.of(part.folder).begun(part.source)
    tables = part.tables  # before anything large is downloaded
    if lacking := part.without_pictures():
        raise DataError(f"{part.source.name}: no archive of the pictures of {', '.join(lacking)}")
    for name in (file for files in tables.values() for file in files):
        _verified(part, notes, name, part.source.table(name, part.folder))
    for name in dict.fromkeys(part.archives.values()):
        if not notes.is_unpacked(part.source, name):
            _unpack(config, part, notes, name)
    counts = check_part(part, config.check_rows)
    write_record(config, part, notes, counts)
    print(f"{part.folder}: {sum(counts.values()):,} rows of {len(counts)} sets, pictures and all")
    if part.key == "train":
        print(write_stage2(config, part, counts))
    else:
        print(f"./launch.sh eval configs/eval/qwen2-vl-2b.yaml data.root={part.folder}")


def _verified(part: Part, notes: Notes, name: str, path: Path) -> None:
    listed = part.source.files[name]
    if notes.knows(name, path, listed):
        return
    with progress_bar(
        total=listed.size, desc=f"verifying {name}", unit="B", unit_scale=True
    ) as bar:
        notes.verified(name, path, check_file(path, listed, bar.update))


def _unpack(config: MmebConfig, part: Part, notes: Notes, name: str) -> None:
    path = part.source.archive(name, part.folder)
    _verified(part, notes, name, path)
    found = look_through(path)
    _ask_for_room(part, name, found)
    part.pictures.mkdir(parents=True, exist_ok=True)
    with progress_bar(total=found.size, desc=f"unpacking {name}", unit="B", unit_scale=True) as bar:
        unpack(path, part.pictures, bar.update)
    notes.unpacked(part.source, name, found)
    if part.source.is_remote and not config.keep_archives:
        path.unlink()


def _ask_for_room(part: Part, name: str, found: Inside) -> None:
    free = shutil.disk_usage(part.folder).free
    if found.size + ROOM > free:
        gigabytes = f"{found.size / 1e9:.1f} GB, and {free / 1e9:.1f} GB are free"
        raise ConfigError(f"{part.key}_dir: no room for the pictures of {name}: {gigabytes}")


if __name__ == "__main__":
    run_program(main)
