"""MMEB made ready from a copy and from a stand-in for the hub, killed ones too:
./launch.sh test -m "data or not data" tests/data_prep/mmeb/test_prepare_mmeb.py"""

from __future__ import annotations

import hashlib
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx2
import pytest
import yaml
from huggingface_hub import constants, set_client_factory
from huggingface_hub.utils._http import default_client_factory

from data_prep.mmeb import __main__ as program
from data_prep.mmeb import published
from data_prep.mmeb.sources import FolderSource
from eval.tasks.suites import load_suite
from tests.support.forms.mmeb_copy import train_rows, write_eval, write_train, write_zip
from tests.support.paths import ROOT
from unime.config import TRAIN_SUBSETS, PairData, PairSource
from unime.config.loader import build_config
from unime.config.training import Stage2Config
from unime.data.datasets import PairDataset
from unime.errors import ConfigError, DataError
from unime.runtime.folder_lock import unlock_folder

SUBSETS = ("A-OKVQA", "MSCOCO_i2t", "VisDial")
ASKED = f"subsets=[{', '.join(SUBSETS)}]"


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("copy")
    write_train(folder / "train", SUBSETS)
    write_eval(folder / "eval", published.EVAL_TASKS)
    return folder


def prepare(copy: Path, into: Path, *words: str) -> Path:
    program.main([f"train_source={copy / 'train'}", f"train_dir={into / 'train'}",
                  f"eval_source={copy / 'eval'}", f"eval_dir={into / 'eval'}", ASKED,
                  "check_rows=false", *words])  # fmt: skip
    for part in ("train", "eval"):
        unlock_folder(into / part)
    return into


def there(folder: Path) -> dict[str, str]:
    """Every file that is not hidden, and its content."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    named = {path.relative_to(folder).as_posix(): path for path in files}
    return {
        name: hashlib.sha256(path.read_bytes()).hexdigest()
        for name, path in named.items()
        if not any(part.startswith(".") for part in Path(name).parts)
    }


def test_from_a_copy(copy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    into = prepare(copy, tmp_path, "rows=4")
    found = there(into)
    assert "train/images/A-OKVQA/Train/A-OKVQA_image_5.png" in found
    assert "train/images/VisDial/Train/VisDial_image_0.png" in found  # of a .tar.gz
    assert "eval/eval_images/Tiny/1.png" in found
    stale = [name for name in found if re.search("diverse|/train-|FashionIQ/orig|zip", name)]
    assert stale == []
    record = yaml.safe_load((into / "train/prepared.json").read_text())
    assert record["rows"] == dict.fromkeys(SUBSETS, 6)
    assert record["chosen"] == dict.fromkeys(SUBSETS, 4) and record["sample"] == "first"
    archive = record["files"]["images_zip/A-OKVQA.zip"]
    content = (copy / "train/images_zip/A-OKVQA.zip").read_bytes()
    assert archive == {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    assert "12 rows" in capsys.readouterr().out


def test_stage2_takes_what_it_says(copy: Path, tmp_path: Path) -> None:
    into = prepare(copy, tmp_path, "rows=4", "eval=false", "sample=random", "seed=5")
    optim = "optim={steps: 1, batch_size_per_device: 2, chunk_size: 1, learning_rate: 1e-4}"
    words = ["model.name=any", "run.output_dir=out", optim]
    config = build_config(Stage2Config, into / "train/stage2.yaml", words)
    assert config.run.seed == 5
    rows = PairDataset.load(config.data, config.run.seed)
    assert len(rows) == 12
    by_hand = PairData(root=str(into / "train"), sources={"VisDial": PairSource(4, "random")})
    chosen = [pair.row_id for pair in PairDataset.load(by_hand, 5)]
    assert [pair.row_id for pair in rows if "VisDial" in pair.row_id] == chosen
    assert chosen != [f"VisDial:{n}" for n in range(4)]


def test_the_other_wordings(copy: Path, tmp_path: Path) -> None:
    into = prepare(copy, tmp_path, "split=diverse_instruction", "eval=false")
    config = yaml.safe_load((into / "train/stage2.yaml").read_text())
    assert config["data"]["split"] == "diverse_instruction"
    assert not list(into.glob("train/*/original*"))


def test_in_its_own_folder_without_archives(copy: Path, tmp_path: Path) -> None:
    """As the repository's own script leaves it."""
    prepare(copy, tmp_path)
    again = tmp_path / "train"
    (again / "stage2.yaml").unlink()
    program.main([f"train_source={again}", f"train_dir={again}", ASKED, "eval=false",
                  "check_rows=false"])  # fmt: skip
    unlock_folder(again)
    assert (again / "stage2.yaml").exists()


