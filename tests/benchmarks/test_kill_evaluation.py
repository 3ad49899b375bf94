"""benchmarks/kill_evaluation counts what a kill interrupted, and says where nothing was killed.

./launch.sh test tests/benchmarks/test_kill_evaluation.py
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks import kill_evaluation
from benchmarks.kill_evaluation import LOG, counted, main
from tests.support.paths import ROOT
from unime.retrieval.unime_embedder import UnimeEmbedder
from unime.runtime.environment import git_commit

CONFIG = str(ROOT / "configs/demo/eval.yaml")


def started(monkeypatch: pytest.MonkeyPatch, *acts: str) -> None:
    """An evaluation that does the next of these acts instead, in Python with its log's name."""
    left = iter(acts)

    def start(output: Path, arguments: Any) -> subprocess.Popen[bytes]:
        code = f"import sys, time; log = {str(output)!r} + '.log.'\n"
        code += "def note(what, count): open(log + what + '.0', 'ab').write(bytes(count))\n"
        return subprocess.Popen([sys.executable, "-c", code + next(left)], start_new_session=True)

    monkeypatch.setattr(kill_evaluation, "start", start)


WHOLE = "note('begun', 4); note('encoded', 4)"
STUCK = "note('begun', 4); note('encoded', 2); time.sleep(600)"
REST = "note('begun', 2); note('encoded', 2)"


def test_an_interrupted_chunk_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started(monkeypatch, WHOLE, STUCK, REST)
    monkeypatch.setattr(kill_evaluation.random.Random, "randint", lambda *_: 2)
    main([CONFIG, str(tmp_path / "out"), "--kills", "1"])
    outcome = json.loads((tmp_path / "out/outcome.json").read_text())
    assert outcome["killed_after_items"] == [2]
    assert (outcome["begun_twice"], outcome["encoded_twice"]) == (2, 0)
    assert outcome["commit"] == git_commit()


def test_without_a_kill_nothing_was_tried(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started(monkeypatch, WHOLE, WHOLE, "pass")
    with pytest.raises(SystemExit, match="no kill"):
        main([CONFIG, str(tmp_path / "out"), "--kills", "1"])


def test_an_attempt_that_fails_by_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started(monkeypatch, WHOLE, "sys.exit(3)")
    with pytest.raises(SystemExit, match="status 3"):
        main([CONFIG, str(tmp_path / "out"), "--kills", "1"])


def test_a_child_notes_what_it_begins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(self: UnimeEmbedder, inputs: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(UnimeEmbedder, "embed", interrupted)
    monkeypatch.setitem(os.environ, LOG, f"{tmp_path}/out.log")
    inputs: Any = ([([0, 2], {}), ([1], {})], None)
    embedder = object.__new__(UnimeEmbedder)
    monkeypatch.setattr(kill_evaluation.evaluate, "main", lambda _: embedder.embed(inputs))
    monkeypatch.setattr(kill_evaluation, "run_program", lambda program: program())
    with pytest.raises(KeyboardInterrupt):
        kill_evaluation.child([])
    assert (counted(tmp_path / "out", "begun"), counted(tmp_path / "out")) == (3, 0)
