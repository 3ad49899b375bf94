"""Attacks on the results of evaluations, and on the report and the page that show them."""

from __future__ import annotations

import json
import os
import re
import sys
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from tests.attacks.damage import (
    Deeds,
    cut,
    lying_headers,
    no_json,
    not_a_file,
    remove,
    values,
    write,
)
from tests.attacks.harness import Area, Attack, Deed, each, nothing
from tests.attacks.victims import report
from tests.support.pages.results import write_results

ONE, TWO = "before", "after_stage_1"
TASK = "OK-VQA"
RESULT = f"{ONE}/{TASK}.json"
LINES, SAMPLE = f"{ONE}/image/{TASK}_pred.jsonl", f"{ONE}/image/{TASK}_sample.safetensors"
HTML = "out/page.html"
DATA = re.compile(r'(id="data">)(.*?)(</script>)', re.S)


def build() -> None:
    write_results(Path(), num_queries=6, size=16)
    os.rename("generated.yaml", "suite.yaml")
    shown()
    write("truth.html", DATA.sub(r"\1\3", Path(HTML).read_text()))
    for path in Path("out").iterdir():
        path.unlink()
    Path("out").rmdir()
    Path("outside").mkdir()


def shown(one: str = "one", **settings: Any) -> str:
    """The report's program with its page, which is returned."""
    settings = {"models": {one: ONE, "two": TWO}, "html": HTML} | settings
    report(**settings)
    return Path(settings["html"]).read_text()


def other_page(page: str) -> str | None:
    """A page of which anything but the data, as JSON, is not what it always is; or that says where
    files lie, or is too large to load."""
    found = DATA.search(page)
    if found is None or DATA.sub(r"\1\3", page, count=1) != Path("truth.html").read_text():
        return "a page with other elements or code"
    if "<" in found[2]:
        return "a text of the data could end its element"
    json.loads(found[2])
    if len(page) > 3_000_000:
        return f"a page of {len(page)} characters"
    tables = Path("out/report.md").read_text()
    if re.search(r"<(script|img|svg|iframe|a )", tables):
        return "elements in the Markdown"
    texts = {"page": page, "report.json": Path("out/report.json").read_text(), "report.md": tables}
    named = [name for name, text in texts.items() if os.getcwd() in text]
    return f"{named[0]} says where the files lie" if named else None


def everywhere(text: str) -> Deed:
    """A text wherever a result, or a line of predictions, has one."""

    def put(value: Any) -> Any:
        if isinstance(value, dict):
            kept = ("task", "metric", "modality")
            return {k: v if k in kept or "finger" in k else put(v) for k, v in value.items()}
        if isinstance(value, list):
            return [put(entry) for entry in value]
        return text if isinstance(value, str) else value

    def act() -> None:
        for path in Path(ONE).glob("*.json"):
            write(path, json.dumps(put(json.loads(path.read_text()))))
        for path in Path(ONE).glob("*/*_pred.jsonl"):
            lines = path.read_text().strip().split("\n")
            write(path, "".join(f"{json.dumps(put(json.loads(line)))}\n" for line in lines))

    return act


def line(**changes: Any) -> Deed:
    """The first line of predictions, with changes."""

    def act() -> None:
        first, _, rest = Path(LINES).read_text().partition("\n")
        write(LINES, f"{json.dumps(json.loads(first) | changes)}\n{rest}")

    return act


def sample(change: Any) -> Deed:
    rows = torch.nn.functional.normalize(torch.ones(6, 16), dim=1)
    return lambda: save_file(change(rows.clone()), SAMPLE)


