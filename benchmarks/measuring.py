"""Measure seconds and memory of a call, and compare calls in turns.

On a CPU the time is the process's own CPU time (with one thread: the time it would take alone), and memory is the peak
of the resident set above what it was before; on a GPU they are wall time and CUDA's memory.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks


def held_memory(device: str, peak: bool = False) -> float:
    """Return the MiB held now, or at the peak since `measure` began."""
    if device == "cuda":
        return (torch.cuda.max_memory_allocated() if peak else torch.cuda.memory_allocated()) / 2**20
    lines = Path("/proc/self/status").read_text().splitlines()
    name = "VmHWM" if peak else "VmRSS"
    return next(int(line.split()[1]) for line in lines if line.startswith(name)) / 1024


def measure(run: Callable[[], object], device: str, held: float) -> tuple[float, float]:
    """Return seconds and the peak in MiB beyond `held`."""
    if device == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        start = time.perf_counter()
        run()
        torch.cuda.synchronize()
        return time.perf_counter() - start, held_memory(device, peak=True) - held
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak, Linux only
    start = time.process_time()
    run()
    return time.process_time() - start, held_memory(device, peak=True) - held


def in_turns(
    runs: Mapping[str, Callable[[], object]], repeats: int, device: str, held: float, warmup: int = 1
) -> dict[str, tuple[float, float]]:
    """Run all in turns, first to warm up; return the median seconds and MiB of each."""
    results: dict[str, list[tuple[float, float]]] = {label: [] for label in runs}
    for turn in range(warmup + repeats):
        for label, run in runs.items():
            result = measure(run, device, held)
            if turn >= warmup:
                results[label].append(result)
    return {
        label: tuple(statistics.median(column) for column in zip(*values, strict=True))
        for label, values in results.items()
    }


def compare(
    name: str, runs: Mapping[str, Callable[[], object]], repeats: int, device: str, held: float, warmup: int = 1
) -> dict[str, tuple[float, float]]:
    """Print and return what `in_turns` returns, with ratios over the first."""
    medians = in_turns(runs, repeats, device, held, warmup)
    first = next(iter(medians.values()))
    for label, (seconds, mebibytes) in medians.items():
        ratios = f"{seconds / first[0]:5.2f}x time  {mebibytes / max(first[1], 1.0):5.2f}x memory"
        print(f"{name:9} {label:12} {seconds:9.3f} s {mebibytes:9.0f} MiB  {ratios}", flush=True)
    return medians


def kept_for_backward(run: Callable[[], Tensor], model: nn.Module) -> float:
    """Return the MiB of tensors that a forward pass keeps for the backward pass, beside the model's weights."""
    weights = {weight.untyped_storage().data_ptr() for weight in model.parameters()}
    storages: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            storages[storage.data_ptr()] = storage.nbytes()
        return tensor

    with saved_tensors_hooks(keep, lambda tensor: tensor):
        output = run()  # it holds all that was kept: no address is used twice
    del output
    return sum(storages.values()) / 2**20
