"""Checked settings: what a configuration may say, in one clear sentence when it says something else. A module for each study."""

from activation_descent.settings.attention import check_toy_problems, resolve_attention
from activation_descent.settings.finetuning import resolve_finetuning
from activation_descent.settings.language import resolve_language
from activation_descent.settings.lens import resolve_lens
from activation_descent.settings.reasoning import check_reasoning
from activation_descent.settings.regression import resolve_regression
from activation_descent.settings.schema import check_schema
from activation_descent.settings.shards import check_shards

__all__ = [
    "check_reasoning",
    "check_schema",
    "check_shards",
    "check_toy_problems",
    "resolve_attention",
    "resolve_finetuning",
    "resolve_language",
    "resolve_lens",
    "resolve_regression",
]
