"""What a model is asked beside an item: one table of presets.

The default is the paper's (UniME, section 3.2.2 and its published evaluation code): the item, then
"Summary above … in one word:", so that the last token's state sums the item up."""

from __future__ import annotations

from dataclasses import dataclass, replace

from unime.errors import ConfigError


@dataclass(frozen=True)
class Preset:
    """What the user says, by the kind of the item: ``{text}`` is its own text after its task
    instruction, ``{media}`` is "image", "video" or "image and video"."""

    text: str
    media: str
    both: str
    raw: bool = False  # no chat format; ``{images}`` are the image tokens
    system: str | None = None  # system turn where the item has no instruction; None: it has no turn
    silences: bool = False  # leaves out a system turn that the chat template would put in by itself


# Paper 3.2.2 and its published evaluation code. It never asked about a video: "video" is ours.
UNIME = Preset(
    text="{text}\nSummary above sentence in one word:",
    media="Summary above {media} in one word:",
    both="{text}\nSummary above {media} and sentence in one word:",
)
PRESETS = {
    "unime": UNIME,
    # The same without the default system turn of a template, half of the tokens of a short text.
    "unime-silent": replace(UNIME, silences=True),
    # UniME-V2's published demo, without a chat format; rows with image and text are MMEB's.
    "unime-v2": Preset(
        text="{text}",
        media="{images} Find an image caption describing the given {media}.",
        both="{images}\n{text}\n",
        raw=True,
    ),
    # VLM2Vec was trained on the very strings of MMEB's rows. This is the white space of most. Items
    # of the others hold what their row has between image and text and at the end, and no more: see
    # unime/data/mmeb_rows.py, _spacing, for the rows whose string is another one here.
    "vlm2vec": Preset(
        text="{text}",
        media="{images}\nRepresent the given {media}.\n",
        both="{images}\n{text}\n",
        raw=True,
    ),
    # E5-V's README and retrieval.py, its space at the end and its spelling: what it was trained on.
    "e5v": Preset(
        text="{text}\nSummary above sentence in one word: ",
        media="Summary above {media} in one word: ",
        both='Modify this {media} with "{text}", desribe modified {media} in one word: ',
    ),
    # The item alone, its task in the system turn (Qwen3-VL-Embedding's form and default).
    "instruct": Preset("{text}", "", "{text}", system="Represent the user's input."),
    # Nothing of ours: the chat template says it all, as that of a model that unime exported does.
    "chat": Preset("{text}", "", "{text}"),
}


def preset_named(name: str) -> Preset:
    if name not in PRESETS:
        raise ConfigError(f"inputs.prompt: got {name!r}, expected one of {', '.join(PRESETS)}")
    return PRESETS[name]
