"""Evaluates a model on the tasks of a suite: MMEB, MMEB-V2, UniME's retrieval suite, SugarCrepe, …

    python -m eval.evaluate --config configs/eval/qwen2-vl-2b.yaml [key=value …]
    accelerate launch -m eval.evaluate --config …        (several processes share the encoding)

Writes one JSON file a task into output_dir, and beside it what VLM2Vec's reporter and ours read
(eval/result_files.py). A task whose file was made with the same settings, model and data is kept,
and every embedding that was ever computed is kept too, so an interrupted evaluation goes on in the
middle of a task. A task that fails is reported and the others go on; the exit status is then 1.
"""

from __future__ import annotations

from contextlib import closing
from datetime import timedelta
from pathlib import Path

from tqdm import tqdm

from eval.evaluation import Evaluation
from eval.remarks import warnings_of
from eval.result_files import side_files
from eval.tasks.suites import load_suite
from unime.config import EvalConfig, load_config
from unime.errors import DataError
from unime.runtime.distributed import patient_accelerator
from unime.runtime.files import regular
from unime.runtime.program import run_program

PATIENCE = timedelta(hours=2)  # while the main process ranks and writes


def main(argv: list[str] | None = None) -> None:
    config = load_config(EvalConfig, argv)
    suite = load_suite(config.data.suite, config.data.tasks)
    accelerator = patient_accelerator(PATIENCE)
    for name, task in suite.items():  # a folder in a result's place, before hours of work
        folder = Path(config.output_dir)
        for path in (folder / f"{name}.json", *side_files(folder / task.modality, name)):
            regular(path)
    failed: dict[str, str] = {}
    with closing(Evaluation(config, accelerator)) as evaluation:
        for name, task in suite.items():
            try:
                line = evaluation.run(name, task)
            except DataError as error:
                failed[name] = str(error)
                evaluation.forget(name, task)  # else a report would average what does not hold
                line = f"{name}: failed: {error}"
            if accelerator.is_main_process:
                tqdm.write(line)
    accelerator.wait_for_everyone()
    if accelerator.is_main_process and len(evaluation.results) > 1:  # else its line has said it
        for words in warnings_of(evaluation.results):
            tqdm.write(f"warning: {words}")
    if failed and accelerator.is_main_process:
        reasons = "".join(f"\n  {name}: {reason}" for name, reason in failed.items())
        tqdm.write(f"{len(failed)} of {len(suite)} tasks failed:{reasons}")
    if failed:
        raise SystemExit(1)


if __name__ == "__main__":
    run_program(main)
