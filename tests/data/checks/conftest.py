"""Small prepared sets of Tux Paint's stamps, and what a check finds in them."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from transformers import AutoProcessor

from unime.backbones.families import BACKBONES
from unime.config import DataCheck, InputConfig, PairData, PairSource
from unime.data.checks import memory, pictures
from unime.data.checks.check import DataReport, check_data
from unime.data.prepared.folder import PreparedSet, write_rows
from unime.inputs.items import Item, Pair
from unime.models.item_processor import ItemProcessor

STAMPS = Path("/usr/share/tuxpaint/stamps")
LONGEST = 400  # tokens that the model of the tests reads
ALONE = DataCheck(num_workers=0)


def stamps(count: int, folder: str = "animals") -> list[Path]:
    """So many pictures that have a caption, far from each other in the list."""
    found = sorted(path for path in (STAMPS / folder).rglob("*.png") if caption(path))
    if not found:
        pytest.skip("no stamps of Tux Paint: apt-get install tuxpaint-stamps-default")
    return found[:: len(found) // count][:count]


def caption(path: Path) -> str:
    text = path.with_suffix(".txt")
    return text.read_text(encoding="utf-8").splitlines()[0].strip() if text.is_file() else ""


class Made:
    """A prepared set of one task; pictures lie in ``pictures``.

    Attributes:
        pairs: of its rows, which may be changed before `write`.
    """

    def __init__(self, folder: Path, count: int = 6) -> None:
        self.root, self.pictures = folder / "set", folder / "pictures"
        self.pictures.mkdir(parents=True)
        self.pairs = [self.pair(path) for path in stamps(count)]

    def pair(self, path: Path, name: str = "") -> Pair:
        """Of a picture with its caption, which is brought here."""
        name = name or path.name
        shutil.copy(path, self.pictures / name)
        return Pair(Item(caption(path), instruction="Find it:"), Item(images=(name,)), (), name)

    def write(self, test: Sequence[Pair] = ()) -> Path:
        rows = {"train": self.pairs, "test": list(test)}
        rows = {split: pairs for split, pairs in rows.items() if pairs}
        for split, pairs in rows.items():
            write_rows(self.root / "pets", split, pairs, len(pairs))
        counts = {"pets": {split: len(pairs) for split, pairs in rows.items()}}
        PreparedSet(str(self.pictures), counts).write(self.root)
        return self.root


def data_of(root: Path, name: str = "pets") -> PairData:
    return PairData(str(root), sources={name: PairSource()}, on_bad_row="drop")


def check(
    root: Path, processor: ItemProcessor | None = None, settings: DataCheck = ALONE
) -> DataReport:
    return check_data(data_of(root), settings, processor)


def found_in(report: DataReport) -> list[tuple[str, str, str]]:
    """Of each fault the row, the column and the kind."""
    return [
        (fault.where.rpartition("/")[2], fault.column, fault.kind)
        for task in report.tasks
        for fault in task.faults
    ]


@pytest.fixture
def made(tmp_path: Path) -> Made:
    return Made(tmp_path)


@pytest.fixture(autouse=True)
def own_memory(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Nothing is remembered of other tests."""
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv(memory.CACHE, str(folder))
    return folder / "checks"


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of pictures that are opened."""
    found: list[str] = []
    read = pictures.images.load_image

    def load(path: str, *more: int) -> object:
        found.append(Path(path).name)
        return read(path, *more)

    monkeypatch.setattr(pictures.images, "load_image", load)
    return found


@pytest.fixture(scope="session")
def processor(tiny_model: Callable[..., Path]) -> ItemProcessor:
    loaded = AutoProcessor.from_pretrained(tiny_model("qwen2_vl"))
    inputs = InputConfig(max_image_pixels=250_000, resolution="784..12544")
    return ItemProcessor(loaded, BACKBONES["qwen2_vl"], inputs, LONGEST)
