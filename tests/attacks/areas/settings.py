"""Attacks on the YAML of programs and suites, and on the words of a command line."""

from __future__ import annotations

from typing import Any

from eval.tasks.suites import load_suite
from tests.attacks.areas.lines import ANCHORS
from tests.attacks.damage import Deeds, link, not_a_file, renamed, write
from tests.attacks.harness import SECRET, SECRET_NAME, Area, Attack, each, nothing
from unime.config import Stage2Config, dump_config, load_config

FILE, SUITE = "config.yaml", "suite.yaml"
RIGHT = (
    "run: {output_dir: o}\nmodel: {name: m}\ndata: {root: r, sources: {A: {}}}\n"
    "optim: {steps: 1, batch_size_per_device: 2, chunk_size: 2, learning_rate: 1.0}\n"
)
TASKS = "Cats: {meta_task: vqa}\n"


def build() -> None:
    write(FILE, RIGHT)
    write(SUITE, TASKS)
    write("outside/config.yaml", RIGHT)


def config(*words: str) -> str:
    """What a stage's program makes of the file and the words."""
    return dump_config(load_config(Stage2Config, ["--config", FILE, *words]))


def suite() -> dict[str, Any]:
    return load_suite(SUITE)


def repeats(found: str) -> str | None:
    return "the environment's secret" if SECRET in found else None


def leads_out(found: dict[str, Any]) -> str | None:
    """Tasks whose files would lie outside of the output folder, or in the place of another's."""
    for name, task in found.items():
        for part in (name, task.modality):
            if part.startswith(".") or "/" in part or "\0" in part or len(part) > 200:
                return f"writes to {part[:80]!r}"
        if task.modality == "embeddings":
            return "takes the place of the store"
    return None


