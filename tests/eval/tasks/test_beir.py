"""BEIR triples become tasks: texts, graded relevance, pictures, what is left out, what is refused;
and the suite of MMEB-V2's visual documents.

./launch.sh test tests/eval/tasks/test_beir.py
"""

from __future__ import annotations

import tracemalloc
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch

from eval.miniatures.documents import (
    write_beir,
    write_corpus,
    write_qrels,
    write_queries,
    write_table,
)
from eval.miniatures.mmeb import picture_bytes
from eval.tasks.base import EvalTask
from eval.tasks.beir import Beir
from eval.tasks.sources import READ_AT_ONCE
from eval.tasks.suites import Task, load_suite
from tests.support.paths import ROOT
from tests.support.published.vlm2vec_reporter import ndcg_linear
from tests.support.results import source
from unime.errors import DataError
from unime.inputs.items import Item
from unime.retrieval.ranking import ranking_metrics

SUITE = ROOT / "configs/suites/mmeb_v2_visdoc.yaml"
ASK = "Find a document image that matches the given query:"
LOOK = "Understand the content of the provided document image."
PAGES = Beir("org/pages", query_instruction=ASK, target_instruction=LOOK)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A repository of three pages and two queries."""
    folder = tmp_path / "org/pages"
    write_corpus(folder, *((f"p{n}", picture_bytes(n)) for n in range(3)))
    write_queries(folder, ("a", "Which sea?"), ("b", "Which year?"))
    write_qrels(folder, ("a", "p2", 1), ("b", "p0", 2), ("b", "p1", 1))
    return folder


def read(root: Path, task: Beir = PAGES, limit: int | None = None) -> EvalTask:
    return task.read("Pages", source(root.parent.parent, limit=limit))


# What a repository becomes ------------------------------------------------------------------------


def test_texts_are_vlm2vecs(root: Path) -> None:
    """src/model/processor.py, process_input_text: instruction, one space, text; no line break."""
    task = read(root)
    assert task.queries == [Item(f"{ASK} Which sea?"), Item(f"{ASK} Which year?")]
    assert {(item.text, item.instruction, item.kind) for item in task.targets} == {
        (LOOK, "", "image+text")
    }


def test_instructions_apart(root: Path) -> None:
    task = read(root, replace(PAGES, instruction="apart"))
    assert task.queries[0] == Item("Which sea?", instruction=ASK)
    assert (task.targets[0].text, task.targets[0].instruction) == ("", LOOK)


def test_no_instruction_leaves_the_bare_text_and_picture(root: Path) -> None:
    task = read(root, Beir("org/pages"))
    assert task.queries[0] == Item("Which sea?")
    assert [target.kind for target in task.targets] == ["image"] * 3


def test_every_query_is_searched_among_the_corpus_in_its_order(root: Path) -> None:
    task = read(root)
    assert task.candidates is None
    assert task.target_names == ["p0", "p1", "p2"]
    assert task.relevance == [{2: 1.0}, {0: 2.0, 1: 1.0}]
    assert (task.num_rows, task.left_out) == (2, [])


def test_the_highest_score_counts_and_only_above_zero(root: Path) -> None:
    write_qrels(
        root, ("a", "p0", 0), ("a", "p1", 1), ("a", "p1", 3), ("a", "p1", 2), ("b", "p0", 0.5),
        ("b", "p2", -1),
    )  # fmt: skip
    assert read(root).relevance == [{1: 3.0}, {0: 0.5}]


def test_graded_relevance_gives_this_ndcg(root: Path) -> None:
    """Query b ranks p1 (1), p2 (0), p0 (2): (1 + 2/log2(4)) / (2 + 1/log2(3)) by hand."""
    relevance = read(root).relevance[1]
    found = ndcg_linear(relevance, [1, 2, 0])
    assert found == pytest.approx((1 + 2 / 2) / (2 + 1 / 1.584962500721156))
    assert found == pytest.approx(0.7602, abs=1e-4)
    ours = ranking_metrics(torch.tensor([[1, 2, 0] + [-1] * 7]), [relevance])
    assert ours["ndcg_linear@5"].item() == pytest.approx(found)


def test_queries_without_a_relevant_document_are_left_out_and_listed(root: Path) -> None:
    write_qrels(root, ("a", "p0", 0), ("b", "p1", 1))
    task = read(root)
    assert [query.text for query in task.queries] == [f"{ASK} Which year?"]
    assert task.num_rows == 2
    file = root / "queries/test-00000-of-00001.parquet"
    assert task.left_out == [f"{file}, row 0: query 'a' has no relevant document"]


def test_judgements_of_queries_that_are_not_there_are_counted(root: Path) -> None:
    file = write_qrels(root, ("z", "p9", 1), ("a", "p1", 1), ("y", "p0", 2))
    task = read(root)
    assert task.relevance == [{1: 1.0}]
    said = f"2 rows of qrels, whose query is not there: {file}, row 0: 'z', {file}, row 2: 'y'"
    assert task.left_out[0] == said
    write_qrels(root, ("a", "p1", 1), ("b", "p1", 1), *((f"z{n}", "p0", 1) for n in range(9)))
    (said,) = read(root).left_out
    assert said.startswith("9 rows of qrels, ") and said.endswith(f"{file}, row 6: 'z4', …")


def test_a_limit_takes_the_first_queries_and_the_whole_corpus(root: Path) -> None:
    task = read(root, limit=1)
    assert len(task.queries) == 1
    assert (task.num_rows, len(task.targets), task.relevance) == (2, 3, [{2: 1.0}])
    write_qrels(root, ("a", "p0", 1))
    assert read(root, limit=1).left_out == []  # b is not asked, so nothing to say about it


@pytest.mark.parametrize("texts", [False, True])
def test_ids_are_numbers_or_texts(tmp_path: Path, texts: bool) -> None:
    folder = tmp_path / "org/pages"
    write_beir(folder, queries=4, documents=6, texts=texts)
    task = read(folder)
    assert task.target_names[:2] == (["page-0.jpg", "page-1.jpg"] if texts else ["100", "101"])
    assert task.relevance == [{n: 2.0, n + 1: 1.0} for n in range(4)]
    assert task.queries[3].text == f"{ASK} What does page 3 show?"


def test_numbers_in_one_table_and_texts_in_another_are_the_same_ids(root: Path) -> None:
    write_queries(root, (7, "Which sea?"))
    write_qrels(root, ("7", "p1", 1))
    assert read(root).relevance == [{1: 1.0}]


def test_all_languages_unless_one_is_named(root: Path) -> None:
    with pytest.raises(DataError, match=r"queries/.*no column 'language'"):
        read(root, Beir("org/pages", language="english"))
    columns = ("query-id", "query", "language")
    rows = [("a", "Quelle mer ?", "french"), ("b", "Sea?", "english")]
    write_table(root, "queries", "test", columns, rows)
    assert len(read(root).queries) == 2
    task = read(root, Beir("org/pages", language="english"))
    assert task.queries == [Item("Sea?")]
    assert (task.num_rows, task.relevance) == (1, [{0: 2.0, 1: 1.0}])
    with pytest.raises(DataError, match="org/pages, queries: none has the language 'dutch'"):
        read(root, Beir("org/pages", language="dutch"))


# Pictures -----------------------------------------------------------------------------------------


def test_pictures_are_kept_as_they_are_once_by_content(root: Path, tmp_path: Path) -> None:
    contents = [picture_bytes(seed) for seed in (5, 6, 5)]
    write_corpus(root, *zip(("p0", "p1", "p2"), contents, strict=True))
    for _ in range(2):
        task = read(root)
        paths = [target.images[0] for target in task.targets]
        assert [Path(path).read_bytes() for path in paths] == contents
        assert all(Path(path).is_absolute() and path.endswith(".png") for path in paths)
        assert paths[0] == paths[2] != paths[1]
        assert len([file for file in (tmp_path / "cache").rglob("*") if file.is_file()]) == 2
        # Copies under two ids stay two candidates, as VLM2Vec has it.
        assert task.target_names == ["p0", "p1", "p2"]


def test_a_corpus_is_never_in_memory(root: Path) -> None:
    page = picture_bytes(0) + bytes(40_000)  # what follows a PNG's end is no part of it
    pages = [(f"p{n}", page + str(n).encode()) for n in range(12 * READ_AT_ONCE + 3)]
    file = write_corpus(root, *pages)
    small = {"row_group_size": READ_AT_ONCE}  # as the hub's are
    pq.write_table(pq.read_table(file), file, **small)
    tracemalloc.start()
    try:
        targets = read(root).targets
        highest = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert highest < len(pages) * len(page) / 3
    found = (Path(target.images[0]).read_bytes() for target in targets)
    assert all(content == expected for content, (_, expected) in zip(found, pages, strict=True))


def test_a_document_of_text_and_picture(root: Path) -> None:
    """The text is read only if the suite names its column: VLM2Vec embeds the page alone."""
    names = ("corpus-id", "image", "ocr")
    rows = [("p0", picture_bytes(0), "a map"), ("p1", None, "a year"), ("p2", None, "")]
    write_table(root, "corpus", "test", names, rows[:2])
    write_qrels(root, ("a", "p0", 1), ("b", "p1", 1))
    with_text = replace(PAGES, document_text="ocr")
    targets = [(target.text, target.kind) for target in read(root, with_text).targets]
    assert targets == [(f"{LOOK} a map", "image+text"), (f"{LOOK} a year", "text")]
    with pytest.raises(DataError, match=r"corpus/test.*row 1: neither text nor image"):
        read(root)
    write_table(root, "corpus", "test", names, rows)
    with pytest.raises(DataError, match=r"row 2: neither text nor image"):
        read(root, with_text)


def test_a_corpus_of_texts(root: Path) -> None:
    rows = [("p0", "seas"), ("p1", "years"), ("p2", "lands")]
    write_table(root, "corpus", "test", ("corpus-id", "text"), rows)
    targets = read(root, Beir("org/pages", document_text="text")).targets
    assert targets == [Item("seas"), Item("years"), Item("lands")]


def test_a_document_that_comes_again_is_one_candidate(root: Path) -> None:
    pages = [(f"p{n}", picture_bytes(n)) for n in range(3)]
    file = write_corpus(root, *pages, pages[1])
    task = read(root)
    assert task.target_names == ["p0", "p1", "p2"]
    assert task.left_out == [f"{file}, row 3: document 'p1' comes again"]


# What is refused ----------------------------------------------------------------------------------


def test_nothing_relevant_at_all(root: Path) -> None:
    write_qrels(root, ("a", "p0", 0))
    with pytest.raises(DataError, match="task Pages: no query"):
        read(root).checked()


# The suite ----------------------------------------------------------------------------------------

# V2:src/constant/dataset_hf_path.py, in the order of experiments/report_score_v2.py
SYNTHETIC = "artificial_intelligence energy government_reports healthcare_industry".split()
REPOSITORIES = {
    "ViDoRe_arxivqa": "vidore/arxivqa_test_subsampled_beir",
    "ViDoRe_docvqa": "vidore/docvqa_test_subsampled_beir",
    "ViDoRe_infovqa": "vidore/infovqa_test_subsampled_beir",
    "ViDoRe_tabfquad": "vidore/tabfquad_test_subsampled_beir",
    "ViDoRe_tatdqa": "vidore/tatdqa_test_beir",
    "ViDoRe_shiftproject": "vidore/shiftproject_test_beir",
    **{f"ViDoRe_syntheticDocQA_{name}": f"vidore/syntheticDocQA_{name}_test_beir"
       for name in SYNTHETIC},
    "ViDoRe_esg_reports_human_labeled_v2": "vidore/esg_reports_human_labeled_v2",
    "ViDoRe_biomedical_lectures_v2_multilingual": "vidore/biomedical_lectures_v2",
    "ViDoRe_economics_reports_v2_multilingual": "vidore/economics_reports_v2",
    "ViDoRe_esg_reports_v2_multilingual": "vidore/esg_reports_v2",
    **{f"VisRAG_{name}": f"openbmb/VisRAG-Ret-Test-{name}"
       for name in ("ArxivQA", "ChartQA", "MP-DocVQA", "SlideVQA", "InfoVQA", "PlotQA")},
    "ViDoSeek-page": "VLM2Vec/ViDoSeek-page-fixed",
    "ViDoSeek-doc": "VLM2Vec/ViDoSeek",
    "MMLongBench-page": "VLM2Vec/MMLongBench-page-fixed",
    "MMLongBench-doc": "VLM2Vec/MMLongBench-doc",
}  # fmt: skip


def visdoc() -> dict[str, tuple[Task, Beir]]:
    suite = load_suite(str(SUITE))
    formats = {name: task.format for name, task in suite.items()}
    assert all(isinstance(entry, Beir) for entry in formats.values())
    return {name: (suite[name], entry) for name, entry in formats.items()}  # type: ignore[misc]


def test_the_24_tasks_of_mmeb_v2() -> None:
    suite = visdoc()
    found = [(name, entry.repository) for name, (_, entry) in suite.items()]
    assert found == list(REPOSITORIES.items())
    assert Counter(task.meta_task for task, _ in suite.values()) == {
        "vidore_v1": 10, "vidore_v2": 4, "visrag": 6, "visdoc_ood": 4,
    }  # fmt: skip
    for task, entry in suite.values():
        assert (task.modality, task.metric) == ("visdoc", "ndcg_linear@5")
        assert (entry.query_instruction, entry.target_instruction) == (ASK, LOOK)
        assert (entry.instruction, entry.language) == ("inline", None)
        assert entry.split == ("train" if str(entry.repository).startswith("openbmb") else "test")


def test_revisions_are_commits_or_said_to_be_unknown() -> None:
    revisions = {name: entry.revision for name, (_, entry) in visdoc().items()}
    unknown = {name for name, revision in revisions.items() if revision is None}
    assert unknown == {"ViDoSeek-page", "ViDoSeek-doc", "MMLongBench-page"}
    commits = [revision for revision in revisions.values() if revision is not None]
    assert len(set(commits)) == len(commits)
    assert all(len(commit) == 40 and int(commit, 16) for commit in commits)
