"""Hard negatives from the whole corpus of a training set, for texts, pictures and both.

    ./launch.sh mine DATA OUT model.name=… [model.adapter=RUN/final] [key=value …]
    accelerate launch -m stages.mine --config configs/mine.yaml data.root=DATA output_dir=OUT …

DATA is whatever stage 2 reads: a prepared set, or MMEB-train. Any checkpoint that is evaluated can
mine. Every item is embedded once (several processes share that), so a killed run goes on. OUT is a
prepared set of the same rows with their negatives, report.md and report.html; stage 2 trains with
it: data.root=OUT.
"""

from __future__ import annotations

from contextlib import closing
from datetime import timedelta
from pathlib import Path

from tqdm import tqdm

from eval.page.mined import mined_page, mined_tables
from unime.config import MineConfig, load_config
from unime.mining.mined_set import MinedSet
from unime.runtime.distributed import on_main, patient_accelerator
from unime.runtime.files import write_aside, writing
from unime.runtime.program import run_program

PATIENCE = timedelta(hours=12)  # while the main process searches and writes


def main(argv: list[str] | None = None) -> None:
    config = load_config(MineConfig, argv)
    accelerator = patient_accelerator(PATIENCE)
    with closing(MinedSet(config, accelerator)) as mined:
        for task in mined.tasks:
            line = mined.mine(task)
            if accelerator.is_main_process:
                tqdm.write(line)
        reports = mined.reports

        def finish() -> None:
            tables, folder = mined_tables(reports), Path(config.output_dir)
            with writing("output_dir", folder):
                write_aside(folder / "report.md", tables)
                write_aside(folder / "report.html", mined_page(reports, config.inputs))
            mined.finish()
            print(f"\n{tables}\nwritten: {folder}; examples: {folder / 'report.html'}")

        on_main(accelerator, finish)


if __name__ == "__main__":
    run_program(main)
