"""Devices that a run asks for, and those of this machine."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch


@dataclass(frozen=True)
class Devices:
    """Devices of a node that a run asks for, and those of this machine.

    Attributes:
        kind: "cpu", "gpu" (CUDA or Apple's), or another accelerator's name.
        asked: Devices per node.
        here: Usable devices of the kind on this machine; None where that is not known.
        num_nodes: Machines.
    """

    kind: str
    asked: int
    here: int | None
    num_nodes: int

    @classmethod
    def of(cls, trainer: Any) -> Devices:
        """Read the settings of a Trainer."""
        kind = str(trainer.accelerator)
        kind = "gpu" if kind in ("auto", "gpu", "cuda", "mps") else kind
        gpus = torch.cuda.device_count() if torch.cuda.is_available() else int(torch.backends.mps.is_available())
        here = {"gpu": gpus, "cpu": None}.get(kind)
        return cls(kind, _count(trainer.devices, here or 1), here, int(trainer.num_nodes))

    @property
    def missing(self) -> bool:
        """True if the run cannot have its devices on this machine."""
        return self.here is not None and self.asked > self.here

    @property
    def any_here(self) -> bool:
        """True if this machine has at least one device of the kind."""
        return self.here is None or self.here > 0


def _count(devices: Any, all_of_them: int) -> int:
    """Return the number of devices that a Trainer's `devices` names."""
    if isinstance(devices, str) and devices.lstrip("-").isdigit():
        devices = int(devices)
    if isinstance(devices, int):
        return devices if devices >= 0 else all_of_them
    if isinstance(devices, str):
        return all_of_them if devices == "auto" else len(devices.strip("[]").rstrip(",").split(","))
    return len(devices)
