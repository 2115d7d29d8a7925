"""Large numbers in short words, and plain tables."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from rich.table import Table

from lightning_clip.planning.machines import SECONDS_PER_YEAR

__all__ = ["accelerator_time", "duration", "figure_table", "flops_text", "gibibytes", "share_text", "short"]

_PREFIXES = (("Z", 1e21), ("E", 1e18), ("P", 1e15), ("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3))


def flops_text(flops: float, unit: str = "FLOP") -> str:
    """A number with three digits and a prefix.

    Examples:
        >>> flops_text(8.8176e9), flops_text(989.4e12, "FLOP/s")
        ('8.82 GFLOP', '989 TFLOP/s')
    """
    for prefix, size in _PREFIXES:
        if flops >= size:
            return f"{flops / size:#.3g}".rstrip(".") + f" {prefix}{unit}"
    return f"{flops:.0f} {unit}"


def duration(seconds: float) -> str:
    """Wall time in the unit that suits it.

    Examples:
        >>> duration(90), duration(7200), duration(3e6)
        ('1.5 minutes', '2.0 hours', '34.7 days')
    """
    for unit, size, least in (("days", 86400.0, 172800.0), ("hours", 3600.0, 5400.0), ("minutes", 60.0, 60.0)):
        if seconds >= least:
            return f"{seconds / size:,.1f} {unit}"
    return f"{seconds:.1f} seconds"


def accelerator_time(seconds: float) -> str:
    """The time of one accelerator in hours, days and years, of those that are not tiny; less than an hour as it is.

    Examples:
        >>> accelerator_time(3.6e6), accelerator_time(18000), accelerator_time(12)
        ('1,000 hours = 41.7 days = 0.114 years', '5.00 hours = 0.208 days', '12.0 seconds')
    """
    if seconds < 3600:
        return duration(seconds)
    units = ((3600, "hours"), (86400, "days"), (SECONDS_PER_YEAR, "years"))
    return " = ".join(f"{short(seconds / size)} {unit}" for size, unit in units if seconds / size >= 0.01)


def short(value: float) -> str:
    """Three digits, or all before the point.

    Examples:
        >>> short(1234567.0), short(0.12345)
        ('1,234,567', '0.123')
    """
    return f"{value:,.0f}" if value >= 999.5 else f"{value:#.3g}".rstrip(".")


def gibibytes(size: float) -> str:
    """Bytes in GiB, two digits."""
    return f"{size / 2**30:,.2f}" if size >= 0.005 * 2**30 else "< 0.01"


def share_text(share: float) -> str:
    """A share in whole percent."""
    return f"{100 * share:.0f} %" if share >= 0.005 else "< 1 %"


def figure_table(title: str, header: Sequence[str], rows: Iterable[Sequence[str]]) -> Table:
    """A table with names on the left and figures on the right."""
    table = Table(title=title, title_style="bold")
    for number, name in enumerate(header):
        table.add_column(name, justify="left" if number == 0 else "right")
    for row in rows:
        table.add_row(*row)
    return table
