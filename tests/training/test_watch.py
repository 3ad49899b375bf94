"""Runs that learn nothing end, and say why: pytest tests/training/test_watch.py"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from eval.miniatures.mmeb import train_rows, write_rows
from tests.support.material import metrics, stage1, stage2
from unime.config import OnCollapse, OptimConfig
from unime.errors import DataError, RunError
from unime.runtime.program import run_program
from unime.training.watch import Watch

EMPTY = {"skipped_steps": 0.0, "empty_queries": 8.0}
SOME = EMPTY | {"empty_queries": 7.0}
BOTH_WAYS = EMPTY | {"reverse_empty_queries": 7.0}
SKIPPED = {"skipped_steps": 1.0}


def watch(steps: int = 100, on_collapse: OnCollapse = OnCollapse.stop) -> Watch:
    optim = OptimConfig(
        steps=steps,
        batch_size_per_device=8,
        chunk_size=8,
        learning_rate=1.0,
        on_collapse=on_collapse,
    )
    return Watch(optim, 2, 8, steps)


@pytest.mark.parametrize(
    ("steps", "values", "stops_at"),
    [
        (100, [EMPTY] * 20, 10),
        (100, [SOME, *[EMPTY] * 9, SOME, *[EMPTY] * 20], 21),
        (4, [EMPTY] * 4, 4),
        (100, [BOTH_WAYS] * 30, None),  # targets still learn to tell queries apart
        (100, [SOME, *[SKIPPED] * 20], 11),
        (4, [SOME, *[SKIPPED] * 3], 4),
        (4, [SOME, SKIPPED, SOME, SKIPPED], None),
    ],
)
def test_steps_in_a_row_that_teach_nothing_stop_a_run(
    steps: int, values: list[dict[str, float]], stops_at: int | None
) -> None:
    """Ten, or all of a short run."""
    watched = watch(steps)
    for step, of_step in enumerate(values, 1):
        if step == stops_at:
            with pytest.raises(RunError, match=f"^step {step}: .* in a row"):
                watched.add(step, of_step)
            return
        assert watched.add(step, of_step) is None
    assert stops_at is None


def test_a_run_may_be_told_to_go_on_without_negatives() -> None:
    """It is warned of once, over a resumption too, and at the end."""
    first, second = (watch(on_collapse=OnCollapse.warn) for _ in range(2))
    said = [first.add(step, EMPTY) for step in range(1, 8)]
    second.go_on(json.loads(json.dumps(first.state)))
    said += [second.add(step, EMPTY) for step in range(8, 16)]
    assert [n for n, words in enumerate(said, 1) if words] == [10]
    assert "no query of the batch has a negative" in str(said[9])
    assert second.last_words() == [
        "no query of the batch has a negative that the loss may use, in the last 15 steps"
    ]


FILTERED = ("loss.false_negative_margin=-1.9", "loss.hard_negatives_after=0")


def test_stage2_without_negatives_stops(material: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        stage2(material, "no_margin", "loss.false_negative_margin=-2")
    said = capsys.readouterr().err
    assert "loss.false_negative_margin: got -2.0, expected more than -2" in said
    with pytest.raises(RunError, match=r"^step 4: no query .*4 steps in a row.*margin.*warn"):
        stage2(material, "filtered", *FILTERED)
    assert not (material / "filtered/final").exists()
    stage2(material, "filtered", *FILTERED, "optim.on_collapse=warn")
    assert (
        "no query of the batch has a negative that the loss may use, in" in capsys.readouterr().err
    )
    for line in metrics(material / "filtered"):
        assert line["loss"] == 0 and line["empty_queries"] == 8
        assert line.get("accuracy") is None and line.get("hardest_negative_similarity") is None


def test_one_label_for_all_rows_is_refused(material: Path) -> None:
    root = material / "one_label"
    rows = [row | {"pos_text": "yes"} for row in train_rows(root, "Questions", 16)]
    write_rows(root, "Questions", "original", rows)
    with pytest.raises(DataError, match="1 different target"):
        stage2(material, "labelled", f"data.root={root}", "data.sources={Questions: {}}")


@pytest.mark.parametrize(
    ("mode", "said"),
    [("stop", "error: step 2: loss nan"), ("skip", "error: step 4: 3 steps in a row were not fin")],
)
def test_a_learning_rate_that_ruins_the_model_ends_in_one_line(
    mode: str, said: str, material: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = ("optim.learning_rate=1e30", "optim.warmup_steps=0", f"optim.on_nonfinite={mode}")
    with pytest.raises(SystemExit) as ended:
        run_program(lambda: stage1(material, f"ruined_{mode}", *settings) and None)
    told = capsys.readouterr().err
    errors = [line for line in told.splitlines() if line.startswith("error:")]
    assert ended.value.code == 1 and len(errors) == 1 and errors[0].startswith(said), told
    assert "Traceback" not in told
