"""README.md of an exported model: what it is, how it was made, how good it is, how it is used."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from unime.config import ConfigError

ADAPTER = "it is an adapter for peft"  # why sentence-transformers does not load it
HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
USE = """\
## Use

```python
from PIL import Image
from sentence_transformers import SentenceTransformer  # 6 or newer

model = SentenceTransformer("{folder}"{trust})
picture = Image.open("bird.jpg")
vectors = model.encode(["a red bird", picture, {{"image": picture, "text": "Which bird is it?"}}])
print(model.similarity(vectors, vectors))
```

The chat template carries the prompt (preset `{prompt}`), so items are given as they are; a task
instruction is `prompt=`. Embeddings have {size} dimensions and norm 1: the last token's state of
the language model's last layer, after its norm.
With [unime](https://arxiv.org/abs/2504.17432) itself: `model.name={folder}`, other settings as they
come.
"""
USE_UNIME = """\
## Use

```python
from unime.config import InputConfig, ModelConfig, Quantization
from unime.encoder import Encoder
from unime.items import Item

model = ModelConfig("{folder}", quantization=Quantization.none{trust})
encoder = Encoder.load(model, InputConfig())
items = [Item("a red bird"), Item("Which bird is it?", ("/path/bird.jpg",))]
vectors = [encoder(encoder.processor.collate([encoder.processor(item)])) for item in items]
```

Embeddings have {size} dimensions and norm 1: the last token's state of the language model's last
layer, after its norm. The prompt is preset `{prompt}`. In sentence-transformers: {limits}.
"""
USE_ADAPTER = """\
## Use

One LoRA adapter for `{origin}`:

```python
from peft import PeftModel
from transformers import AutoModelForImageTextToText

base = AutoModelForImageTextToText.from_pretrained("{origin}")
model = PeftModel.from_pretrained(base, "{folder}")
```

An embedding is the state of the last real token in the base model's `last_hidden_state`, made a
unit vector ({size} dimensions); the prompt is unime's preset `{prompt}`. With unime itself:
`model.name={folder}`, other settings as they come.
"""
LIMITS = """\
- {resolution}
- In training, texts longer than {max_text_tokens} tokens were cut there; sentence-transformers does
  not cut them.
- Images are expected upright, in RGB, on white where they are transparent.
"""
RESOLUTIONS = {
    "native": "Images of any size, as the processor takes them.",
    "resized": "Trained on images of {resolution}, which its processor cannot do by itself: the two"
    " Python files beside this one do, therefore `trust_remote_code=True`. Other programs must"
    " resize first.",
    "carried": "Trained on images of {resolution}, which its processor does.",
}


@dataclass
class Exported:
    """What was exported, as the card says it."""

    size: int  # of its vectors
    inputs: dict[str, Any]
    limits: dict[str, str]  # what sentence-transformers cannot do with it, and why
    figures: list[str]  # what was compared


def model_card(
    name: str,
    base: Mapping[str, Any],
    done: Exported,
    resizes: bool,
    recipes: Mapping[str, Mapping[str, Any]],
    scores: str | None,
    license: str | None,
    commit: str,
) -> str:
    """
    Args:
        resizes: the model brings code that resizes images.
        recipes: the configuration of each stage by its title, in their order.
        scores: a Markdown table.
    """
    origin, is_hub_id = base["name"], False
    if HUB_ID.fullmatch(origin) and not Path(origin).exists():
        is_hub_id = True
    else:
        origin = Path(origin).name  # where the folder lay is nobody's business
    resolution = "native" if done.inputs["resolution"] == "native" else "carried"
    described = RESOLUTIONS["resized" if resizes else resolution].format(**done.inputs)
    library = "transformers" if "all" in done.limits else "sentence-transformers"
    lines = [
        f"---\n{_head(library, base, origin if is_hub_id else None, license)}---\n",
        f"# {name}\n",
        f"A universal embedding model for texts and images, made of `{origin}` in the way of"
        " UniME (Gu et al. 2025, [arXiv 2504.17432](https://arxiv.org/abs/2504.17432)).\n",
        _use(name, origin, done, trust=resizes or base["trust_remote_code"]),
        LIMITS.format(resolution=described, max_text_tokens=done.inputs["max_text_tokens"]),
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


def _use(name: str, origin: str, done: Exported, trust: bool) -> str:
    kinds = ["not at all" if kind == "all" else f"not {kind}" for kind in done.limits]
    reasons = "; ".join(
        f"{kind} ({why})" for kind, why in zip(kinds, done.limits.values(), strict=True)
    )
    form = USE_ADAPTER if done.limits.get("all") == ADAPTER else USE_UNIME if done.limits else USE
    return form.format(
        folder=name,
        origin=origin,
        limits=reasons,
        trust=", trust_remote_code=True" if trust else "",
        prompt=done.inputs["prompt"],
        size=done.size,
    )


def recipes(run: Path) -> dict[str, dict[str, Any]]:
    """The configurations of a run and of the one whose adapter it starts from, as far as they are
    there, the first stage first.

    Raises:
        ConfigError: one that is there is none of a stage.
    """
    run = run.parent if run.name == "final" else run
    run = run.parents[1] if run.parent.name == "checkpoints" else run
    path = run / "config.yaml"
    if not path.is_file():
        return {}
    try:
        config: Any = OmegaConf.to_container(OmegaConf.load(path))
        recipe("", config)
    except (OSError, yaml.YAMLError, OmegaConfBaseException, KeyError, TypeError) as error:
        raise ConfigError(f"run: {path} is not a stage's configuration: {error!r}") from None
    title = "Stage 1, distillation" if "texts" in config["data"] else "Stage 2, instruction tuning"
    adapter = config["model"].get("adapter")
    before = recipes(Path(adapter)) if adapter else {}
    return before | {f"{title} ({run.name})" if title in before else title: config}


def recipe(title: str, config: Mapping[str, Any]) -> str:
    """One stage in words and numbers."""
    data, optim, lora, loss = (config[key] for key in ("data", "optim", "lora", "loss"))
    if "texts" in data:
        what = f"texts of {', '.join(data['texts'])}; teacher: `{data['teacher']}`"
    else:
        sources = ", ".join(
            f"{name} ({source['rows'] or 'all'} rows)" for name, source in data["sources"].items()
        )
        what = f"pairs of `{data['root']}` ({data['split']}): {sources}"
    length = f"{optim['steps']} steps" if optim["steps"] else f"{optim['epochs']} epochs"
    kind = "DoRA" if lora["use_dora"] else "LoRA"
    losses = ", ".join(f"{key} {value}" for key, value in loss.items())
    return (
        f"**{title}**: {what}.\n"
        f"{kind} of rank {lora['rank']} and alpha {lora['alpha']} on {', '.join(lora['train'])};"
        f" base in {config['model']['quantization']} / {config['model']['precision']};"
        f" {length} of {optim['batch_size_per_device']} a device, learning rate"
        f" {optim['learning_rate']}, {optim['schedule']}, {optim['warmup_steps']} steps of warm-up;"
        f" loss: {losses}.\n"
    )
