"""Devices: what drivers call them, their figures by precision, and how mistakes are answered."""

from __future__ import annotations

import pytest
import torch

from lightning_clip import InputError
from lightning_clip.planning import DEVICES, find_device, peak_flops_of
from lightning_clip.planning.devices import device_name, known_device, matmul_format


@pytest.mark.parametrize(
    ("driver", "name"),
    [
        ("Tesla V100-SXM2-16GB", "V100"),
        ("Tesla V100-SXM2-32GB", "V100-32GB"),
        ("NVIDIA A100-SXM4-80GB", "A100-80GB"),
        ("NVIDIA A100-PCIE-40GB", "A100"),
        ("NVIDIA A10", "A10"),
        ("NVIDIA H100 80GB HBM3", "H100"),
        ("NVIDIA H100 PCIe", "H100-PCIe"),
        ("NVIDIA H200", "H200"),
        ("NVIDIA B200", "B200"),
        ("NVIDIA L4", "L4"),
        ("NVIDIA L40S", "L40S"),
        ("Tesla T4", "T4"),
        ("NVIDIA GeForce RTX 4090", "RTX-4090"),
        ("AMD Instinct MI300X", "MI300X"),
    ],
)
def test_driver_names(driver: str, name: str) -> None:
    found = known_device(driver)
    assert found is not None and found.name == name


@pytest.mark.parametrize("driver", ["NVIDIA L40", "NVIDIA GH200 480GB", "x86_64 cpu", "Quadro RTX 6000"])
def test_names_that_only_resemble_one_are_not_known(driver: str) -> None:
    assert known_device(driver) is None


def test_short_names() -> None:
    for name, device in DEVICES.items():
        assert find_device(name) is device or find_device(name) == device or find_device(name).name == device.name
        assert device.memory > 0 and all(peak > 1e12 for peak in device.peak.values())
    assert find_device("RTX 4090").name == find_device("4090").name == "RTX-4090"
    assert find_device("H100_PCIe").name == "H100-PCIe"


def test_precision_chooses_the_peak(monkeypatch: pytest.MonkeyPatch) -> None:
    h100 = find_device("h100")
    assert peak_flops_of(h100, "bf16-mixed") == peak_flops_of(h100, "16-true") == pytest.approx(989.4e12)
    assert peak_flops_of(h100, "32-true") == pytest.approx(66.9e12)
    monkeypatch.setattr(torch, "get_float32_matmul_precision", lambda: "high")
    assert peak_flops_of(h100, "32-true") == pytest.approx(494.7e12)
    assert peak_flops_of(find_device("v100"), "32-true") == pytest.approx(15.7e12)  # has no tf32


def test_a_device_of_ones_own() -> None:
    mine = find_device("my laptop", peak_flops=2e11, memory=8 * 2**30)
    assert peak_flops_of(mine, "bf16-mixed") == 2e11 and mine.memory == 8 * 2**30
    assert find_device("v100", peak_flops=1e14).memory == find_device("v100").memory


def test_name_of_the_cpu() -> None:
    assert device_name(torch.device("cpu")).endswith(" cpu")


def test_mistakes() -> None:
    with pytest.raises(InputError, match="unknown device 'h10': did you mean 'h100'.*such as peak_flops 2e13"):
        find_device("h10")
    with pytest.raises(InputError, match="peak_flops -1 of device 'cpu' must be > 0"):
        find_device("cpu", peak_flops=-1)
    with pytest.raises(InputError, match="V100 has no bf16 arithmetic for precision 'bf16-mixed': use .* 16-mixed, 32-true"):
        peak_flops_of(find_device("v100"), "bf16-mixed")
    with pytest.raises(InputError, match="precision 'fp8' is not supported by plan"):
        matmul_format("fp8")
