"""Samples per second and core from files, shards of images, of views and of latents; cold and warm, near and over HTTP.

Every source goes through its data module, sampler, collation and checks, without workers, on one thread: a rig of 8
views of 512x512 as in the paper. "cold" drops the files from the page cache before (posix_fadvise). CPU time is that of
the process, so other work on the machine counts little; wall time includes waiting for disk and network. With
cut_on_device the cutting, which a device does, is left out.

Latents and embeddings have the sizes of Stable Diffusion 2 (8 x 4 x 64 x 64, and 8 x 77 x 1024 for eight different
captions, as in Matterport3D) and random values, since reading does not depend on them. The HTTP server is a thread of
another process on the same machine; --latency adds milliseconds to each of its answers, as a remote store has.

    python benchmarks/shards.py --data DIR [--out runs/shards] [--panoramas 32] [--latency 20]
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import shutil
import statistics
import time
from pathlib import Path

import torch

from mvdiff.data.datamodule import Matterport3DDataModule
from mvdiff.data.panoramas import view_prompts
from mvdiff.data.prepare.shard import SPLITS
from mvdiff.data.shards.cuts import Cuts
from mvdiff.data.shards.latents import EMPTY, TEXT, to_bytes
from mvdiff.data.shards.panorama_content import PanoramaFiles, PanoramaViews
from mvdiff.data.shards.panoramas import panorama_json
from mvdiff.data.shards.plan import Planned
from mvdiff.data.shards.writing import write_shards
from mvdiff.geometry.cameras import RingRig
from mvdiff.keyed import keyed_generator
from tests.data.shards.servers import serving

YAWS = (0.0, 90.0)


class RandomLatents:
    """Latents and embeddings of the size of Stable Diffusion 2."""

    kind, what = "panoramas", "latents"

    def __init__(self, sources, cuts: Cuts, dtype: torch.dtype) -> None:
        self.sources, self.cuts, self.dtype, self.source = sources, cuts, dtype, {}
        self.settings = cuts.to_dict() | {"prompt_prefix": "", "hashes": {}, "dtype": str(dtype)}

    def counts(self):
        return {split: len(source) for split, source in self.sources.items()}

    def planned(self, split: str, index: int) -> Planned:
        return Planned(self.sources[split].sample_id(index), {TEXT: 8 * 77 * 1024 * self.dtype.itemsize})

    def members(self, split: str, index: int) -> dict[str, bytes]:
        generator = keyed_generator("benchmark", index)
        captions = {degrees: f"panorama {index} towards {degrees}" for degrees in range(0, 360, 45)}
        texts = view_prompts(captions, self.cuts.rig, 0.0, False)
        members = {"json": panorama_json(captions, texts=texts)}
        members[TEXT] = to_bytes(torch.randn(len(texts), 77, 1024, generator=generator).to(self.dtype))
        for name, _, _ in self.cuts:
            members[f"{name}.safetensors"] = to_bytes(torch.randn(8, 4, 64, 64, generator=generator).to(self.dtype))
        return members

    def files(self) -> dict[str, bytes]:
        return {EMPTY: to_bytes(torch.zeros(77, 1024, dtype=self.dtype))}


def drop_from_page_cache(folder: Path) -> None:
    for path in folder.rglob("*"):
        if path.is_file():
            descriptor = os.open(path, os.O_RDONLY)
            os.fsync(descriptor)
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(descriptor)


def serve(folder: Path, latency: float, address) -> None:
    """Serve a folder until the process is ended."""
    with serving(folder) as server:
        if latency:
            server.fault = lambda path, count: time.sleep(latency / 1000)
        address.put(server.url)
        time.sleep(1e6)


def seconds(data: Matterport3DDataModule) -> tuple[float, float, int]:
    """CPU and wall seconds of one pass, and its samples."""
    loader = data.train_dataloader()
    cpu, wall, count = time.process_time(), time.perf_counter(), 0
    for batch in loader:
        count += batch.batch_size
    return time.process_time() - cpu, time.perf_counter() - wall, count


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path("runs/shards"))
    parser.add_argument("--panoramas", type=int, default=32)
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--latency", type=float, default=20)
    options = parser.parse_args()
    torch.set_num_threads(1)
    rig = RingRig(height=options.size, width=options.size)
    how = {"yaw": list(YAWS), "num_val": 0, "max_samples": options.panoramas}
    files = Matterport3DDataModule(options.data, rig, **how)
    sources, cuts = {split: files.source(split) for split in SPLITS}, Cuts(rig, YAWS)
    contents = {
        "images": PanoramaFiles(sources, {}),
        "views": PanoramaViews(sources, {}, cuts),
        "latents-float32": RandomLatents(sources, cuts, torch.float32),
        "latents-bfloat16": RandomLatents(sources, cuts, torch.bfloat16),
    }
    for name, content in contents.items():
        start = time.process_time()
        written = write_shards(content, options.out / name, 256 * 10**6)
        size = sum(shard.bytes for shards in written.manifest.splits.values() for shard in shards)
        samples = sum(map(len, sources.values()))
        print(f"{name}: {size / samples / 1e6:.2f} MB a panorama; written in {time.process_time() - start:.1f} CPU s")

    rows: dict[str, list[tuple[float, float, int]]] = {}

    def measure(name: str, root, folder: Path | None, cold: bool, **settings) -> None:
        for _ in range(options.repeats):
            if cold and folder is not None:
                drop_from_page_cache(folder)
            data = Matterport3DDataModule(root, rig, **how, **settings)
            rows.setdefault(name, []).append(seconds(data))

    for cold in (True, False):
        state = "cold" if cold else "warm"
        measure(f"files, {state}", options.data, options.data, cold)
        for name in contents:
            measure(f"shards of {name}, {state}", options.out / name, options.out / name, cold)
    measure("shards of images, warm, cut_on_device", options.out / "images", None, False, cut_on_device=True)
    for name in ("images", "latents-float32"):
        address = multiprocessing.Queue()
        server = multiprocessing.Process(target=serve, args=(options.out / name, options.latency, address), daemon=True)
        server.start()
        url, cache = address.get(), options.out / "cache"
        measure(f"shards of {name}, http", url, None, False)
        for ahead in ("0", "16MB"):
            shutil.rmtree(cache, ignore_errors=True)
            shards = {"cache_dir": str(cache), "read_ahead": ahead}
            blocks = {"shuffle_block": 8, "mixed_blocks": 2}
            rows[f"shards of {name}, http, cache empty, read_ahead {ahead}"] = [
                seconds(Matterport3DDataModule(url, rig, **how, shards=shards, **blocks))
            ]
            measure(f"shards of {name}, http, cache full, read_ahead {ahead}", url, None, False, shards=shards)
        server.terminate()
    print(f"\n{options.panoramas} panoramas, 8 views of {options.size}x{options.size}; medians of {options.repeats}")
    first = None
    for name, passes in rows.items():
        cpu, wall = (statistics.median(one[k] / one[2] for one in passes) for k in (0, 1))
        first = first or cpu
        print(f"{name:58} {1 / cpu:8.1f} samples/s and core {1e3 * wall:8.1f} ms wall a sample {first / cpu:6.1f}x")
    print(json.dumps({name: passes for name, passes in rows.items()}))


if __name__ == "__main__":
    main()
