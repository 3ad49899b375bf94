"""How an interrupted pretraining of the demo's base ends.

./launch.sh test tests/data_prep/test_pretrain.py
"""

from __future__ import annotations

import os
import signal
from types import SimpleNamespace

import pytest

from data_prep.demo_base import pretrain


@pytest.mark.parametrize(("signum", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_interrupted_it_saves_and_says_so(
    signum: signal.Signals, status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved = []
    training = SimpleNamespace(
        train=lambda: os.kill(os.getpid(), signum), save=lambda: saved.append(True)
    )
    monkeypatch.setattr(pretrain, "load_config", lambda *_: SimpleNamespace(export=None))
    monkeypatch.setattr(pretrain, "Pretraining", lambda _: training)
    before = {one: signal.getsignal(one) for one in (signal.SIGINT, signal.SIGTERM)}
    signal.signal(signal.SIGINT, signal.default_int_handler)  # in the background it is ignored
    try:
        with pytest.raises(SystemExit) as ended:
            pretrain.main([])
    finally:
        for one, handler in before.items():
            signal.signal(one, handler)
    assert ended.value.code == status and saved == [True]
