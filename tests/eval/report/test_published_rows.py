"""The rows that others published: do their averages follow from their own columns?

./launch.sh test tests/eval/report/test_published_rows.py
"""

from __future__ import annotations

import pytest

from eval.report.averages import averages_of
from eval.report.published_rows import PublishedRow, load_benchmarks, published_for
from eval.tasks.suites import Task, load_suite
from tests.support.paths import SUITES
from unime.errors import ConfigError

MMEB = load_suite(str(SUITES / "mmeb.yaml"))
SIZES = {"Cls": 10, "VQA": 10, "Ret": 12, "Gnd": 4}
ROWS = {name: found.rows for name, found in load_benchmarks().items()}
V1, V2, RETRIEVAL, SUGARCREPE = (
    ROWS[name] for name in ("mmeb-v1", "mmeb-v2", "unime-retrieval", "sugarcrepe")
)


def named(rows: list[PublishedRow], name: str) -> PublishedRow:
    return next(row for row in rows if row.name == name)


def weighted(row: PublishedRow, weights: dict[str, int]) -> float:
    return sum(row.scores[key] * n for key, n in weights.items()) / sum(weights.values())


def test_every_row_has_a_name_of_its_own_and_a_source() -> None:
    for found in load_benchmarks().values():
        names = [row.name for row in found.rows]
        assert len(set(names)) == len(names)
        for row in found.rows:
            assert row.source and row.scores.keys() <= found.columns.keys(), row.name
            assert all(0 <= value <= 100 for value in row.scores.values()), row.name
            assert row.printed.keys() <= found.columns.keys()


@pytest.mark.parametrize("row", V1, ids=lambda row: row.name)
def test_micro_36_follows_from_every_split_into_parts(row: PublishedRow) -> None:
    """20 tasks in distribution and 16 out of it; 10, 10, 12 and 4 by meta-task."""
    rounding = 0.11
    if row.tasks:  # the paper's Table 1 has 68.4 in distribution, its Table 9 68.26
        rounding = 0.14
    for weights in ({"IND": 20, "OOD": 16}, SIZES):
        if row.scores.keys() >= weights.keys():
            assert row.scores["micro-36"] == pytest.approx(weighted(row, weights), abs=rounding)


@pytest.mark.parametrize("row", [row for row in V1 if row.printed], ids=lambda row: row.name)
def test_what_is_printed_is_the_average_that_is_said(row: PublishedRow) -> None:
    for column, value in row.printed.items():
        assert value == pytest.approx(row.scores[column], abs=0.1)


def test_the_averages_that_papers_mix_up() -> None:
    phi, llava = named(V1, "UniME Phi-3.5-V"), named(V1, "UniME LLaVA-1.6")
    assert [row.scores["micro-36"] for row in (phi, llava)] == [61.3, 63.6]
    assert [row.printed for row in (phi, llava)] == [{"macro-4": 64.2}, {"macro-4": 66.6}]
    assert named(V1, "UniME LLaVA-OV").printed == {"micro-36": 70.7}
    mixed_up = [row.name for row in V1 if "macro-4" in row.printed]
    assert len(mixed_up) == 10 and "UniME LLaVA-OV" not in mixed_up
    assert named(V1, "CLIP ViT-L").scores["macro-4"] == pytest.approx(39.175)


def test_the_papers_table_9() -> None:
    """Its own mean is 63.63, not 66.6; its order is the suite's."""
    scores = named(V1, "UniME LLaVA-1.6").tasks
    assert list(scores) == list(MMEB)
    averages = averages_of(MMEB)
    assert averages["micro-36"].of(scores) == pytest.approx(63.63, abs=0.005)
    assert averages["image-ind"].of(scores) == pytest.approx(68.26, abs=0.005)
    assert averages["image-ood"].of(scores) == pytest.approx(57.85, abs=0.005)
    row = named(V1, "UniME LLaVA-1.6").scores
    for column, key in load_benchmarks()["mmeb-v1"].columns.items():
        assert averages[key].of(scores) == pytest.approx(row[column], abs=0.15), column


@pytest.mark.parametrize("row", V2, ids=lambda row: row.name)
def test_all_78_is_the_mean_of_tasks(row: PublishedRow) -> None:
    sizes = {"Image": 36, "Video": 18, "VisDoc": 24}
    assert row.scores["All"] == pytest.approx(weighted(row, sizes), abs=0.11)