DEEP = "[" * 20_000 + "]" * 20_000
ANYWHERE: dict[str, str | bytes] = {  # in place of the file
    "anchors": ANCHORS,
    "anchors-merged": "a: &a {x: 1}\n"
    + "".join(
        f"b{n}: &b{n} {{<<: [{', '.join([f'*b{n - 1}' if n else '*a'] * 9)}]}}\n" for n in range(12)
    ),
    "recursive": "a: &a [*a]\n",
    "recursive-mapping": "a: &a {b: *a}\n",
    "recursive-merge": "a: &a\n  <<: *a\n",
    "deep": f"run: {DEEP}\n",
    "deep-blocks": "".join(" " * n + "a:\n" for n in range(3_000)),
    "python": "run: !!python/object/apply:os.system ['touch ../outside/pwned']\n",
    "python-name": "run: !!python/name:os.system\n",
    "python-module": "run: !!python/module:os\n",
    "unknown-tag": "run: !evil {a: b}\n",
    "binary": "run: !!binary aGVsbG8=\n",
    "set": "run: !!set {a, b}\n",
    "latin-1": b"run: caf\xe9\n",
    "utf-16": "run: {}\n".encode("utf-16"),
    "nul": b"run: \0\n",
    "controls": b"run: \x07\x1b[31m\n",
    "tab": "run:\n\toutput_dir: o\n",
    "two-documents": RIGHT + "---\n" + RIGHT,
    "list": "- a\n",
    "number": "7\n",
    "null": "null\n",
    "no-yaml": "run: [\n",
    "json-duplicate": '{"run": {"output_dir": "a", "output_dir": "b"}}\n',
    "complex-key": "? [a, b]\n: c\n",
    "null-key": "null: c\n",
    "number-key": "7: c\n",
    "long-key": f"{'x' * 100_000}: c\n",
    "many-keys": "".join(f"k{n}: {n}\n" for n in range(20_000)),
    "directive": "%YAML 9.9\n---\nrun: {}\n",
    "alias-of-nothing": "run: *x\n",
}
VALUES: dict[str, tuple[str, str]] = {  # a key and its value, in a file that is right
    "environment": ("run.output_dir", "${oc.env:" + SECRET_NAME + "}"),
    "environment-default": ("run.output_dir", "${oc.env:" + SECRET_NAME + ",x}"),
    "environment-within": ("run.output_dir", "a/${oc.env:" + SECRET_NAME + "}/b"),
    "environment-decoded": ("run.output_dir", "${oc.decode:${oc.env:" + SECRET_NAME + "}}"),
    "environment-of-a-model": ("model.name", "${oc.env:" + SECRET_NAME + "}"),
    "create": ("run.output_dir", "${oc.create:{a: b}}"),
    "select": ("run.output_dir", "${oc.select:model.name}"),
    "keys": ("run.output_dir", "${oc.dict.keys:model}"),
    "unknown-resolver": ("run.output_dir", "${x:y}"),
    "circle": ("run.output_dir", "${run.output_dir}"),
    "circle-of-two": ("run.output_dir", "${model.name}${run.output_dir}"),
    "half": ("run.output_dir", "${"),
    "deep-interpolation": ("run.output_dir", "${" * 500 + "}" * 500),
    "nul": ("run.output_dir", "a\\0b"),
    "integer": ("optim.steps", "9" * 10_000),
    "integer-hexadecimal": ("optim.steps", "0x" + "f" * 10_000),
    "integer-underscores": ("optim.steps", "1" + "_" * 100_000 + "1"),
    "sexagesimal": ("optim.steps", "1:" * 50_000 + "1"),
    "infinite": ("optim.learning_rate", ".inf"),
    "nan": ("optim.learning_rate", ".nan"),
    "negative": ("optim.steps", "-1"),
    "exponent": ("optim.learning_rate", "1e999"),
    "huge-batch": ("optim.batch_size_per_device", str(10**30)),
    "code": ("model.name", "__import__('os').system('touch ../outside/pwned')"),
    "surrogate": ("model.name", '"\\uD800"'),
    "missing-mark": ("model.name", "???"),
    "date": ("run.output_dir", "2020-01-01"),
    "name-with-dots": ("data.sources", "{'a.b': {}, '..': {}}"),
}
SUITES: dict[str, str | bytes] = {
    "modality-up": "Cats: {meta_task: vqa, modality: '..'}\n",  # A12
    "modality-here": "Cats: {meta_task: vqa, modality: '.'}\n",
    "modality-hidden": "Cats: {meta_task: vqa, modality: .hidden}\n",
    "modality-store": "Cats: {meta_task: vqa, modality: embeddings}\n",
    "modality-slash": "Cats: {meta_task: vqa, modality: a/b}\n",
    "modality-backslash": "Cats: {meta_task: vqa, modality: 'a\\b'}\n",
    "modality-nul": 'Cats: {meta_task: vqa, modality: "a\\0b"}\n',
    "modality-blank": "Cats: {meta_task: vqa, modality: ' '}\n",
    "modality-long": f"Cats: {{meta_task: vqa, modality: {'x' * 5000}}}\n",
    "name-up": "'..': {meta_task: vqa}\nCats: {meta_task: vqa}\n",
    "name-slash": "a/b: {meta_task: vqa}\n",
    "name-absolute": "/tmp/x: {meta_task: vqa}\n",
    "name-nul": '"a\\0b": {meta_task: vqa}\n',
    "name-config": "config: {meta_task: vqa}\n",
    "name-long": f"{'x' * 500}: {{meta_task: vqa}}\n",
    "name-blank": "' ': {meta_task: vqa}\n",
    "include-up": "include: [../outside/config.yaml]\n",
    "include-secret": "include: [../outside/secret.txt]\n",
    "include-absolute": "include: [/etc/passwd]\n",
    "include-itself": "include: [suite.yaml]\n",
    "include-many": "include: [" + "suite2.yaml, " * 3 + "]\n",
    "include-number": "include: 7\n",
    "include-device": "include: [/dev/zero]\n",
    "format-unknown": "Cats: {meta_task: vqa, format: os.system}\n",
    "format-list": "Cats: {meta_task: vqa, format: [mmeb]}\n",
    "metric-list": "Cats: {meta_task: vqa, metric: [hit@1]}\n",
    "metric-unknown": "Cats: {meta_task: vqa, metric: x}\n",
    "queries-huge": "Cats: {meta_task: vqa, num_queries: 1e30}\n",
    "queries-text": "Cats: {meta_task: vqa, num_queries: x}\n",
    "distribution-mapping": "Cats: {meta_task: vqa, distribution: {a: b}}\n",
    "meta-task-list": "Cats: {meta_task: [vqa]}\n",
    "environment": "Cats: {meta_task: '${oc.env:" + SECRET_NAME + "}'}\n",
    "environment-subset": "Cats: {meta_task: vqa, subset: '${oc.env:" + SECRET_NAME + "}'}\n",
    "entry-number": "Cats: 7\n",
    "entry-null": "Cats:\n",
}
WORDS = {
    "deep": f"data.sources={DEEP}",
    "deep-mapping": "data.sources=" + "{a: " * 5_000 + "}" * 5_000,
    "anchors": "data.sources=" + "{a: &a [x, x], b: [*a, *a]}",
    "python": "data.sources=!!python/object/apply:os.system ['touch ../outside/pwned']",
    "long": "run.output_dir=" + "x" * 100_000,
    "dots": "....=1",
    "unknown": "__class__.__init__=1",
    "no-sign": "x",
    "option": "--run.output_dir=x",
    "integer": "optim.steps=" + "9" * 10_000,
    "bytes": "run.output_dir=\udcff",
}


