"""Reports and figures of a run."""

from lightning_clip.evaluation.report import Section, Table, write_report

__all__ = ["Section", "Table", "write_report"]