def test_the_same_model_has_the_same_score_on_both_benchmarks() -> None:
    for name in ("Qwen3-VL-Embedding-2B", "Qwen3-VL-Embedding-8B"):
        assert named(V1, name).scores["micro-36"] == named(V2, name).scores["Image"]


def test_retrieval_and_sugarcrepe() -> None:
    """UniME prints these means in its Table 3: 70.4, 94.1 and 84.8 of Phi-3.5-V."""
    assert [row.name for row in RETRIEVAL] == [row.name for row in SUGARCREPE]
    parts = "UniME Phi-3.5-V, stage 2 only"  # an ablation, of which Table 3 has the means alone
    assert all(len(row.scores) == 10 for row in RETRIEVAL if row.name != parts)
    assert all(len(row.scores) == 4 for row in SUGARCREPE if row.name != parts)
    assert named(RETRIEVAL, parts).scores == {"Short": 61.5, "Long": 84.2}
    assert named(SUGARCREPE, parts).scores == {"Mean": 77.1}
    for name, short, long, mean in (
        ("UniME Phi-3.5-V, stage 1 only", 63.7, 87.8, 83.0),
        ("UniME Phi-3.5-V", 70.4, 94.1, 84.8),
    ):
        scores = named(RETRIEVAL, name).scores
        assert (scores["Short"], scores["Long"]) == pytest.approx((short, long), abs=0.06)
        assert named(SUGARCREPE, name).scores["Mean"] == pytest.approx(mean, abs=0.06)
    clip = named(RETRIEVAL, "CLIP ViT-L").scores  # captions find pictures less often
    assert (clip["Flickr t2i"], clip["Flickr i2t"]) == (67.3, 87.2)


PRINTED = [
    f"{name} {direction}"
    for name in ("Flickr", "COCO", "ShareGPT4V", "Urban1K")
    for direction in ("t2i", "i2t")
]


def test_the_tables_of_retrieval_are_as_they_were_checked() -> None:
    """The sums of the columns, added up when the rows were read against the papers' tables: a digit
    that changes by mistake shows. Printed means exist of two rows only."""
    sums = [round(sum(row.scores.get(column, 0) for row in RETRIEVAL), 1) for column in PRINTED]
    assert sums == [
        1162.6, 1331.8, 750.7, 966.9, 1349.5, 1367.7, 1298.2, 1290.9
    ]  # fmt: skip
    subsets = ("Replace", "Swap", "Add")
    sums = [round(sum(row.scores.get(column, 0) for row in SUGARCREPE), 1) for column in subsets]
    assert sums == [1275.0, 997.6, 1257.9]


# Beside which suites -----------------------------------------------------------------------------


def shown(suite: dict[str, Task], wanted: list[str] | None = None) -> dict[str, list[str]]:
    found = published_for(averages_of(suite), list(suite), wanted)
    return {key: [row["name"] for row in entry["rows"]] for key, entry in found.items()}


def test_rows_stand_beside_their_benchmark_only() -> None:
    assert list(shown(MMEB)) == ["mmeb-v1"]
    assert len(shown(MMEB)["mmeb-v1"]) == len(V1)
    assert shown({name: task for name, task in MMEB.items() if name != "EDIS"}) == {}
    assert shown(MMEB | {"Mine": Task("vqa")}) == {}  # its averages are of other tasks
    assert shown({"Mine": Task("vqa")}) == {}
    assert list(shown(load_suite(str(SUITES / "mmeb_v2.yaml")))) == ["mmeb-v1", "mmeb-v2"]


def test_the_suites_of_the_unime_paper() -> None:
    retrieval = load_suite(str(SUITES / "retrieval.yaml"))
    sugarcrepe = load_suite(str(SUITES / "sugarcrepe.yaml"))
    assert list(shown(retrieval)) == ["unime-retrieval"]
    assert list(shown(sugarcrepe)) == ["sugarcrepe"]
    assert list(shown(MMEB | retrieval | sugarcrepe)) == [
        "mmeb-v1", "unime-retrieval", "sugarcrepe"
    ]  # fmt: skip


def test_a_choice_of_rows() -> None:
    assert shown(MMEB, ["CLIP ViT-L", "UniME Phi-3.5-V"]) == {
        "mmeb-v1": ["CLIP ViT-L", "UniME Phi-3.5-V"]
    }
    with pytest.raises(ConfigError, match="no row 'UniME Phi'; the nearest is 'UniME Phi-3.5-V'"):
        shown(MMEB, ["UniME Phi"])
