"""A copy of MMEB's repositories in miniature: rows, archives, and what old revisions had beside."""

from __future__ import annotations

import io
import tarfile
import zipfile
from pathlib import Path

from eval.miniatures.mmeb import picture_bytes, write_rows
from unime.data.mmeb_rows import EVAL_COLUMNS

ASK = "<|image_1|>\nRepresent the given image with the following question:"


def train_rows(subset: str, count: int, ask: str = ASK) -> list[dict[str, str]]:
    return [
        {"qry": f"{ask} What is {n}?\n", "pos_text": f"answer {n}", "pos_image_path": "",
         "qry_image_path": f"images/{subset}/Train/{subset}_image_{n}.png"}
        for n in range(count)
    ]  # fmt: skip


def write_train(root: Path, subsets: tuple[str, ...], count: int = 6) -> Path:
    """Each with both splits, a stale third one, and a zip (the last one's is a .tar.gz)."""
    pictures = [picture_bytes(n) for n in range(count)]
    for subset in subsets:
        write_rows(root, subset, "original", train_rows(subset, count))
        write_rows(root, subset, "diverse_instruction", train_rows(subset, count, "Look:"))
        write_rows(root, subset, "train", train_rows(subset, 2))
        files = {f"{subset}/Train/{subset}_image_{n}.png": pictures[n] for n in range(count)}
        stem = root / "images_zip" / subset
        (write_tar if subset == subsets[-1] else write_zip)(stem, files)
    write_rows(root, "FashionIQ", "original", train_rows("FashionIQ", 1))
    return root


def write_zip(stem: Path, files: dict[str, bytes]) -> Path:
    stem.parent.mkdir(parents=True, exist_ok=True)
    path = stem.with_name(f"{stem.name}.zip")
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files.items():
            archive.writestr(zipfile.ZipInfo(name, (2024, 1, 1, 0, 0, 0)), content)
    return path


def write_tar(stem: Path, files: dict[str, bytes]) -> Path:
    stem.parent.mkdir(parents=True, exist_ok=True)
    path = stem.with_name(f"{stem.name}.tar.gz")
    with tarfile.open(path, "w:gz") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


def write_eval(root: Path, tasks: tuple[str, ...]) -> Path:
    """Two queries each, over two pictures."""
    names = ["Tiny/0.png", "Tiny/1.png"]
    for task in tasks:
        cells = ((f"{ASK} Is it {n}?\n", names[n], ["yes", "no"], ["", names[n]]) for n in (0, 1))
        rows = [dict(zip(EVAL_COLUMNS, one, strict=True)) for one in cells]
        write_rows(root, task, "test", rows)
    write_zip(root / "images", {name: picture_bytes(n) for n, name in enumerate(names)})
    return root