def with_value(key: str, value: str) -> Any:
    group, name = key.split(".")
    quoted = value if value[:1] in '"{' or "optim" in key else f'"{value}"'
    lines = RIGHT.replace(f"{group}: {{", f"{group}: {{{name}: {quoted}, ", 1)
    old = {"output_dir": "output_dir: o", "name": "name: m", "sources": "sources: {A: {}}"}
    for part in (old.get(name), f"{name}: 1.0", f"{name}: 1", f"{name}: 2"):
        if part is not None:
            before, _, after = lines.partition(quoted)
            lines = f"{before}{quoted}{after.replace(f', {part}', '', 1)}"
    return lambda: write(FILE, lines)


def includes() -> None:
    for n in range(2, 20):
        write(f"suite{n}.yaml", f"include: [suite{n + 1}.yaml, suite{n + 1}.yaml]\n")
    write("suite20.yaml", TASKS)


def attacks() -> list[Attack]:
    anywhere = {n: (lambda c=c: write(FILE, c)) for n, c in ANYWHERE.items()}
    in_suites = {n: (lambda c=c: write(SUITE, c)) for n, c in ANYWHERE.items()}
    own: Deeds = {n: (lambda c=c: (includes(), write(SUITE, c))) for n, c in SUITES.items()}
    valued = {f"value-{n}": with_value(*v) for n, v in VALUES.items()}
    words = [
        Attack(f"word-{name}", nothing, lambda w=word: config(w), ("command line", "--"), repeats)
        for name, word in WORDS.items()
    ]
    linked = {"linked": lambda: link(FILE, "../outside/secret.txt")}
    keys = (FILE, "command line")
    return [
        *each({"control": nothing} | valued, config, keys, repeats),
        *each(renamed("file", anywhere | not_a_file(FILE) | linked), config, keys),
        *words,
        *each({"control-of-suites": nothing}, suite, (SUITE,), leads_out),
        *each(
            renamed("suite", in_suites | own | not_a_file(SUITE)),
            suite,
            ("suite", "secret.txt", "passwd", "config.yaml", "zero"),
            leads_out,
        ),
    ]


AREA = Area("settings", build, attacks, ("file-python", "suite-modality-up"))
