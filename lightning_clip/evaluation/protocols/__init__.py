"""Protocols by name; importing this registers those that are built in."""

from lightning_clip.evaluation.protocols import (
    bias,
    compositional,
    few_shot,
    humans,
    linear_probe,
    overlap,
    retrieval,
    robustness,
    shift,
    zero_shot,
)
from lightning_clip.evaluation.protocols.base import Protocol, Result, Subject, protocols

__all__ = [
    "Protocol",
    "Result",
    "Subject",
    "bias",
    "compositional",
    "few_shot",
    "humans",
    "linear_probe",
    "overlap",
    "protocols",
    "retrieval",
    "robustness",
    "shift",
    "zero_shot",
]
