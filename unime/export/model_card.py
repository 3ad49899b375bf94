"""README.md of an exported model: what it is, how it was made, how good it is, how it is used."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from unime.export.card_snippets import sentence_transformers_lines
from unime.export.run_facts import HUB_ID, public, recipe

ADAPTER = "it is an adapter for peft"  # why sentence-transformers does not load it
CODE = """\
**Load it with `trust_remote_code=True`**: three small Python files beside this one (read them) give
the model pictures as it saw them in training: transparent ones on white, photographs upright, 16
bits scaled{resized}. Without them sentence-transformers drops the transparency of files and leaves
PIL images on their side. `./launch.sh export RUN OUT code=false` writes this model without code.
"""
NO_CODE = """\
**It carries no code**, and sentence-transformers embeds these otherwise than training did:

{otherwise}

What another program should be given instead is a picture in RGB, upright, on white where it is
transparent{resized}.
"""
COLLAPSED = "**Do not rely on it**: {sign}.\n"
USE = """\
## Use

{lines}
The chat template carries the prompt (preset `{prompt}`), so items are given as they are; a task
instruction is `prompt=`. Embeddings have {size} dimensions and norm 1: the last token's state of
the language model's last layer, after its norm.
With [unime](https://arxiv.org/abs/2504.17432) itself: `model.name={folder}`, other settings as they
come.
"""
USE_UNIME = """\
## Use

{lines}
Embeddings have {size} dimensions and norm 1: the last token's state of the language model's last
layer, after its norm. The prompt is preset `{prompt}`. In sentence-transformers: {limits}.
"""
USE_ADAPTER = """\
## Use

One LoRA adapter for `{origin}`, trained on its weights {held}: on others it gives other vectors.
In unime, which finds the base where `adapter_config.json` says, and does the rest as in training
(`model.name={folder}` in its configurations):

{lines}
{peft}
Embeddings have {size} dimensions and norm 1: the state of the last real token in the base model's
`last_hidden_state`. The prompt is unime's preset `{prompt}`.
"""
PEFT = """\
In transformers and peft alone, a picture with a text; other kinds of items have other prompts
(`unime/models/prompts.py`). Lay a transparent picture on white first.

{lines}"""
HELD = {
    "none": "as they are, in {precision}",
    "nf4": "in NF4 (4 bits, computing in {precision})",
    "int8": "in 8 bits (LLM.int8, the rest in {precision})",
}
LIMITS = """\
- {resolution}
- In training, texts longer than {max_text_tokens} tokens were cut there; {others} not cut them.
- Pictures were upright, in RGB, on white where they are transparent, 16 bits scaled to 8.
"""
NATIVE = "Images of any size, as the processor takes them."
RESOLUTIONS = {
    "code": "Trained on images of {resolution}, to which the code here resizes them.",
    "given": "Trained on images of {resolution}, which its processor cannot do by itself: resize"
    " them first (bicubic).",
    "processor": "Trained on images of {resolution}, which its processor does.",
    "unime": "Trained on images of {resolution}, which unime resizes to and the base's processor"
    " does not: other programs must resize first (bicubic).",
}


@dataclass
class Exported:
    """What was exported, as the card says it."""

    size: int  # of its vectors
    inputs: dict[str, Any]
    limits: dict[str, str]  # what sentence-transformers cannot do with it, and why
    figures: list[str]  # what was compared
    lines: str  # of Python, in unime
    resizes: bool  # to inputs.resolution before the processor, which does not
    code: bool = False  # it carries code that reads pictures
    otherwise: list[str] = field(default_factory=list)  # pictures that are embedded otherwise
    peft: str | None = None  # lines of Python, in peft
    collapsed: list[str] = field(default_factory=list)  # signs of it


def model_card(
    name: str,
    base: Mapping[str, Any],
    done: Exported,
    recipes: Mapping[str, Mapping[str, Any]],
    scores: str | None,
    license: str | None,
    commit: str,
) -> str:
    """The README.md of an exported model.

    Args:
        recipes: the configuration of each stage by its title, in their order.
        scores: a Markdown table.
    """
    origin, given = public(base["name"]), base["name"]
    is_hub_id = bool(HUB_ID.fullmatch(given)) and not Path(given).exists()
    library = "transformers" if "all" in done.limits else "sentence-transformers"
    lines = [
        f"---\n{_head(library, base, origin if is_hub_id else None, license)}---\n",
        f"# {name}\n",
        f"A universal embedding model for texts and images, made of `{origin}` in the way of"
        " UniME (Gu et al. 2025, [arXiv 2504.17432](https://arxiv.org/abs/2504.17432)).\n",
        *(COLLAPSED.format(sign=sign) for sign in done.collapsed),
        _pictures(done),
        _use(name, origin, base, done),
        _limits(done),
        "## Training\n",
        *(recipe(title, config) for title, config in recipes.items()),
        "" if recipes else "The run's configuration was not there to be described.\n",
        "## Scores\n",
        scores or "Not evaluated.\n",
        "## Export\n",
        f"By unime at commit {commit}:\n",
        *(f"- {figure}" for figure in done.figures),
        "\n## Licence\n",
        f"{license or 'Not stated'}. The licence of the base model, `{origin}`, and those of"
        " the data bind what is made of them.\n",
    ]
    return "\n".join(lines)


def _head(library: str, base: Mapping[str, Any], origin: str | None, license: str | None) -> str:
    head: dict[str, Any] = {
        "library_name": library,
        "pipeline_tag": "feature-extraction",
        "tags": ["multimodal", "embeddings", "unime", base["model_type"]],
    }
    head |= {"base_model": origin} if origin else {}
    return yaml.safe_dump(head | ({"license": license} if license else {}), sort_keys=False)


def _pictures(done: Exported) -> str:
    """What must be typed, or what is embedded otherwise; the first thing that a card says."""
    resized = f", resized to {done.inputs['resolution']}" if done.resizes else ""
    if done.code:
        return CODE.format(resized=resized)
    if done.otherwise:
        otherwise = "\n".join(f"- {kind}" for kind in done.otherwise)
        return NO_CODE.format(otherwise=otherwise, resized=resized)
    return ""


def _limits(done: Exported) -> str:
    own = "code" if done.code else "unime" if "all" in done.limits else "given"
    way = own if done.resizes else "processor"
    form = NATIVE if done.inputs["resolution"] == "native" else RESOLUTIONS[way]
    others = "other programs do" if "all" in done.limits else "sentence-transformers does"
    return LIMITS.format(
        resolution=form.format(**done.inputs),
        others=others,
        max_text_tokens=done.inputs["max_text_tokens"],
    )


def _use(name: str, origin: str, base: Mapping[str, Any], done: Exported) -> str:
    kinds = ["not at all" if kind == "all" else f"not {kind}" for kind in done.limits]
    reasons = "; ".join(
        f"{kind} ({why})" for kind, why in zip(kinds, done.limits.values(), strict=True)
    )
    adapter = done.limits.get("all") == ADAPTER
    lines = done.lines
    if not done.limits:
        lines = sentence_transformers_lines(done.code or base["trust_remote_code"])
    form = USE_ADAPTER if adapter else USE_UNIME if done.limits else USE
    peft = PEFT.format(lines=done.peft.format(folder=name)) if done.peft else ""
    return form.format(
        folder=name,
        origin=origin,
        held=HELD[base["quantization"]].format(precision=base["precision"]),
        lines=lines.format(folder=name),
        peft=peft,
        limits=reasons,
        prompt=done.inputs["prompt"],
        size=done.size,
    )
