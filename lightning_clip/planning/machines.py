"""The machines of a run: device, count, precision and strategy."""

from __future__ import annotations

from dataclasses import dataclass

from lightning_clip.core.errors import InputError
from lightning_clip.planning.devices import Device, peak_flops_of

__all__ = ["SECONDS_PER_YEAR", "Machines"]

SECONDS_PER_YEAR = 365 * 24 * 3600


@dataclass(frozen=True)
class Machines:
    """What trains.

    Args:
        device: each accelerator.
        count: how many there are, at least 1.
        precision: of the Trainer.
        strategy: of the Trainer, by name.
        mfu: share of the peak that a step without recomputation reaches, in (0, 1]. Published CLIP runs lie between 0.12
            and 0.39, the paper's near 0.2.

    Raises:
        InputError: no device, or an MFU that is no share.
    """

    device: Device
    count: int = 1
    precision: str = "32-true"
    strategy: str = "auto"
    mfu: float = 0.3

    def __post_init__(self) -> None:
        if self.count < 1:
            raise InputError(f"devices {self.count} must be at least 1")
        if not 0 < self.mfu <= 1:
            raise InputError(f"mfu {self.mfu:g} is a share of the peak in (0, 1]: write 0.4 for 40 %")
        peak_flops_of(self.device, self.precision)

    @property
    def flops_per_second(self) -> float:
        """What all of them do."""
        return self.count * self.mfu * peak_flops_of(self.device, self.precision)
