"""What mining did, as tables and as a page with examples (unime/mining/outcome.py)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

from eval.page.build import PARTS, SLOT
from eval.page.pictures import Pictures
from unime.config import InputConfig
from unime.inputs.items import whole_characters
from unime.runtime.names import LONGEST, for_others

MOST_BYTES = 12_000_000  # of thumbnails
NAMES, NAME = ("task", "of"), ' class="name"'  # columns of names
Report = Mapping[str, Any]
Table = tuple[str, list[str], list[list[str]]]  # title, heads, rows


def mined_tables(reports: Mapping[str, Report]) -> str:
    """All tables in Markdown."""
    return "\n".join(
        f"{title}\n\n| {' | '.join(heads)} |\n|{' --- |' * len(heads)}\n"
        + "".join(f"| {' | '.join(cell.replace('|', '¦') for cell in row)} |\n" for row in rows)
        for title, heads, rows in _tables(reports)
    )


def mined_page(reports: Mapping[str, Report], inputs: InputConfig) -> str:
    """One page that loads nothing, its pictures inside.

    Args:
        inputs: how large a picture may be.
    """
    pictures = Pictures(inputs.max_image_pixels)
    examples = [(task, example) for task, of in reports.items() for example in of["examples"]]
    for _, example in examples:
        for item in _items(example):
            pictures.ask(item["images"])
    pictures.load(MOST_BYTES)
    rows = sum(report["rows"] for report in reports.values())
    negatives = sum(report["negatives"] for report in reports.values())
    parts = {
        "css": (PARTS / "page.css").read_text(encoding="utf-8"),
        "facts": f"{negatives:,} negatives of {rows:,} rows in {len(reports)} tasks",
        "tables": "\n".join(_section(*table) for table in _tables(reports)),
        "cards": "\n".join(_card(task, example, pictures) for task, example in examples),
    }
    template = (PARTS / "mined.html").read_text(encoding="utf-8")
    return str(whole_characters(SLOT.sub(lambda slot: parts[slot[1]], template)))


def _tables(reports: Mapping[str, Report]) -> Iterable[Table]:
    heads = ["task", "rows", "targets", "negatives", "rows with fewer", "bad rows left out"]
    yield "Rows", heads, [
        [
            task,
            *(f"{report[key]:,}" for key in ("rows", "targets", "negatives")),
            f"{report['short']['rows']:,}",
            f"{len(report['left_out']):,}",
        ]
        for task, report in reports.items()
    ]  # fmt: skip
    names = dict.fromkeys(name for report in reports.values() for name in report["rules"])
    yield (
        "Candidates that each rule drops, and of them those that none before it does",
        ["task", "candidates", *names],
        [
            [task, f"{report['candidates']:,}", *(_dropped(report, name) for name in names)]
            for task, report in reports.items()
        ],
    )
    shares = ["count", "mean", "5%", "25%", "50%", "75%", "95%"]
    yield (
        "Similarities to the query",
        ["task", "of", *shares],
        [
            [task, name, *(f"{scores.get(key, ''):,}" if key in scores else "" for key in shares)]
            for task, report in reports.items()
            for name, scores in report["scores"].items()
        ],
    )


def _dropped(report: Report, name: str) -> str:
    counts = report["rules"].get(name)
    return f"{counts['dropped']:,} ({counts['first']:,})" if counts else ""


def _section(title: str, heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    titles = [
        f'<th scope="col"{NAME if cell in NAMES else ""}>{_shown(cell)}</th>' for cell in heads
    ]
    body = "".join(
        f'<tr><th scope="row">{_shown(first)}</th>'
        + "".join(
            f"<td{NAME if head in NAMES else ''}>{_shown(cell)}</td>"
            for head, cell in zip(heads[1:], rest, strict=True)
        )
        + "</tr>"
        for first, *rest in rows
    )
    return (
        f'<section><h2>{_shown(title)}</h2><div class="scroll"><table><thead><tr>{"".join(titles)}'
        f"</tr></thead><tbody>{body}</tbody></table></div></section>"
    )


def _card(task: str, example: Report, pictures: Pictures) -> str:
    mined = [(entry, "") for entry in example["negatives"]]
    dropped = [(e, ", ".join(e["rules"]).replace("_", " ")) for e in example["dropped"]]
    right = _part(f"right, {example['score']:.3f}", _item(example["target"], pictures))
    return (
        f'<article class="card"><header><h3>{_shown(example["row_id"])}</h3>'
        f'<span class="badge">{_shown(task)}</span></header>'
        + _part("query", _item(example["query"], pictures))
        + right
        + _list("mined", mined, pictures)
        + _list("dropped", dropped, pictures)
        + "</article>"
    )


def _list(title: str, entries: Sequence[tuple[Report, str]], pictures: Pictures) -> str:
    lines = "".join(
        f'<li><span class="rank">{number}</span>{_item(entry["item"], pictures)}'
        f'<span class="score">{entry["score"]:.3f}<span class="small">{_shown(rules)}</span></span>'
        "</li>"
        for number, (entry, rules) in enumerate(entries, 1)
    )
    return _part(f"{title}: {len(entries)}", f'<ol class="found">{lines}</ol>')


def _part(title: str, content: str) -> str:
    return f'<div class="part"><h4>{_shown(title)}</h4>{content}</div>'


def _item(item: Report, pictures: Pictures) -> str:
    shown = "".join(_picture(pictures.shown(path), pictures) for path in item["images"])
    parts = [f'<div class="pictures">{shown}</div>'] if shown else []
    if item["instruction"]:
        parts.append(f'<span class="instruction">{_shown(item["instruction"])}</span> ')
    parts.append(f"<bdi>{_shown(item['text'])}</bdi>")
    return f'<div class="item">{"".join(parts)}</div>'


def _picture(found: int | str, pictures: Pictures) -> str:
    if isinstance(found, int):
        return f'<img alt="" src="{pictures.uris[found]}">'
    return f'<span class="absent">{_shown(found)}</span>'


def _items(example: Report) -> Iterable[Report]:
    yield from (example["query"], example["target"])
    yield from (entry["item"] for entry in (*example["negatives"], *example["dropped"]))


def _shown(text: str) -> str:
    return escape(str(for_others(text))[:LONGEST])
