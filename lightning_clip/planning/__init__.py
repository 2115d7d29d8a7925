"""What a run costs: FLOPs, memory per device, accelerator time; counted while it trains or planned before anything is spent."""

from lightning_clip.planning.devices import DEVICES, Device, find_device, peak_flops_of
from lightning_clip.planning.flops import FlopCounter, Flops
from lightning_clip.planning.loss import loss_bytes, loss_flops
from lightning_clip.planning.machines import Machines
from lightning_clip.planning.memory import Memory, optimizer_bytes
from lightning_clip.planning.plan import Plan, make_plan
from lightning_clip.planning.strategies import Sharding, sharding_of
from lightning_clip.planning.towers import TowerCost, measure_towers

__all__ = [
    "DEVICES",
    "Device",
    "FlopCounter",
    "Flops",
    "Machines",
    "Memory",
    "Plan",
    "Sharding",
    "TowerCost",
    "find_device",
    "loss_bytes",
    "loss_flops",
    "make_plan",
    "measure_towers",
    "optimizer_bytes",
    "peak_flops_of",
    "sharding_of",
]
