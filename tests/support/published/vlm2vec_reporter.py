"""What VLM2Vec's ``experiments/report_score_v2.py`` does with a folder of scores, written from a
description of it (its main branch of January 2026), its mistake included."""

from __future__ import annotations

import json
import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

SCORES = json.loads(Path(__file__).with_name("vlm2vec_scores.json").read_text())  # and what it said
DATASETS = {
    "image": (
        "ImageNet-1K N24News HatefulMemes VOC2007 SUN397 Place365 ImageNet-A ImageNet-R ObjectNet"
        " Country211 OK-VQA A-OKVQA DocVQA InfographicsVQA ChartQA Visual7W ScienceQA VizWiz GQA"
        " TextVQA VisDial CIRR VisualNews_t2i VisualNews_i2t MSCOCO_t2i MSCOCO_i2t NIGHTS WebQA"
        " FashionIQ Wiki-SS-NQ OVEN EDIS MSCOCO RefCOCO RefCOCO-Matching Visual7W-Pointing"
    ).split(),
    "video": (
        "K700 SmthSmthV2 HMDB51 UCF101 Breakfast MVBench Video-MME NExTQA EgoSchema ActivityNetQA"
        " DiDeMo MSR-VTT MSVD VATEX YouCook2 QVHighlight Charades-STA MomentSeeker"
    ).split(),
    "visdoc": (
        "ViDoRe_arxivqa ViDoRe_docvqa ViDoRe_infovqa ViDoRe_tabfquad ViDoRe_tatdqa"
        " ViDoRe_shiftproject ViDoRe_syntheticDocQA_artificial_intelligence"
        " ViDoRe_syntheticDocQA_energy ViDoRe_syntheticDocQA_government_reports"
        " ViDoRe_syntheticDocQA_healthcare_industry ViDoRe_esg_reports_human_labeled_v2"
        " ViDoRe_biomedical_lectures_v2_multilingual ViDoRe_economics_reports_v2_multilingual"
        " ViDoRe_esg_reports_v2_multilingual VisRAG_ArxivQA VisRAG_ChartQA VisRAG_MP-DocVQA"
        " VisRAG_SlideVQA VisRAG_InfoVQA VisRAG_PlotQA ViDoSeek-page ViDoSeek-doc MMLongBench-page"
        " MMLongBench-doc"
    ).split(),
}
MAIN_METRIC = {"image": "hit@1", "video": "hit@1", "visdoc": "ndcg_linear@5"}
FIXED = ("MMLongBench-page", "ViDoSeek-page")


@dataclass
class Reported:
    file: Path  # <base>/<model_name>.json
    averages: dict[str, float | None]  # modality -> what it prints
    counted: dict[str, int]  # of how many datasets
    missing: dict[str, list[str]]


def report(base: Path, metadata: dict[str, Any]) -> Reported:
    """Write the leaderboard's file into `base`, and what would be printed."""
    scores = {modality: _modality(base / modality, modality) for modality in DATASETS}
    scores["visdoc"] = {
        f"{name}-fixed" if name in FIXED else name: found
        for name, found in scores["visdoc"].items()
    }
    described = metadata | {"report_generated_date": datetime.now().isoformat()}
    file = base / f"{metadata['model_name']}.json"
    file.write_text(json.dumps({"metadata": described, "metrics": scores}, indent=4))
    reported = Reported(file, {}, {}, {})
    for modality, names in DATASETS.items():
        # The mistake: looked up under the names from before the renaming.
        found = {name: scores[modality].get(name) for name in names}
        metric = MAIN_METRIC[modality]
        values = [own[metric] for own in found.values() if isinstance(own, dict) and metric in own]
        reported.averages[modality] = sum(values) / len(values) if values else None
        reported.counted[modality] = len(values)
        reported.missing[modality] = [n for n, own in found.items() if not isinstance(own, dict)]
    return reported


def _modality(folder: Path, modality: str) -> dict[str, Any]:
    if not folder.is_dir():
        return dict.fromkeys(DATASETS[modality], "DIR_N/A")
    found: dict[str, Any] = dict.fromkeys(DATASETS[modality], "FILE_N/A")
    for path in folder.iterdir():
        name = path.name.removesuffix("_score.json")
        if name != path.name and name in found:
            try:
                found[name] = json.loads(path.read_text())
            except json.JSONDecodeError:
                found[name] = "JSON_ERROR"
    return found


def ndcg_linear(
    relevance: Mapping[Hashable, float], ranking: Sequence[Hashable], k: int = 5
) -> float:
    """V2:src/utils/eval_utils/metrics.py as described: gains over log2(rank + 1), over the best."""

    def discounted(gains: list[float]) -> float:
        return sum(gain / math.log2(place + 2) for place, gain in enumerate(gains[:k]))

    best = sorted(relevance.values(), reverse=True)
    return discounted([relevance.get(target, 0.0) for target in ranking]) / discounted(best)
