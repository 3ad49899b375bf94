"""./launch.sh serve as a process: what it says, what it refuses, and how it ends.

./launch.sh test -m "use or not use" tests/serving/test_program.py
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from stages.serve import main
from tests.serving.services import Running
from tests.support.checkout import Checkout
from tests.support.paths import ROOT
from unime.config import ServeConfig
from unime.errors import ConfigError
from unime.serving.access import KEY, Access


def test_launch(checkout: Checkout) -> None:
    assert checkout.launch("serve", "a run", "port=8080")[0] == 0
    assert checkout.ran()[1:] == ["-m", "stages.serve", "a run", "port=8080"]
    assert checkout.launch("serve")[0] == 2


def test_others_reach_it_with_a_key_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(KEY, raising=False)
    for host in ("0.0.0.0", "::", "192.0.2.1", "a.example"):
        with pytest.raises(ConfigError, match="host: got .*expected a loopback address, a key in"):
            main(["no/such/model", f"host={host}"])
        Access(ServeConfig(model="a", host=host, without_key=True))
    for host in ("127.0.0.1", "::1", "localhost"):
        Access(ServeConfig(model="a", host=host))
    monkeypatch.setenv(KEY, "a key")
    Access(ServeConfig(model="a", host="0.0.0.0"))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ({"port": 70_000}, "port: got 70000"),
        ({"max_items": 2000}, "max_items: got 2000, expected at most queue_items=1024"),
        ({"max_body_mib": 500}, "max_body_mib: got 500, expected at most held_mib=256"),
        ({"allowed_hosts": ["https://a.example"]}, "allowed_hosts: got 'https://a.example'"),
        ({"batch_tokens": 0}, "batch_tokens: got 0"),
    ],
)
def test_settings_that_cannot_be(words: dict[str, object], said: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(said)):
        ServeConfig(model="a", **words)  # type: ignore[arg-type]


def test_a_short_queue_is_set_alone() -> None:
    assert ServeConfig(model="a", queue_items=24).most_items == 24
    assert ServeConfig(model="a").most_items == 256


@contextmanager
def program(model: Path, *words: str) -> Iterator[tuple[subprocess.Popen[str], Running]]:
    command = [sys.executable, "-m", "stages.serve", str(model), "port=0", *words]
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background ignores it
    started = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    try:
        assert started.stdout is not None
        line = started.stdout.readline()
        found = re.search(r"at http://127\.0\.0\.1:(\d+)", line)
        assert found is not None, line
        yield started, Running(None, int(found[1]))  # type: ignore[arg-type]
    finally:
        started.kill()
        started.wait()


@pytest.mark.use
@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_what_was_accepted_is_answered_after_a_signal(
    tiny_model: Callable[..., Path], signum: int
) -> None:
    texts = [f"text {n}" for n in range(60)]
    with program(tiny_model("qwen2_vl"), "batch_tokens=100") as (started, served):
        assert served.ask("/health")[1]["dimensions"] > 0
        went = threading.Event()

        def ask() -> int:
            went.set()
            return served.ask("/v1/embeddings", {"input": texts})[0]

        with ThreadPoolExecutor(1) as clients:
            asked = clients.submit(ask)
            went.wait()
            while "unime_queue_items 0.0" in served.ask("/metrics")[1]:
                pass
            os.kill(started.pid, signum)
            assert asked.result(60) == 200
        assert started.wait(60) == (130 if signum == signal.SIGINT else -signal.SIGTERM)
        with pytest.raises(ConnectionError):
            served.ask("/health")