PAYLOADS = {
    "script": "<script>document.title=1</script>",
    "end-of-script": "</script><script>alert(1)</script>",
    "end-of-script-spaced": "</ScRiPt \t><svg/onload=alert(1)>",
    "comment": "<!--<script>",
    "image": '<img src=x onerror="alert(1)">',
    "attribute": '" onmouseover=alert(1) x="',
    "single-quote": "' autofocus onfocus=alert(1) '",
    "address": "javascript:alert(1)",
    "link": "[click](javascript:alert(1))",
    "data-address": "data:text/html,<script>alert(1)</script>",
    "template": "{{7*7}}${7*7}<%= 7*7 %>",
    "slot": "{{css}}{{js}}{{data}}",
    "backreference": "\\1\\g<0>\\3",
    "cdata": "]]><script>alert(1)</script>",
    "entities": "&lt;script&gt;alert(1)&lt;/script&gt;",
    "separators": "\u2028\u2029alert(1)//",
    "surrogate": "\ud800<script>",
    "direction": "\u202egnp.exe",
    "terminal": "\x1b]0;title\x07\x1b[2J",
    "markup": "[bold red]x[/] [link=javascript:alert(1)]y[/link]",
    "table": "| a | b |\n|---|---|\n| <script>alert(1)</script> |",
    "prototype": "__proto__",
    "constructor": "constructor",
    "long": "x" * 1_000_000,  # A22
    "long-words": "word " * 200_000,
    "combining": "a" + "\u0301" * 50_000,
    "nul": "a\0b",
}
DAMAGED: Deeds = {
    **no_json(RESULT),
    **not_a_file(RESULT),
    **values(RESULT, "score", float("nan"), float("inf"), 2, "x", None, 10**400),
    **values(
        RESULT, "values", [], [float("nan")] * 6, [2.0] * 6, ["x"] * 6, None, [0.5] * 6, [0] * 9
    ),
    **values(RESULT, "ci95", [], [float("nan")] * 2, "x", None, [1]),
    **values(RESULT, "num_queries", -1, 0, 10**12, "x", None, True),
    **values(RESULT, "num_rows", -1, 1, "x"),
    **values(RESULT, "metrics", {}, None, {"hit@1": float("nan")}, {"hit@1": "x"}, []),
    **values(RESULT, "chance", float("nan"), -1, 2, "x"),
    **values(RESULT, "mean_similarity", float("nan"), "x"),
    **values(RESULT, "effective_rank", float("inf"), -1),
    **values(RESULT, "tied_queries", -1, 99, "x"),
    **values(RESULT, "seconds", -1, float("nan")),
    **values(RESULT, "task", "../x", "x", None, 7),
    **values(RESULT, "modality", "../../outside", "..", None, 7, "x" * 5000),
    **values(RESULT, "metric", "x", None, 7, "__class__"),
    **values(RESULT, "inputs", None, 7, {}, {"prompt": {"a": 1}}),
    **values(RESULT, "config", None, 7, {}, {"data": {"limit": -1}}, {"data": {"limit": "x"}}),
    **values(RESULT, "versions", None, 7, {"torch": []}),
    **values(RESULT, "left_out", None, "x", [7], ["x"] * 50_000),
    **values(RESULT, "not_supported", "x", 7, ""),
    **values(RESULT, "shown", 7, {"pixel_budget": {"a": 1}}),
    **values(RESULT, "resolved", None, {"base": {"a": []}}),
    "result-gone": lambda: remove(RESULT),
}
BESIDE: Deeds = {
    **no_json(LINES, "empty"),
    **not_a_file(LINES),
    **cut(LINES, 5),
    "lines-none": lambda: write(LINES, ""),
    "lines-too-many": lambda: write(LINES, Path(LINES).read_text() * 2),
    "lines-surrogates": lambda: write(LINES, b'{"prediction": ["\xed\xa0\x80"]}\n' * 6),
    "no-prediction": line(prediction=[]),
    "no-gold": line(gold=[]),
    "scores-nan": line(scores=[float("nan")] * 3),
    "scores-text": line(scores=["x"]),
    "gold-score": line(gold_score=float("inf")),
    "tied": line(tied=-1),
    "query-number": line(query=7),
    "query-images": line(query={"images": [7]}),
    "query-empty": line(query={}),
    "many-top": line(top=[{"text": "x"}] * 9),
    **{f"picture-{name}": line(query={"images": [path]}) for name, path in {
        "gone": "gone.png", "device": "/dev/zero", "process": "/proc/self/environ", "folder": ".",
        "nul": "a\0b", "long": "x" * 5_000, "address": "http://127.0.0.1:9/x.png",
        "secret": "../outside/secret.txt", "fifo": "fifo",
    }.items()},
    **cut(SAMPLE, 4),
    **lying_headers(SAMPLE),
    **not_a_file(SAMPLE),
    "sample-nan": sample(lambda r: {"queries": r * float("nan"), "targets": r}),
    "sample-zero": sample(lambda r: {"queries": r * 0, "targets": r * 0}),
    "sample-infinite": sample(lambda r: {"queries": r / 0, "targets": r}),
    "sample-one-dimension": sample(lambda r: {"queries": r[0].clone(), "targets": r[1].clone()}),
    "sample-other-shapes": sample(lambda r: {"queries": r, "targets": r[:3].clone()}),
    "sample-no-rows": sample(lambda r: {"queries": r[:0].clone(), "targets": r[:0].clone()}),
    "sample-no-columns": sample(
        lambda r: {side: r[:, :0].clone() for side in ("queries", "targets")}
    ),
    "sample-int8": sample(lambda r: {"queries": r.to(torch.int8), "targets": r.to(torch.int8)}),
    "sample-more-rows": sample(lambda r: {"queries": r.repeat(9, 1), "targets": r.repeat(9, 1)}),
}  # fmt: skip


def with_fifo(deed: Deed) -> Deed:
    return lambda: (os.mkfifo("fifo"), deed())


def ascii_only() -> None:
    """A terminal that has no other characters (A21)."""
    sys.stdout.reconfigure(encoding="ascii", errors="strict")  # type: ignore[union-attr]


def attacks() -> list[Attack]:
    names = (ONE, TASK)
    texts = {f"texts-{name}": everywhere(text) for name, text in PAYLOADS.items()}
    keys = ("models", "config.yaml", "leaderboard")
    beside = {n: with_fifo(d) if n == "picture-fifo" else d for n, d in BESIDE.items()}
    return [
        *each({"control": nothing} | texts | DAMAGED | beside, shown, names, other_page),
        *[
            Attack(f"name-{name}", nothing, lambda text=text: shown(text), keys, other_page)
            for name, text in PAYLOADS.items()
        ],
        Attack("ascii-terminal", ascii_only, lambda: shown("модель"), keys, other_page),
        *[
            Attack(
                f"output-{name}",
                nothing,
                lambda s=settings: shown(**s),
                ("output", "html", "cannot"),
            )
            for name, settings in {
                "folder": {"output": "."},
                "below-a-file": {"output": "suite.yaml/r.json"},
                "device": {"html": "/dev/full"},
                "nul": {"html": "a\0b"},
                "long": {"html": "x" * 400},
                "itself": {"html": "out/report.json"},
                "suite": {"output": "suite.yaml"},
            }.items()
        ],
    ]


AREA = Area("results", build, attacks, ("texts-end-of-script",))
