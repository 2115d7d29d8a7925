"""Reports and plots."""

from lightning_clip.reporting.html import Section, Table, write_report

__all__ = ["Section", "Table", "write_report"]
