"""Protocols by name; importing this registers those that are built in."""

from lightning_clip.evaluation.protocols import few_shot, humans, linear_probe, retrieval, robustness, zero_shot
from lightning_clip.evaluation.protocols.base import Protocol, Result, Subject, protocols

__all__ = [
    "Protocol",
    "Result",
    "Subject",
    "few_shot",
    "humans",
    "linear_probe",
    "protocols",
    "retrieval",
    "robustness",
    "zero_shot",
]
