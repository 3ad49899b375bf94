"""Settings of `./launch.sh prepare own`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from omegaconf import MISSING

from unime.config.data import FOLLOW_LINKS
from unime.config.settings import BelowOne, FilePath, Seed, Settings, one_of, setting

# what a column of a table can be
COLUMN_PARTS = (
    *("image", "text", "query", "query_image", "query_text", "positive", "positive_image"),
    *("positive_text", "negative", "negative_image", "negative_text", "label", "instruction"),
    *("task", "group", "split", "id", "ignore"),
)


@dataclass
class OwnDataConfig(Settings):
    """Which data of anybody's become a prepared set (data_prep.own)."""

    path: FilePath = setting(MISSING, "a folder, a table, or whatever a reader takes")
    output_dir: FilePath = setting(MISSING, "the folder of the prepared set")
    reader: str | None = setting(
        None, "a name of data_prep.own.recognise.READERS; null: recognised"
    )
    columns: dict[str, Annotated[str, one_of(*COLUMN_PARTS)]] = setting(
        {}, "column of a table -> what it is; those that are not named are recognised"
    )
    captions: Annotated[str, one_of("sidecar", "class", "filename")] | None = setting(
        None, "where a folder of pictures has its captions"
    )
    directions: Annotated[str, one_of("t2i", "i2t", "both")] = setting(
        "both", "what is asked of pictures with captions: the picture, the caption, or each"
    )
    instruction: str | None = setting(
        None,
        "what kind of search it is, said with each query: a text, or one of MMEB's wordings "
        "(classification, vqa, t2i, i2t, i2i, grounding) with what belongs to the target; null: of "
        "pictures with captions that of their direction, else none",
    )
    target_instruction: str | None = setting(
        None, "said with each target; null: what belongs to the instruction"
    )
    held_out: BelowOne = setting(0.1, "share of the pairs that is the test split; 0: none")
    share_texts: bool | None = setting(
        None,
        "whether a text (a label, an answer) may be trained on and held out: only pictures, groups "
        "and queries of text are kept apart then; null: of class folders",
    )
    seed: Seed = setting(0, "of what is held out")
    image_root: FilePath | None = setting(None, "of the pictures; null: where the data lie")
    copy_images: bool = setting(
        False, "copy the pictures into the set; false: rows say where they lie"
    )
    follow_links: bool = setting(False, FOLLOW_LINKS)
    on_bad_row: Annotated[str, one_of("raise", "drop")] = setting(
        "raise", "all are listed in rejected.jsonl"
    )
    dry_run: bool = setting(
        False, "say what was recognised and would be written, and write nothing"
    )
