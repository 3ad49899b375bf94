"""SugarCrepe: of two captions that differ in one thing, which one does the picture show?
(RAIVNLab/sugar-crepe, main_eval.py; arXiv 2306.14610)

Correct is only a caption that scores strictly above its negative: a tie is wrong (`ties_lose`). The
negative is listed first, and of equal scores the first ranks first.

Of the seven subsets Replace (3), Swap (2) and Add (2) are unweighted means, whatever their sizes,
as SugarCrepe's own table and UniME's have them: CLIP ViT-L/14's Replace is
(94.07 + 79.19 + 65.15) / 3 = 79.47. The suite's meta_task says which subset belongs to which.
"""

from __future__ import annotations

import json
from dataclasses import dataclass

from omegaconf import MISSING

from eval.tasks.base import EvalTask
from eval.tasks.caption_retrieval import check_caption, find_image
from eval.tasks.sources import EvalSource
from unime.errors import DataError
from unime.inputs.items import Item

CANDIDATES = ("negative_caption", "caption")  # in this order: see above
KEYS = ("filename", *CANDIDATES)


@dataclass(frozen=True)
class SugarCrepe:
    """A JSON file ``{"0": {"filename", "caption", "negative_caption"}, …}`` over COCO's val2017."""

    file: str = MISSING  # "data/replace_obj.json"
    repository: str = "RAIVNLab/sugar-crepe"  # on GitHub: a clone of it below data.root
    revision: str | None = None
    image_folder: str = "coco/val2017"  # below data.image_root, or data.root
    image_instruction: str = ""  # what is asked of a picture, beside the prompt preset's words
    text_instruction: str = ""  # and of a caption

    def read(self, name: str, source: EvalSource) -> EvalTask:
        path = source.file(self.repository, self.file, self.revision)
        try:
            rows = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError) as error:
            raise DataError(f"{path}: cannot read it: {error}") from None
        if not isinstance(rows, dict):
            raise DataError(f"{path}: got a {type(rows).__name__}, expected {{key: row}}")
        find = source.images().find
        queries, targets, names = [], [], []
        for key, row in list(rows.items())[: source.data.limit]:
            where = f"{path}, row {key!r}"
            if not isinstance(row, dict) or any(column not in row for column in KEYS):
                raise DataError(f"{where}: got {row!r}, expected {', '.join(KEYS)}")
            image = f"{self.image_folder}/{row['filename']}".removeprefix("/")
            found = find_image(find, image, f"{where}, 'filename'")
            queries.append(Item(images=(found,), instruction=self.image_instruction))
            for column in CANDIDATES:
                text = check_caption(row[column], f"{where}, {column!r}")
                targets.append(Item(text, instruction=self.text_instruction))
                names.append(f"{key}.{column}")
        candidates = [[2 * number, 2 * number + 1] for number in range(len(queries))]
        right = CANDIDATES.index("caption")
        relevance = [{pair[right]: 1.0} for pair in candidates]
        return EvalTask(
            name, len(rows), queries, targets, names, relevance, candidates, ties_lose=True
        )
