"""Check of the environment: versions of the libraries, devices and precision."""

from __future__ import annotations

import platform
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version

import torch

from mvdiff.cli.doctor.devices import Devices
from mvdiff.cli.doctor.findings import Finding, size
from mvdiff.cli.doctor.run import RunToCheck

_LIBRARIES = ("torch", "lightning", "diffusers", "transformers", "mvdiff")


def check_environment(run: RunToCheck) -> Iterator[Finding]:
    """Report versions, devices and precision."""
    yield Finding("ok", f"python {platform.python_version()}, " + ", ".join(f"{n} {_version(n)}" for n in _LIBRARIES))
    devices, settings = run.devices, run.settings.trainer
    nodes = f" on each of {devices.num_nodes} nodes" if devices.num_nodes > 1 else ""
    auto = " (accelerator auto)" if settings.accelerator == "auto" else ""
    asked = f"trainer: {devices.asked} x {devices.kind}{nodes}{auto}"
    if devices.missing and devices.here == 0 and settings.accelerator == "auto":
        yield Finding(
            "warning",
            f"{asked}; here: no gpu, so that a fit on this machine would run on its CPU",
            "Run this command on a node with the GPUs of the run, or set --trainer.accelerator cpu.",
        )
    elif devices.missing:
        yield Finding(
            "warning",
            f"{asked}; here: {devices.here} x {devices.kind}",
            "Run this command on a node with the devices of the run; or set --trainer.accelerator, --trainer.devices.",
        )
    else:
        yield Finding("ok", f"{asked}; here: {_here(devices)}")
    yield _precision(devices, str(settings.precision or "32-true"))


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"


def _here(devices: Devices) -> str:
    if devices.kind == "gpu" and torch.cuda.is_available():
        properties = torch.cuda.get_device_properties(0)
        return f"{devices.here} x {properties.name}, {size(properties.total_memory)}"
    return "a CPU" if devices.kind == "cpu" else devices.kind


def _precision(devices: Devices, precision: str) -> Finding:
    if devices.kind == "gpu" and not devices.any_here:
        return Finding("not checked", f"precision {precision}: there is no gpu here")
    if precision.startswith("16") and devices.kind == "cpu":
        return Finding("problem", f"precision {precision}: a CPU has no half precision", "Set bf16-mixed or 32-true.")
    on_cuda = devices.kind == "gpu" and torch.cuda.is_available()
    if "bf16" in precision and on_cuda and not torch.cuda.is_bf16_supported(including_emulation=False):
        remedy = "Set --trainer.precision 16-mixed."
        return Finding("warning", f"precision {precision}: this GPU emulates bfloat16, which is slow", remedy)
    return Finding("ok", f"precision {precision}")
