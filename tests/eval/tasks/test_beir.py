"""BEIR triples become tasks: texts, graded relevance, pictures, what is left out, what is refused;
and the suite of MMEB-V2's visual documents.

./launch.sh test tests/eval/tasks/test_beir.py
"""

from __future__ import annotations

import json
import math
import tracemalloc
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch

from eval import evaluate
from eval.miniatures.documents import (
    picture,
    write_beir,
    write_corpus,
    write_qrels,
    write_queries,
    write_table,
)
from eval.miniatures.mmeb import write_rows
from eval.tasks.base import EvalTask, Relevance
from eval.tasks.beir import READ_AT_ONCE, Beir
from eval.tasks.sources import EvalSource
from eval.tasks.suites import Task, load_suite
from tests.support.paths import ROOT
from tests.support.vlm2vec_reporter import report
from unime.config import EvalData
from unime.errors import ConfigError, DataError
from unime.inputs.items import Item
from unime.retrieval.ranking import ranking_metrics

SUITE = ROOT / "configs/suites/mmeb_v2_visdoc.yaml"
ASK = "Find a document image that matches the given query:"
LOOK = "Understand the content of the provided document image."
PAGES = Beir("org/pages", query_instruction=ASK, target_instruction=LOOK)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A repository of three pages and two queries."""
    folder = tmp_path / "data/org/pages"
    write_corpus(folder, *((f"p{n}", picture(tmp_path, n)) for n in range(3)))
    write_queries(folder, ("a", "Which sea?"), ("b", "Which year?"))
    write_qrels(folder, ("a", "p2", 1), ("b", "p0", 2), ("b", "p1", 1))
    return folder


def read(root: Path, task: Beir = PAGES, limit: int | None = None) -> EvalTask:
    data = root.parent.parent
    source = EvalSource(EvalData(root=str(data), cache=str(data / "cache"), suite="", limit=limit))
    return task.read("Pages", source)


# What a repository becomes ------------------------------------------------------------------------


def test_texts_are_vlm2vecs(root: Path) -> None:
    """src/model/processor.py, process_input_text: instruction, one space, text; no line break."""
    task = read(root)
    assert [query.text for query in task.queries] == [
        "Find a document image that matches the given query: Which sea?",
        "Find a document image that matches the given query: Which year?",
    ]
    assert {target.text for target in task.targets} == {
        "Understand the content of the provided document image."
    }
    assert {item.instruction for item in (*task.queries, *task.targets)} == {""}
    assert {target.kind for target in task.targets} == {"image+text"}
    assert {query.kind for query in task.queries} == {"text"}


def test_instructions_apart(root: Path) -> None:
    apart = Beir("org/pages", query_instruction=ASK, target_instruction=LOOK, instruction="apart")
    task = read(root, apart)
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
    found = ndcg(relevance, [1, 2, 0])
    assert found == pytest.approx((1 + 2 / 2) / (2 + 1 / 1.584962500721156))
    assert found == pytest.approx(0.7602, abs=1e-4)
    ours = ranking_metrics(torch.tensor([[1, 2, 0] + [-1] * 7]), [relevance])
    assert ours["ndcg_linear@5"].item() == pytest.approx(found)


def ndcg(relevance: Relevance, ranking: list[int], k: int = 5) -> float:
    """V2:src/utils/eval_utils/metrics.py as described: gains over log2(rank + 1), over the best."""

    def discounted(gains: list[float]) -> float:
        return sum(gain / math.log2(place + 2) for place, gain in enumerate(gains[:k]))

    best = sorted(relevance.values(), reverse=True)
    return discounted([relevance.get(place, 0.0) for place in ranking]) / discounted(best)


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
    folder = tmp_path / "data/org/pages"
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
    columns = ("query-id", "query", "language")
    write_table(
        root,
        "queries",
        "test",
        columns,
        [("a", "Quelle mer ?", "french"), ("b", "Sea?", "english")],
    )
    assert len(read(root).queries) == 2
    task = read(root, Beir("org/pages", language="english"))
    assert task.queries == [Item("Sea?")]
    assert (task.num_rows, task.relevance) == (1, [{0: 2.0, 1: 1.0}])
    with pytest.raises(DataError, match="org/pages, queries: none has the language 'dutch'"):
        read(root, Beir("org/pages", language="dutch"))


# Pictures -----------------------------------------------------------------------------------------


def test_pictures_are_kept_as_they_are_once_by_content(root: Path, tmp_path: Path) -> None:
    contents = [picture(tmp_path, 5), picture(tmp_path, 6), picture(tmp_path, 5)]
    write_corpus(root, *zip(("p0", "p1", "p2"), contents, strict=True))
    task = read(root)
    paths = [target.images[0] for target in task.targets]
    assert [Path(path).read_bytes() for path in paths] == contents
    assert all(Path(path).is_absolute() and path.endswith(".png") for path in paths)
    assert paths[0] == paths[2] != paths[1]
    kept = [file for file in (root.parent.parent / "cache").rglob("*") if file.is_file()]
    assert len(kept) == 2
    # Copies under two ids stay two candidates, as VLM2Vec has it.
    assert task.target_names == ["p0", "p1", "p2"]


def test_pictures_in_a_struct_of_bytes(root: Path, tmp_path: Path) -> None:
    content = picture(tmp_path, 8)
    rows = [{"corpus-id": f"p{n}", "image": {"bytes": content, "path": ""}} for n in range(3)]
    write_rows(root, "corpus", "test", rows)
    assert Path(read(root).targets[2].images[0]).read_bytes() == content


def test_a_corpus_larger_than_what_is_read_at_once(root: Path, tmp_path: Path) -> None:
    count = 2 * READ_AT_ONCE + 3
    contents = [picture(tmp_path, seed % 5) for seed in range(count)]
    write_corpus(root, *((f"p{n}", content) for n, content in enumerate(contents)))
    targets = read(root).targets
    assert [Path(target.images[0]).read_bytes() for target in targets] == contents


def test_a_corpus_is_never_in_memory(root: Path, tmp_path: Path) -> None:
    page = picture(tmp_path, 0) + bytes(40_000)  # what follows a PNG's end is no part of it
    pages = [(f"p{n}", page + str(n).encode()) for n in range(12 * READ_AT_ONCE)]
    file = write_corpus(root, *pages)
    pq.write_table(
        pq.read_table(file), file, row_group_size=READ_AT_ONCE
    )  # small, as the hub's are
    tracemalloc.start()
    try:
        assert len(read(root).targets) == len(pages)
        highest = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert highest < len(pages) * len(page) / 3


def test_a_document_of_text_and_picture(root: Path, tmp_path: Path) -> None:
    """The text is read only if the suite names its column: VLM2Vec embeds the page alone."""
    names = ("corpus-id", "image", "ocr")
    rows = [("p0", picture(tmp_path, 0), "a map"), ("p1", None, "a year"), ("p2", None, "")]
    write_table(root, "corpus", "test", names, rows[:2])
    write_qrels(root, ("a", "p0", 1), ("b", "p1", 1))
    with_text = Beir("org/pages", document_text="ocr", target_instruction=LOOK)
    targets = read(root, with_text).targets
    assert [(target.text, target.kind) for target in targets] == [
        (f"{LOOK} a map", "image+text"),
        (f"{LOOK} a year", "text"),
    ]
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


@pytest.mark.parametrize("number", [0, 7])
def test_a_number_is_no_empty_text(root: Path, number: int) -> None:
    write_table(root, "corpus", "test", ("corpus-id", "text"), [("p0", number)])
    with pytest.raises(DataError, match=rf"row 0, column 'text': got {number}, expected a text"):
        read(root, Beir("org/pages", document_text="text"))


def test_a_document_that_comes_again_is_one_candidate(root: Path, tmp_path: Path) -> None:
    pages = [(f"p{n}", picture(tmp_path, n)) for n in range(3)]
    file = write_corpus(root, *pages, pages[1])
    task = read(root)
    assert task.target_names == ["p0", "p1", "p2"]
    assert task.left_out == [f"{file}, row 3: document 'p1' comes again"]


# From end to end ----------------------------------------------------------------------------------


@pytest.mark.evaluation
def test_a_tiny_model_is_evaluated(tmp_path: Path, tiny_model: Callable[..., Path]) -> None:
    """Pages under two ids are encoded once and tie; the reporter of VLM2Vec reads the score."""
    task = "VisRAG_ChartQA"
    write_beir(tmp_path / "data/openbmb/VisRAG-Ret-Test-ChartQA", split="train", texts=True)
    config = tmp_path / "eval.yaml"
    config.write_text(
        f"output_dir: {tmp_path}/out\n"
        f"model: {{name: {tiny_model('qwen2_vl')}, precision: float32}}\n"
        f"data: {{root: {tmp_path}/data, suite: {SUITE}, tasks: [{task}], cache: {tmp_path}/c}}\n"
    )
    evaluate.main(["--config", str(config)])
    result = json.loads((tmp_path / f"out/{task}.json").read_text())
    assert (result["num_queries"], result["num_candidates"]) == (6, 9)
    assert result["num_encoded"] == 6 + 8
    lines = (tmp_path / f"out/visdoc/{task}_pred.jsonl").read_text().splitlines()
    first = json.loads(lines[0])
    assert first["label"] == ["page-0.jpg", "page-1.jpg"]
    assert first["rel_scores"] == [2.0, 1.0]
    pages = first["prediction"]
    assert pages.index("page-8.jpg") == pages.index("page-0.jpg") + 1
    values = []
    for line in map(json.loads, lines):
        label, found = ([int(name[5:-4]) for name in line[key]] for key in ("label", "prediction"))
        values.append(ndcg(dict(zip(label, line["rel_scores"], strict=True)), found))
    assert result["values"] == pytest.approx(values)
    assert result["score"] == pytest.approx(sum(values) / 6)
    reported = report(tmp_path / "out", {"model_name": "tiny"})
    assert reported.averages["visdoc"] == pytest.approx(result["score"])


# What is refused ----------------------------------------------------------------------------------


def another_page(root: Path) -> Path:
    pages = [picture(root.parent, n) for n in (0, 1, 2, 3)]
    return write_corpus(root, *zip(("p0", "p1", "p2", "p1"), pages, strict=True))


def no_picture(root: Path) -> Path:
    rows = [{"corpus-id": "p0", "image": {"bytes": b"<html>", "path": ""}}]
    return write_rows(root, "corpus", "test", rows)


def no_image_column(root: Path) -> Path:
    return write_table(root, "corpus", "test", ("corpus-id", "text"), [("p0", "seas")])


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda root: write_qrels(root, ("a", "p0", 1), ("a", "p9", 1)),
         "FILE, row 1, column 'corpus-id': no document 'p9'"),
        (lambda root: write_qrels(root, ("a", "p0", math.nan)),
         "FILE, row 0, column 'score': got nan, expected a number"),
        (lambda root: write_table(root, "qrels", "test", ("query-id", "corpus-id", "score"),
                                  [("a", "p0", "1")]),
         "FILE, row 0, column 'score': got '1', expected a number"),
        (lambda root: write_table(root, "qrels", "test", ("query-id", "corpus-id", "score"),
                                  [("a", None, 1)]),
         "FILE, row 0, column 'corpus-id': got None, expected an id"),
        (lambda root: write_queries(root, (0.5, "Which sea?")),  # type: ignore[arg-type]
         "FILE, row 0, column 'query-id': got 0.5, expected an id"),
        (lambda root: write_queries(root, ("a", "Which sea?"), ("a", "Which year?")),
         "FILE, row 1, column 'query-id': 'a' is also in FILE, row 0"),
        (lambda root: write_queries(root, ("a", "Which sea?"), ("b", " ")),
         "FILE, row 1, column 'query': got ' ', expected a text"),
        (lambda root: write_queries(root, ("a", None), ("b", "Which year?")),
         "FILE, row 0, column 'query': got None, expected a text"),
        (lambda root: write_table(root, "qrels", "test", ("query-id", "corpus-id"), [("a", "p0")]),
         "FILE: no column 'score'; it has 'query-id', 'corpus-id'"),
        (another_page,
         "FILE, row 3, column 'corpus-id': 'p1' is another document than in an earlier row"),
        (no_picture, "FILE, row 0, column 'image': not a picture: it begins with b'<html>'"),
        (no_image_column, "FILE: no column 'image'; it has 'corpus-id', 'text'"),
    ],
)  # fmt: skip
def test_bad_tables(root: Path, damage: Callable[[Path], Path], message: str) -> None:
    file = damage(root)
    with pytest.raises(DataError) as error:
        read(root)
    assert str(error.value) == message.replace("FILE", str(file))


def test_a_language_needs_its_column(root: Path) -> None:
    with pytest.raises(DataError, match=r"queries/.*no column 'language'"):
        read(root, Beir("org/pages", language="english"))


def test_nothing_relevant_at_all(root: Path) -> None:
    write_qrels(root, ("a", "p0", 0))
    with pytest.raises(DataError, match="task Pages: no query"):
        read(root)


# The suite ----------------------------------------------------------------------------------------

# V2:src/constant/dataset_hf_path.py, in the order of experiments/report_score_v2.py
REPOSITORIES = {
    "ViDoRe_arxivqa": ("vidore/arxivqa_test_subsampled_beir", "test"),
    "ViDoRe_docvqa": ("vidore/docvqa_test_subsampled_beir", "test"),
    "ViDoRe_infovqa": ("vidore/infovqa_test_subsampled_beir", "test"),
    "ViDoRe_tabfquad": ("vidore/tabfquad_test_subsampled_beir", "test"),
    "ViDoRe_tatdqa": ("vidore/tatdqa_test_beir", "test"),
    "ViDoRe_shiftproject": ("vidore/shiftproject_test_beir", "test"),
    "ViDoRe_syntheticDocQA_artificial_intelligence": (
        "vidore/syntheticDocQA_artificial_intelligence_test_beir", "test"),
    "ViDoRe_syntheticDocQA_energy": ("vidore/syntheticDocQA_energy_test_beir", "test"),
    "ViDoRe_syntheticDocQA_government_reports": (
        "vidore/syntheticDocQA_government_reports_test_beir", "test"),
    "ViDoRe_syntheticDocQA_healthcare_industry": (
        "vidore/syntheticDocQA_healthcare_industry_test_beir", "test"),
    "ViDoRe_esg_reports_human_labeled_v2": ("vidore/esg_reports_human_labeled_v2", "test"),
    "ViDoRe_biomedical_lectures_v2_multilingual": ("vidore/biomedical_lectures_v2", "test"),
    "ViDoRe_economics_reports_v2_multilingual": ("vidore/economics_reports_v2", "test"),
    "ViDoRe_esg_reports_v2_multilingual": ("vidore/esg_reports_v2", "test"),
    "VisRAG_ArxivQA": ("openbmb/VisRAG-Ret-Test-ArxivQA", "train"),
    "VisRAG_ChartQA": ("openbmb/VisRAG-Ret-Test-ChartQA", "train"),
    "VisRAG_MP-DocVQA": ("openbmb/VisRAG-Ret-Test-MP-DocVQA", "train"),
    "VisRAG_SlideVQA": ("openbmb/VisRAG-Ret-Test-SlideVQA", "train"),
    "VisRAG_InfoVQA": ("openbmb/VisRAG-Ret-Test-InfoVQA", "train"),
    "VisRAG_PlotQA": ("openbmb/VisRAG-Ret-Test-PlotQA", "train"),
    "ViDoSeek-page": ("VLM2Vec/ViDoSeek-page-fixed", "test"),
    "ViDoSeek-doc": ("VLM2Vec/ViDoSeek", "test"),
    "MMLongBench-page": ("VLM2Vec/MMLongBench-page-fixed", "test"),
    "MMLongBench-doc": ("VLM2Vec/MMLongBench-doc", "test"),
}  # fmt: skip


def visdoc() -> dict[str, tuple[Task, Beir]]:
    suite = load_suite(str(SUITE))
    formats = {name: task.format for name, task in suite.items()}
    assert all(isinstance(entry, Beir) for entry in formats.values())
    return {name: (suite[name], entry) for name, entry in formats.items()}  # type: ignore[misc]


def test_the_24_tasks_of_mmeb_v2() -> None:
    suite = visdoc()
    found = {name: (entry.repository, entry.split) for name, (_, entry) in suite.items()}
    assert list(found.items()) == list(REPOSITORIES.items())
    assert Counter(task.meta_task for task, _ in suite.values()) == {
        "vidore_v1": 10, "vidore_v2": 4, "visrag": 6, "visdoc_ood": 4,
    }  # fmt: skip
    for task, entry in suite.values():
        assert (task.modality, task.metric) == ("visdoc", "ndcg_linear@5")
        assert (entry.query_instruction, entry.target_instruction) == (ASK, LOOK)
        assert (entry.instruction, entry.language) == ("inline", None)


def test_revisions_are_commits_or_said_to_be_unknown() -> None:
    revisions = {name: entry.revision for name, (_, entry) in visdoc().items()}
    unknown = {name for name, revision in revisions.items() if revision is None}
    assert unknown == {"ViDoSeek-page", "ViDoSeek-doc", "MMLongBench-page"}
    commits = [revision for revision in revisions.values() if revision is not None]
    assert len(set(commits)) == len(commits)
    assert all(len(commit) == 40 and int(commit, 16) for commit in commits)


def test_a_task_of_the_suite_reads_a_folder_laid_out_as_its_repository(tmp_path: Path) -> None:
    entry = visdoc()["VisRAG_ChartQA"][1]
    write_beir(tmp_path / "openbmb/VisRAG-Ret-Test-ChartQA", 3, 5, split="train", texts=True)
    source = EvalSource(EvalData(root=str(tmp_path), cache=str(tmp_path / "cache"), suite=""))
    task = entry.read("VisRAG_ChartQA", source)
    assert (len(task.queries), len(task.targets)) == (3, 5)


def test_an_instruction_is_inline_or_apart(tmp_path: Path) -> None:
    suite = tmp_path / "suite.yaml"
    suite.write_text("A: {meta_task: visrag, format: beir, instruction: apart}")
    assert load_suite(str(suite))["A"].format == Beir(instruction="apart")
    suite.write_text("A: {meta_task: visrag, format: beir, instruction: before}")
    with pytest.raises(ConfigError, match="A: instruction: got 'before', expected inline or apart"):
        load_suite(str(suite))
