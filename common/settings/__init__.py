"""Sections of the configuration file: every field with its unit, range, default and meaning.

A module a subject; `docs/configuration.md` is generated from these classes (`make docs`).
"""

from dictpfl.common.settings.compression import ACTIVATIONS, Distillation, Narrow, Sparsity, Tokens
from dictpfl.common.settings.data import MADE_BY, Data, Preprocessing, Recipe
from dictpfl.common.settings.federation import Federation, Resources
from dictpfl.common.settings.model import NO_PUBLIC_KEY, SCORED, Decomposition, Model, Pretrain
from dictpfl.common.settings.section import OpenShare, Positive, Section, Share
from dictpfl.common.settings.training import FEW_BITS, Training

__all__ = [
    "ACTIVATIONS",
    "FEW_BITS",
    "MADE_BY",
    "NO_PUBLIC_KEY",
    "SCORED",
    "Data",
    "Decomposition",
    "Distillation",
    "Federation",
    "Model",
    "Narrow",
    "OpenShare",
    "Positive",
    "Preprocessing",
    "Pretrain",
    "Recipe",
    "Resources",
    "Section",
    "Share",
    "Sparsity",
    "Tokens",
    "Training",
]
