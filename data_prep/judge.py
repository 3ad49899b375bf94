"""Scores of a judge for the target and the negatives of every row, for stage 2's soft labels.

    ./launch.sh judge DATA OUT model.name=… [judge.kind=yes_no] [key=value …]
    accelerate launch -m data_prep.judge --config configs/judge.yaml data.root=DATA output_dir=OUT …

DATA is whatever stage 2 reads, with negatives (./launch.sh mine). The judge is an embedding model,
whose cosines are the scores, or with judge.kind=yes_no a multimodal LLM that is asked whether a
candidate fits its query (UniME-V2, arXiv 2510.13515). What it has found is kept, so a killed run
goes on. OUT is a prepared set of the same rows with scores; stage 2 trains with it: data.root=OUT
loss.soft_labels=1.
"""

from __future__ import annotations

from contextlib import closing
from datetime import timedelta

from tqdm import tqdm

from unime.config import JudgeConfig, load_config
from unime.mining.judged_set import JudgedSet
from unime.runtime.distributed import on_main, patient_accelerator
from unime.runtime.program import run_program

PATIENCE = timedelta(hours=12)  # while the main process writes


def main(argv: list[str] | None = None) -> None:
    config = load_config(JudgeConfig, argv)
    accelerator = patient_accelerator(PATIENCE)
    with closing(JudgedSet(config, accelerator)) as judged:
        for task in judged.tasks:
            line = judged.judge(task)
            if accelerator.is_main_process:
                tqdm.write(line)
        on_main(accelerator, judged.finish)
        if accelerator.is_main_process:
            print(f"\nwritten: {config.output_dir}")


if __name__ == "__main__":
    run_program(main)