def test_the_paper_s_numbers(capsys: pytest.CaptureFixture[str]) -> None:
    total = sum(min(50_000, rows.count) for rows in published.TRAIN_ROWS.values())
    assert round(total / 1000) == 662 and [*published.TRAIN_ROWS] == [*TRAIN_SUBSETS]
    suite = load_suite(str(ROOT / "configs/suites/mmeb.yaml"))
    assert {*published.EVAL_TASKS} == suite.keys()


def test_numbers_of_rows_are_checked(copy: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="6 rows, where 17,056 are published"):
        prepare(copy, tmp_path, "check_rows=true")


def test_a_plan_writes_nothing(
    copy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prepare(copy, tmp_path / "into", "--dry-run", "disk_speed=0.001")
    said = capsys.readouterr().out
    assert not (tmp_path / "into").exists()
    assert "to download: 0 bytes" in said and "disk_speed=0.001" in said and " s at " in said


def test_a_plan_counts_what_a_copy_has(
    copy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prepare(copy, tmp_path, "--dry-run", "rows=4", "check_rows=true")
    train, _, evaluation = capsys.readouterr().out.partition("eval:")
    for name in SUBSETS:
        assert f"{name}: 4 of 6 rows ({published.TRAIN_ROWS[name]} are published)" in train
    assert train.count(", 6 files\n") == 3 and "12 rows of 3 subsets" in train
    assert "3 tables to copy; 3 archives to unpack (18 files)" in train
    assert "refused: " in train and ", ".join(SUBSETS) in train
    assert evaluation.count(": 2 of 2 rows") == 36
    assert "36 tables to copy; 1 archives to unpack (2 files)" in evaluation
    prepare(copy, tmp_path, "rows=4")
    prepare(copy, tmp_path, "--dry-run", "rows=3")
    said = capsys.readouterr().out
    assert "0 archives to unpack (0 files), 3 are unpacked already" in said
    assert re.search(r"refused: .*train was made with other rows", said)
    assert "check_rows" not in said


def test_what_was_made_otherwise_is_not_replaced(copy: Path, tmp_path: Path) -> None:
    into = prepare(copy, tmp_path / "into", "rows=4")
    before = there(into)
    other = tmp_path / "other"
    shutil.copytree(copy, other)
    refused = "train_dir: .*train was made with other "
    with pytest.raises(ConfigError, match=f"{refused}train_source; name"):
        prepare(other, into, "rows=4")
    with pytest.raises(ConfigError, match=f"{refused}rows, sample, subsets, seed; .*prepared.json"):
        prepare(copy, into, "rows=2", "sample=random", f"subsets=[{SUBSETS[0]}]")
    with pytest.raises(ConfigError, match="eval_dir: .* other eval_source"):
        prepare(other, into, "train=false")
    assert there(into) == before
    (into / "train/prepared.json").unlink()  # as it says
    prepare(copy, into, "rows=2", "eval=false")
    assert "6 rows" in (into / "train/stage2.yaml").read_text()
    with pytest.raises(ConfigError, match=f"{refused}train_source; name"):
        prepare(other, into, "rows=2")


def test_what_another_source_began_is_not_replaced(copy: Path, tmp_path: Path) -> None:
    into, other = tmp_path / "into", tmp_path / "other"
    shutil.copytree(copy, other)
    with pytest.raises(DataError):
        prepare(damaged(copy, tmp_path, "train/images_zip/A-OKVQA.zip", cut), into)
    for part in ("train", "eval"):
        unlock_folder(into / part)
    with pytest.raises(ConfigError, match="train_dir: .* other train_source; name"):
        prepare(other, into)


def damaged(copy: Path, tmp_path: Path, name: str, change: Callable[[Path], object]) -> Path:
    shutil.copytree(copy, tmp_path / "bad", dirs_exist_ok=True)
    change(tmp_path / "bad" / name)
    return tmp_path / "bad"


def lacks_a_picture(path: Path) -> None:
    write_zip(path.with_suffix(""), {"A-OKVQA/Train/A-OKVQA_image_0.png": b"1"})


def leads_out(path: Path) -> None:
    write_zip(path.with_suffix(""), {"../../out.png": b"1"})


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-40])


@pytest.mark.parametrize(
    ("name", "change", "said"),
    [
        ("train/images_zip/A-OKVQA.zip", lacks_a_picture, "5 pictures are not there"),
        ("train/images_zip/A-OKVQA.zip", leads_out, "out.png"),
        ("train/images_zip/A-OKVQA.zip", cut, "A-OKVQA.zip: a damaged archive"),
        ("train/images_zip/VisDial.tar.gz", cut, "VisDial.tar.gz: a damaged archive"),
        ("train/images_zip/A-OKVQA.zip", Path.unlink, "no archive of the pictures of A-OKVQA"),
        ("train/A-OKVQA/original-00000-of-00001.parquet", Path.unlink, "of A-OKVQA, split"),
        ("train/A-OKVQA/original-00000-of-00001.parquet", cut, "original-00000-of-00001.parquet"),
        ("eval/GQA/test-00000-of-00001.parquet", Path.unlink, "of GQA, split 'test'"),
    ],
)
def test_what_is_wrong_is_named(
    copy: Path, tmp_path: Path, name: str, change: Callable[[Path], object], said: str
) -> None:
    bad = damaged(copy, tmp_path, name, change)
    with pytest.raises(DataError, match=re.escape(said)):
        prepare(bad, tmp_path / "into")
    assert not (tmp_path / "out.png").exists() and not (tmp_path / "into/out.png").exists()
    assert not (tmp_path / "into" / name.split("/")[0] / "prepared.json").exists()


