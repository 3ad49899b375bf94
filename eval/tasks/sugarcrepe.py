"""SugarCrepe: of two captions that differ in one thing, which one does the picture show?
(RAIVNLab/sugar-crepe, main_eval.py; arXiv 2306.14610)

A row of a file, which is one object ``{"0": row, "1": row, …}``::

    {"filename": "000000085329.jpg", "caption": "A dog beside a cat.",
     "negative_caption": "A cat beside a dog."}

Correct is only a caption that scores strictly above its negative: a tie is wrong (`ties_lose`). The
negative is listed first, and of equal scores the first ranks first.

Of the seven subsets Replace (3), Swap (2) and Add (2) are unweighted means, whatever their sizes,
as SugarCrepe's own table and UniME's have them: CLIP ViT-L/14's Replace is
(94.07 + 79.19 + 65.15) / 3 = 79.47. The suite's meta_task says which subset belongs to which.
"""

from __future__ import annotations

from dataclasses import dataclass

from omegaconf import MISSING

from eval.tasks.base import EvalTask
from eval.tasks.sources import EvalSource
from unime.data.rows import Row
from unime.inputs.items import Item
from unime.runtime.files import read_json

CANDIDATES = ("negative_caption", "caption")  # the right one last: see above


@dataclass(frozen=True)
class SugarCrepe:
    """A JSON file over COCO's val2017."""

    file: str = MISSING  # "data/replace_obj.json"
    repository: str = "RAIVNLab/sugar-crepe"  # on GitHub: a clone of it below data.root
    revision: str | None = None
    image_folder: str = "coco/val2017"  # below data.image_root, or data.root
    image_instruction: str = ""  # what is asked of a picture, beside the prompt preset's words
    text_instruction: str = ""  # and of a caption

    def read(self, name: str, source: EvalSource) -> EvalTask:
        path = source.file(self.repository, self.file, self.revision)
        rows = read_json(path)
        images, folder = source.images(), f"{self.image_folder}/".removeprefix("/")
        task = EvalTask(name, len(rows), ties_lose=True)
        for key, values in list(rows.items())[: source.data.limit]:
            row = Row(values, f"{path}, row {key!r}")
            if not isinstance(values, dict):
                raise row.error(f"got {values!r}, expected an object")
            image = row.image("filename", lambda name: images.find(f"{folder}{name}"))
            captions = {
                f"{key}.{column}": Item(row.text(column), instruction=self.text_instruction)
                for column in CANDIDATES
            }
            pair = [task.place(*named) for named in captions.items()]
            task.ask(Item(images=(image,), instruction=self.image_instruction), pair[1:], pair)
        return task
