"""What kind of search it is, in words that models of MMEB know."""

from __future__ import annotations

from dataclasses import dataclass

from data_prep.own.readers.base import SourceItem
from unime.config import OwnDataConfig
from unime.inputs.items import Item


@dataclass(frozen=True)
class Instruction:
    """What is said with a query and with its targets."""

    query: str = ""
    target: str = ""


SHOWN = "Represent the given image."
# MMEB's "original" wordings of ImageNet_1K, OK-VQA, MSCOCO_t2i, MSCOCO_i2t, NIGHTS and MSCOCO
PRESETS = {
    "classification": Instruction("Represent the given image for classification."),
    "vqa": Instruction("Represent the given image with the following question:"),
    "t2i": Instruction("Find me an everyday image that matches the given caption:", SHOWN),
    "i2t": Instruction("Find an image caption describing the given everyday image."),
    "i2i": Instruction("Find a day-to-day image that looks similar to the provided image.", SHOWN),
    "grounding": Instruction(
        "Select the portion of the image that isolates the object labeled as",
        "Represent the given cropped image of the object.",
    ),
}


def instruction_of(config: OwnDataConfig, direction: str | None) -> Instruction:
    """Of a row that asks in this direction.

    Args:
        direction: "t2i" or "i2t" of pictures with captions; None: the data say what is asked.
    """
    if config.instruction is not None:
        found = PRESETS.get(config.instruction, Instruction(config.instruction))
    elif direction == "i2t" and config.captions == "class":
        found = PRESETS["classification"]
    else:
        found = Instruction() if direction is None else PRESETS[direction]
    target = config.target_instruction
    return found if target is None else Instruction(found.query, target)


def instructed(item: SourceItem, images: tuple[str, ...], words: str) -> Item:
    """An item with its own instruction, or else this."""
    own = words if item.instruction is None else item.instruction
    return Item(item.text, images, instruction=own)
