"""Accelerators by name: memory, and peak FLOP/s by precision."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from dataclasses import dataclass

import torch

from lightning_clip.core.errors import InputError, nearest

__all__ = ["DEVICES", "Device", "device_name", "find_device", "known_device", "matmul_format", "peak_flops_of"]

_GB = 2**30  # makers write GB and mean, within a percent, GiB


@dataclass(frozen=True)
class Device:
    """An accelerator as its maker describes it.

    Args:
        name: short name, "H100".
        memory: bytes.
        peak: FLOP/s of dense matrix products by number format: "fp64", "tf32", "fp32", "bf16", "fp16", of those it has.
        called: words, lower case, that the driver's name for it holds: all of one tuple.
    """

    name: str
    memory: float
    peak: Mapping[str, float]
    called: tuple[tuple[str, ...], ...] = ()


def _device(
    name: str, gigabytes: float, *called: str, fp32: float, half: float, tf32: float = 0, fp64: float = 0, bf16: bool = True
) -> Device:
    """TFLOP/s of dense products: the figures that makers print with sparsity are twice these."""
    peak = {"fp64": fp64, "fp32": fp32, "tf32": tf32, "fp16": half, "bf16": half if bf16 else 0}
    patterns = tuple(tuple(text.split()) for text in called)
    return Device(name, gigabytes * _GB, {key: value * 1e12 for key, value in peak.items() if value}, patterns)


# The more particular names first. From the makers' data sheets; consumer cards with float32 accumulation.
DEVICES: dict[str, Device] = {
    device.name.lower(): device
    for device in (
        _device("P100", 16, "p100", fp64=5.3, fp32=10.6, half=21.2, bf16=False),
        _device("V100", 16, "v100 16gb", fp64=7.8, fp32=15.7, half=125, bf16=False),
        _device("V100-32GB", 32, "v100 32gb", "v100", fp64=7.8, fp32=15.7, half=125, bf16=False),
        _device("T4", 16, "tesla t4", fp32=8.1, half=65, bf16=False),
        _device("A100-80GB", 80, "a100 80gb", fp64=9.7, fp32=19.5, tf32=156, half=312),
        _device("A100", 40, "a100", fp64=9.7, fp32=19.5, tf32=156, half=312),
        _device("A10", 24, "nvidia a10", fp32=31.2, tf32=62.5, half=125),
        _device("A40", 48, "a40", fp32=37.4, tf32=74.8, half=149.7),
        _device("A6000", 48, "rtx a6000", fp32=38.7, tf32=77.4, half=154.8),
        _device("L40S", 48, "l40s", fp32=91.6, tf32=183, half=362),
        _device("L4", 24, "nvidia l4", fp32=30.3, tf32=60.5, half=121),
        _device("H100-PCIe", 80, "h100 pcie", fp64=25.6, fp32=51.2, tf32=378, half=756),
        _device("H100-NVL", 94, "h100 nvl", fp64=30, fp32=60, tf32=417.7, half=835.5),
        _device("H100", 80, "h100", fp64=33.5, fp32=66.9, tf32=494.7, half=989.4),
        _device("H200", 141, "h200", fp64=33.5, fp32=66.9, tf32=494.7, half=989.4),
        _device("B200", 180, "b200", fp64=37, fp32=75, tf32=1125, half=2250),
        _device("RTX-3090", 24, "rtx 3090", fp32=35.6, tf32=35.6, half=71.2),
        _device("RTX-4090", 24, "rtx 4090", fp32=82.6, tf32=82.6, half=165.2),
        _device("RTX-5090", 32, "rtx 5090", fp32=104.8, tf32=104.8, half=209.5),
        _device("MI250X-GCD", 64, "mi250x", fp64=23.9, fp32=23.9, half=191.5),
        _device("MI300X", 192, "mi300x", fp64=81.7, fp32=163.4, tf32=653.7, half=1307.4),
    )
}
_ALIASES = {"a100-40gb": "a100", "v100-16gb": "v100", "4090": "rtx-4090", "3090": "rtx-3090", "5090": "rtx-5090"}
_FORMATS = {"16": "fp16", "bf16": "bf16", "32": "fp32", "64": "fp64"}


def find_device(name: str, peak_flops: float | None = None, memory: float | None = None) -> Device:
    """The device of that name, or one that the user describes.

    Args:
        name: a short name such as "h100", in any case, or the driver's.
        peak_flops: FLOP/s to plan with instead of the maker's; needed for a device that is not known.
        memory: bytes, likewise.

    Raises:
        InputError: an unknown name without its peak, or figures that are not positive.

    Examples:
        >>> find_device("NVIDIA H100 80GB HBM3").name, find_device("a100").peak["bf16"]
        ('H100', 312000000000000.0)
    """
    for what, value in (("peak_flops", peak_flops), ("memory", memory)):
        if value is not None and not value > 0:
            raise InputError(f"{what} {value:g} of device {name!r} must be > 0")
    key = name.lower().replace(" ", "-").replace("_", "-")
    found = DEVICES.get(_ALIASES.get(key, key)) or known_device(name)
    if found is None and peak_flops is None:
        raise InputError(
            f"unknown device {name!r}: {nearest(key, DEVICES)}. For any other give its peak in FLOP/s, such as peak_flops 2e13"
        )
    peak = dict.fromkeys((*_FORMATS.values(), "tf32"), peak_flops) if peak_flops else dict(found.peak if found else {})
    return Device(found.name if found else name, memory or (found.memory if found else 0.0), peak)  # type: ignore[arg-type]


def known_device(driver_name: str) -> Device | None:
    """The device behind a driver's name, or None."""
    words = driver_name.lower().replace("-", " ").replace("_", " ")
    padded = f" {words} "
    for device in DEVICES.values():
        if any(all(f" {part} " in padded for part in called) for called in device.called):
            return device
    return None


def matmul_format(precision: str) -> str:
    """The number format in which matrix products run under a Trainer precision.

    Raises:
        InputError: a precision that is none of Lightning's with a known format.

    Examples:
        >>> matmul_format("bf16-mixed"), matmul_format("32-true")
        ('bf16', 'fp32')
    """
    bits = str(precision).partition("-")[0]
    if bits not in _FORMATS:
        known = ["16-mixed", "16-true", "bf16-mixed", "bf16-true", "32-true", "64-true"]
        raise InputError(f"precision {precision!r} is not supported by plan: {nearest(str(precision), known)}")
    if bits == "32" and torch.get_float32_matmul_precision() != "highest":
        return "tf32"
    return _FORMATS[bits]


def peak_flops_of(device: Device, precision: str) -> float:
    """FLOP/s of a device at a Trainer precision such as "bf16-mixed".

    Raises:
        InputError: the device does not compute in that format.
    """
    form = matmul_format(precision)
    form = "fp32" if form == "tf32" and form not in device.peak else form
    if form not in device.peak:
        usable = [key for key in ("16-mixed", "bf16-mixed", "32-true", "64-true") if matmul_format(key) in device.peak]
        raise InputError(
            f"{device.name} has no {form} arithmetic for precision {precision!r}: use a precision among {', '.join(usable)}"
        )
    return device.peak[form]


def device_name(device: torch.device) -> str:
    """What the driver calls a device; for a CPU its architecture."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{platform.processor() or platform.machine() or 'unknown'} {device.type}"
