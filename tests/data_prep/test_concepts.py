"""The definitions of the demo's concepts: the sense that the picture shows, each for one thing."""

from __future__ import annotations

from collections import defaultdict

import pytest

from data_prep.demo.emoji import load_concepts
from data_prep.demo_base.build_concepts import SENSES, choose_definition

CONCEPTS = {concept.name: concept for concept in load_concepts()}

# Words with a better known or an earlier sense, and a word of the gloss that is meant.
SHOWN = {
    "fox": "mammal", "chicken": "fowl", "dolphin": "whales", "seal": "marine", "coral": "colonial",
    "peanuts": "pod", "chestnut": "nut", "bacon": "hog", "salt": "white", "honey": "sweet",
    "hot dog": "sausage", "doughnut": "friedcake", "egg": "fowl", "corn": "ears", "bell": "hollow",
    "church": "place", "bank": "building", "tram": "rails", "satellite": "equipment",
    "umbrella": "canopy", "kite": "plaything", "joystick": "manual", "balloon": "inflatable",
    "ribbon": "trimming", "crown": "headdress", "ring": "jewelry", "radio": "receiver",
    "shield": "armor", "toilet": "plumbing", "computer mouse": "cursor", "basketball": "inflated",
    "rescue helmet": "headgear", "purse": "bag", "trophy": "victory", "scroll": "rolled",
}  # fmt: skip
NOT_SHOWN = ("teddy bear", "christmas tree", "beach umbrella", "yarn", "polar bear", "palm tree")


@pytest.mark.parametrize("name", SHOWN)
def test_the_definition_is_of_what_the_picture_shows(name):
    assert SHOWN[name] in (CONCEPTS[name].definition or "").split()


@pytest.mark.parametrize("name", NOT_SHOWN)
def test_no_definition_rather_than_a_wrong_one(name):
    assert CONCEPTS[name].definition is None


def test_the_table_has_the_chosen_senses():
    for name, start in SENSES.items():
        definition = CONCEPTS[name].definition
        assert definition is None if start is None else (definition or "").startswith(start), name


def test_only_look_alikes_share_a_definition():
    owners = defaultdict(list)
    for concept in CONCEPTS.values():
        if concept.definition:
            owners[concept.definition].append(concept)
    for definition, sharing in owners.items():
        kinds = {concept.look_alike for concept in sharing}
        assert len(sharing) == 1 or (len(kinds) == 1 and None not in kinds), definition


def test_a_chosen_sense_must_be_there():
    right = f"{SENSES['fox']} (and ears); a predator"
    glosses = {"fox": ["English statesman", right]}
    assert choose_definition("fox", set(), glosses) == (SENSES["fox"], "fox")
    with pytest.raises(ValueError, match="not exactly one gloss"):
        choose_definition("fox", set(), {"fox": ["English statesman"]})
