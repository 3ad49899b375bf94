"""Writes miniatures of UniME's retrieval suite and SugarCrepe, laid out as their sources are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from eval.miniatures.mmeb import picture_bytes, write_json, write_parquet, write_picture

FLICKR, COCO = "royokong/flickr30k_test", "royokong/coco_test"
SHAREGPT4V, URBAN1K = "Lin-Chen/ShareGPT4V", "BeichenZhang/Urban1k"
SHAREGPT4V_FILE = "share-captioner_coco_lcs_sam_1246k_1107.json"
SUGARCREPE, VAL2017 = "RAIVNLab/sugar-crepe", "coco/val2017"
SUBSETS = "replace_obj replace_att replace_rel swap_obj swap_att add_obj add_att".split()


def write_retrieval_sets(root: Path) -> None:
    """All five sources, as configs/suites/retrieval.yaml and sugarcrepe.yaml look for them."""
    write_captioned(root, FLICKR, caption_lists(4))
    write_captioned(root, COCO, caption_lists(5, first=4))
    write_sharegpt4v(root, sharegpt4v_items(root, 4))
    write_urban1k(root, 3)
    for number, subset in enumerate(SUBSETS):
        write_sugarcrepe(root, subset, sugarcrepe_rows(root, 3 + number % 2))


def caption_lists(pictures: int, first: int = 0) -> list[list[str]]:
    return [
        [f"picture {first + picture}, as observer {observer} sees it" for observer in range(5)]
        for picture in range(pictures)
    ]


def write_captioned(root: Path, repository: str, captions: list[Any]) -> Path:
    """Rows of a picture's bytes and its captions: ``<repository>/data/test-….parquet``."""
    rows = [
        {"image": {"bytes": picture_bytes(seed), "path": f"{seed}.png"}, "text": texts}
        for seed, texts in enumerate(captions)
    ]
    return write_parquet(root / repository / "data/test-00000-of-00001.parquet", rows)


def sharegpt4v_items(root: Path, count: int) -> list[dict[str, Any]]:
    """Items and their pictures below `root`."""
    items = []
    for number in range(count):
        image = f"sam/images/sa_{number}.jpg"
        write_picture(root / image, 20 + number)
        told = f"A long story.\n\nIt is about thing {number} – all of it."
        asked = {"from": "human", "value": "Describe it.\n<image>"}
        talk = [asked, {"from": "gpt", "value": told}]
        items.append({"id": f"sa_{number}", "image": image, "conversations": talk})
    return items


def write_sharegpt4v(root: Path, items: list[Any]) -> Path:
    return write_json(root / SHAREGPT4V / SHAREGPT4V_FILE, items)


def write_urban1k(root: Path, count: int, below: str = "") -> Path:
    """``image/<id>.jpg`` and ``caption/<id>.txt``; ids from 8 up, so that 10 sorts before 8."""
    folder = root / URBAN1K / below
    (folder / "caption").mkdir(parents=True)
    for number in range(8, 8 + count):
        write_picture(folder / f"image/{number}.jpg", 40 + number)
        (folder / f"caption/{number}.txt").write_text(f"A street, number {number}.\n")
    return folder


def sugarcrepe_rows(root: Path, count: int) -> dict[str, dict[str, str]]:
    for number in range(count):
        write_picture(root / VAL2017 / f"{number:012}.jpg", 60 + number)
    return {
        str(number): {
            "filename": f"{number:012}.jpg",
            "caption": f"A dog beside {number} cats.",
            "negative_caption": f"A cat beside {number} dogs.",
        }
        for number in range(count)
    }


def write_sugarcrepe(root: Path, subset: str, rows: Any) -> Path:
    return write_json(root / SUGARCREPE / f"data/{subset}.json", rows)
