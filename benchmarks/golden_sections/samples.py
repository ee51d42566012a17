"""The toy world, sample folders from the command line, their scores and their meshes."""

import hashlib
import json
from pathlib import Path

import torch
from PIL import Image

from .pipelines import PROMPTS
from .run import Run, uint8_picture
from .training import overlays


def world(run: Run) -> None:
    """Write a toy world of panoramas and walks, and other key frames; every file must have the same bytes."""
    run.cli("toy world", out=run.world)
    run.cli("key frames", scenes=run.world / "scannet" / "test", out=run.world / "key_frames")
    for path in sorted(path for path in run.world.rglob("*") if path.is_file()):
        run.numbers[path.relative_to(run.world).as_posix()] = hashlib.sha256(path.read_bytes()).hexdigest()


def generate(run: Run) -> None:
    """Generate panoramas from a prompts file, and around two pictures."""
    run.folder.mkdir(parents=True, exist_ok=True)
    prompts, pictures = run.folder / "prompts.jsonl", [run.folder / "first.png", run.folder / "second.png"]
    entries = [{"id": "one", "prompt": PROMPTS[0]}, {"id": "two", "prompt": [f"{PROMPTS[1]} {i}" for i in range(8)]}]
    prompts.write_text("\n".join(map(json.dumps, entries)))
    for seed, path in enumerate(pictures):
        Image.fromarray(uint8_picture(48, 64, seed)).save(path)
    run.cli("generate panorama", prompts=prompts, out=run.folder / "panorama")
    run.cli("generate outpaint", prompts=prompts, first=pictures[0], second=pictures[1], out=run.folder / "outpaint")
    run.cli("generate panorama, bfloat16", prompts=prompts, out=run.folder / "bfloat16")
    for task in ("panorama", "outpaint", "bfloat16"):
        run.keep_samples(task, run.folder / task)


def two_stages(run: Run) -> None:
    """Generate the key frames of a toy walk, then those between; every third frame by the base; the real ones, too."""
    scene = run.walks("test")[0]
    run.cli("generate depth", scene=scene, out=run.folder / "generated", real=run.folder / "real")
    names = {"out": run.folder / "interval", "real": run.folder / "real_interval"}
    run.cli("generate depth, interval", scene=scene, **names)
    for kind in ("generated", "real", "interval", "real_interval"):
        run.keep_samples(kind, run.folder / kind)


def evaluate(run: Run) -> None:
    """Score sample folders by every metric that needs no download; Inception and CLIP are random networks."""
    from .networks import write_clip, write_inception

    run.folder.mkdir(parents=True, exist_ok=True)
    samples = {task: run.work / f"test_{task}" / "test" for task in ("panorama", "outpaint", "depth")}
    samples["two stages"] = run.work / "two_stages"
    inception, inception_hash = write_inception(run.folder / "inception.pth")
    clip = write_clip(run.folder / "clip", run.pipeline("panorama").tokenizer)
    names = {
        "inception": inception,
        "inception_hash": inception_hash,
        "clip": clip,
        "truth": write_truth(run, samples["panorama"]),
    }
    scored = {
        "panorama, all": ("all", samples["panorama"] / "generated", samples["panorama"] / "reference"),
        "panorama, heads": ("heads", samples["panorama"] / "generated", samples["panorama"] / "reference"),
        "outpaint": ("given", samples["outpaint"] / "generated", samples["outpaint"] / "reference"),
        "depth": ("depth", samples["depth"] / "generated", samples["depth"] / "reference"),
        "two stages": ("depth, overlapping", samples["two stages"] / "generated", samples["two stages"] / "real"),
    }
    for key, (options, generated, reference) in scored.items():
        places = {"generated": generated, "reference": reference, "out": run.folder / f"{key}.json"}
        run.cli("evaluate", run.words.evaluations[options], **places, **names)
        run.keep_results(key, places["out"])
    upstream = write_upstream_layout(run, samples["panorama"])
    out = run.folder / "upstream.json"
    run.cli("evaluate alone", run.words.evaluations["plain"], generated=upstream, out=out)
    run.keep_results("upstream's layout", out)
    for name, training in run.words.trainings.items():
        if training.truth is not None:
            out = run.folder / f"{name}.json"
            options = {"config": training.config, **overlays(run, name), "out": out}
            run.cli("evaluate truth", run.words.evaluations["plain"], **options)
            run.keep_results(f"{name}, truth itself", out)


def quickstart(run: Run) -> None:
    """Run a quickstart in miniature; keep scores, paired differences and curves."""
    run.cli(run.name, out=run.folder)
    run.keep_results("quickstart", run.folder / "results.json", run.words.quickstart_numbers)


def write_truth(run: Run, samples: Path) -> Path:
    """Write what each view of panoramas shows, by sample id, in which the room's name stands."""
    rooms = [path.name for path in (run.world / "mp3d_skybox").iterdir() if path.is_dir()]
    shown = {}
    for record in sorted((samples / "generated").rglob("sample.json")):
        sample_id = json.loads(record.read_text())["sample_id"]
        room = next(room for room in rooms if room in sample_id)
        views = json.loads((run.world / "mp3d_skybox" / room / "truth" / f"{room}.json").read_text())["views"]
        shown[sample_id] = [views[str(45 * view)] for view in range(8)]
    path = run.folder / "truth.json"
    path.write_text(json.dumps(shown))
    return path


def write_upstream_layout(run: Run, samples: Path) -> Path:
    """Copy generated and real views into the layout of the released code."""
    root = run.folder / "upstream"
    for sample in sorted(path.parent for path in (samples / "generated").rglob("sample.json")):
        folder = root / sample.name
        folder.mkdir(parents=True, exist_ok=True)
        for view in range(8):
            (folder / f"{view}.png").write_bytes((sample / f"{view}.png").read_bytes())
            real = samples / "reference" / sample.relative_to(samples / "generated") / f"{view}.png"
            (folder / f"{view}_natural.png").write_bytes(real.read_bytes())
        (folder / "prompt.txt").write_text("\n".join(f"a room {view}" for view in range(8)))
    return root


def mesh(run: Run) -> None:
    """Fuse a toy walk, and the same walk as it was generated."""
    import trimesh

    run.folder.mkdir(parents=True, exist_ok=True)
    generated = next((run.work / "two_stages" / "generated").rglob("sample.json")).parent
    for key, source, ending in (("walk", run.walks("test")[0], ".ply"), ("generated", generated, ".glb")):
        path = run.folder / f"{key}{ending}"
        run.cli("mesh", source=source, out=path)
        fused = trimesh.load(path, force="mesh", process=False)
        run.tensors[f"{key}/vertices"] = torch.tensor(fused.vertices.tolist(), dtype=torch.float64)
        run.tensors[f"{key}/faces"] = torch.tensor(fused.faces.tolist())
        run.tensors[f"{key}/all, colours too"] = torch.frombuffer(bytearray(binary_part(path)), dtype=torch.uint8)


def binary_part(path: Path) -> bytes:
    """Return what follows the header of a .ply, or the JSON of a .glb: positions, colours and triangles."""
    content = path.read_bytes()
    if path.suffix == ".ply":
        return content[content.index(b"end_header\n") :]
    return content[20 + int.from_bytes(content[12:16], "little") :]