def test_a_noted_sha256_is_compared(copy: Path, tmp_path: Path) -> None:
    """What the hub's client noted of a file that it downloaded."""
    bad = tmp_path / "bad"
    shutil.copytree(copy, bad)
    notes = bad / "train/.cache/huggingface/download/images_zip/A-OKVQA.zip.metadata"
    notes.parent.mkdir(parents=True)
    notes.write_text(f"{'0' * 40}\n{'a' * 64}\n1700000000.0\n")
    assert FolderSource(bad / "train").files["images_zip/A-OKVQA.zip"].sha256 == "a" * 64
    with pytest.raises(DataError, match="A-OKVQA.zip: sha256"):
        prepare(bad, tmp_path / "into")


def test_room_is_asked_for_first(
    copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(program, "ROOM", 1 << 60)
    with pytest.raises(ConfigError, match="no room for the pictures"):
        prepare(copy, tmp_path / "into")
    assert not (tmp_path / "into/train/images").exists()


class Hub:
    """Answers as the hub does for the files of a folder; `limit`: bytes of a file before the line
    is cut."""

    sha = "5" * 40

    def __init__(self, root: Path) -> None:
        self.root, self.limit, self.asked = root, 1 << 40, list[str]()
        self.lies: dict[str, str] = {}

    def respond(self, request: httpx2.Request) -> httpx2.Response:
        parts = request.url.path.strip("/").split("/")
        if parts[0] == "api":
            return httpx2.Response(200, json=self._info("/".join(parts[2:4])))
        name = "/".join(parts[5:])  # datasets/<who>/<what>/resolve/<sha>/<file>
        folder = self._folder("/".join(parts[1:3]))
        content = (folder / name).read_bytes()
        sha256 = self.lies.get(name) or hashlib.sha256(content).hexdigest()
        head = {"etag": f'"{sha256}"', "x-repo-commit": self.sha, "accept-ranges": "bytes"}
        if request.method == "HEAD":
            return httpx2.Response(200, headers=head | {"content-length": str(len(content))})
        begin = int((re.findall(r"bytes=(\d+)-", request.headers.get("range", "")) or [0])[0])
        self.asked.append(f"{name} from {begin}")
        part, whole = content[begin : begin + self.limit], len(content)
        more = {"content-length": str(whole - begin),
                "content-range": f"bytes {begin}-{whole - 1}/{whole}"}  # fmt: skip
        return httpx2.Response(206 if begin else 200, headers=head | more, content=_sent(
            part, len(part) < whole - begin))  # fmt: skip

    def _folder(self, repository: str) -> Path:
        return self.root / ("train" if repository.endswith("MMEB-train") else "eval")

    def _info(self, repository: str) -> dict[str, object]:
        folder = self._folder(repository)
        files = [path for path in folder.rglob("*") if path.is_file()]
        siblings = [
            {"rfilename": path.relative_to(folder).as_posix(), "size": path.stat().st_size,
             "lfs": {"sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
                     "size": path.stat().st_size, "pointerSize": 130}}
            for path in files
        ]  # fmt: skip
        return {"id": repository, "sha": self.sha, "siblings": siblings}


def _sent(content: bytes, is_cut: bool) -> Iterator[bytes]:
    yield content
    if is_cut:
        raise httpx2.ReadError("the line was cut")


@pytest.fixture
def hub(copy: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    hub = Hub(copy)
    for name, value in (("OFFLINE", False), ("DISABLE_XET", True)):
        monkeypatch.setattr(constants, f"HF_HUB_{name}", value)
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 500)
    set_client_factory(lambda: httpx2.Client(transport=httpx2.MockTransport(hub.respond)))
    yield hub
    set_client_factory(default_client_factory)


def from_hub(into: Path, *words: str) -> Path:
    program.main([f"train_dir={into / 'train'}", f"eval_dir={into / 'eval'}", ASKED,
                  "check_rows=false", *words])  # fmt: skip
    for part in ("train", "eval"):
        unlock_folder(into / part)
    return into


def test_from_the_hub(hub: Hub, copy: Path, tmp_path: Path) -> None:
    into = from_hub(tmp_path / "into")
    images = {name: one for name, one in there(into).items() if "images/" in name}
    straight = there(prepare(copy, tmp_path / "straight"))
    assert images == {name: one for name, one in straight.items() if "images/" in name}
    record = yaml.safe_load((into / "train/prepared.json").read_text())
    assert record["source"] == {"name": "TIGER-Lab/MMEB-train", "revision": hub.sha}
    asked = [name for name in hub.asked if "diverse" in name or "FashionIQ/orig" in name]
    assert asked == [] and len(hub.asked) > 40
    before = len(hub.asked)
    from_hub(into)
    assert len(hub.asked) == before  # nothing twice


def test_a_plan_by_the_hub_s_sizes(
    hub: Hub, copy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wanted = [copy / "train/images_zip" / name for name in ("A-OKVQA.zip", "MSCOCO_i2t.zip")]
    size = sum(path.stat().st_size for path in wanted)
    words = ["--dry-run", "eval=false", "subsets=[A-OKVQA, MSCOCO_i2t]", "bandwidth=1e-6"]
    from_hub(tmp_path / "into", *words)
    said = capsys.readouterr().out
    hours = float(re.findall(r"about ([\d.]+) h at bandwidth", said)[0])
    assert size / 3600 < hours < 1.5 * size / 3600  # rows, too
    assert hub.asked == [] and not (tmp_path / "into").exists() and hub.sha in said


def test_a_cut_line_goes_on(hub: Hub, tmp_path: Path) -> None:
    hub.limit = 1000
    with pytest.raises(ConfigError, match="goes on"):
        for _ in range(3):
            from_hub(tmp_path, "eval=false")
    unlock_folder(tmp_path / "train")
    hub.limit = 1 << 40
    from_hub(tmp_path, "eval=false", "keep_archives=false")
    assert any(re.search("from [1-9]", line) for line in hub.asked)
    assert not list(tmp_path.glob("train/images_zip/*"))
    from_hub(tmp_path, "eval=false", "keep_archives=false")


def test_another_sha256_than_the_hub_s(hub: Hub, tmp_path: Path) -> None:
    name = "images_zip/MSCOCO_i2t.zip"
    from_hub(tmp_path, "eval=false")
    path = tmp_path / "train" / name
    content = bytearray(path.read_bytes())
    content[100] ^= 1
    path.write_bytes(content)
    (tmp_path / "train/.prepare.json").unlink()
    with pytest.raises(DataError, match="MSCOCO_i2t.zip: sha256"):
        from_hub(tmp_path, "eval=false")


def test_no_hub(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="train_source: 'nobody/nothing'"):
        program.main(["train_source=nobody/nothing", f"train_dir={tmp_path / 'train'}"])


@pytest.mark.parametrize("word", ["subsets=[FashionIQ]", "split=train", "rows=0", "bandwidth=0"])
def test_bad_settings(word: str) -> None:
    with pytest.raises(SystemExit):
        program.main([word])


@pytest.mark.data
@pytest.mark.parametrize("number", range(5))
def test_a_killed_one_goes_on(tmp_path: Path, copy: Path, number: int) -> None:
    """At any moment, twice; the same files as of one that was not."""
    big = tmp_path / "copy"
    shutil.copytree(copy, big)
    more = {f"A-OKVQA/Train/A-OKVQA_image_{n}.png": os.urandom(20_000) for n in range(6, 600)}
    rows = train_rows("A-OKVQA", 6)
    files = {r["qry_image_path"].removeprefix("images/"): b"1" * 100 for r in rows} | more
    write_zip(big / "train/images_zip/A-OKVQA", files)
    straight = there(prepare(big, tmp_path / "straight"))
    words = [f"train_source={big / 'train'}", f"eval_source={big / 'eval'}", ASKED,
             "check_rows=false", "train_dir=train", "eval_dir=eval"]  # fmt: skip
    into = tmp_path / "into"
    into.mkdir()
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "data_prep.mmeb", *words]
    draw = random.Random(number)
    seconds = 4.0
    for _ in range(2):
        child = subprocess.Popen(command, cwd=into, env=environment)
        until = time.monotonic() + 60
        while not (into / "train/.prepare.json").exists() and time.monotonic() < until:
            time.sleep(0.01)
        time.sleep(draw.uniform(0, seconds / 4))
        child.send_signal(signal.SIGKILL)
        child.wait()
    begun = time.monotonic()
    subprocess.run(command, cwd=into, env=environment, check=True)
    assert time.monotonic() - begun < 120
    for part in ("train", "eval"):  # say where they lie
        (tmp_path / "straight" / part / "stage2.yaml").unlink(missing_ok=True)
        (into / part / "stage2.yaml").unlink(missing_ok=True)
    straight = {name: one for name, one in straight.items() if not name.endswith("stage2.yaml")}
    assert there(into) == straight
