"""Files in the layout of the released code (docs/checkpoints.md): conversion, prediction, and the way back."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .pipelines import PROMPTS, two_walks
from .run import Run

WIDTHS = (64, 128, 128)  # of the toy bases
SIZES = {"panorama": (64, 64), "outpaint": (64, 64), "depth": (48, 64)}
OLD_ATTENTION = {".to_q.": ".query.", ".to_k.": ".key.", ".to_v.": ".value.", ".to_out.0.": ".proj_attn."}


def convert(run: Run) -> None:
    """Convert a file of each task and predict with it; write the model back; convert a single-view file."""
    run.folder.mkdir(parents=True, exist_ok=True)
    for task, (height, width) in SIZES.items():
        packaged = run.pipeline(task)
        weights = base_weights(packaged) | attention_weights(task == "depth")
        if task == "depth":  # a finetuned UNet, which has to be saved
            weights["mv_base_model.unet.conv_in.weight"] = weights["mv_base_model.unet.conv_in.weight"] * 1.01
        file, model, back = (run.folder / f"{task}{ending}" for ending in (".ckpt", "", "_back.ckpt"))
        torch.save({"state_dict": weights, "epoch": 9, "global_step": 100}, file)
        names = {"file": file, "task": run.words.converted_tasks[task], "base": run.words.bases[task], "out": model}
        names |= {"height": height, "width": width, "save_base": run.folder / f"{task}_base"}
        run.cli("convert with base" if task == "depth" else "convert", **names)
        run.keep_weights(f"{task}, converted", model / "adapter" / "diffusion_pytorch_model.safetensors")
        predict(run, task, model)
        run.cli("to upstream", model=model, out=back)
        state = torch.load(back, weights_only=True)["state_dict"]
        run.tensors |= {f"{task}, back/{name}": value for name, value in state.items()}
    run.keep_weights("depth, base", run.folder / "depth_base" / "unet" / "diffusion_pytorch_model.safetensors")
    file = run.folder / "single_view.ckpt"
    unet = {name: value for name, value in weights.items() if name.startswith("mv_base_model.unet.")}
    torch.save({"state_dict": unet}, file)
    run.cli("convert single view", file=file, base=run.words.bases["depth"], out=run.folder / "single_view")
    run.keep_weights("single view", run.folder / "single_view" / "unet" / "diffusion_pytorch_model.safetensors")


def predict(run: Run, task: str, model: Path) -> None:
    """Keep predictions of a converted model."""
    pipeline = run.pipeline(task, model)
    if task == "panorama":
        run.keep_call(f"{task}, predicted", pipeline, PROMPTS)
    elif task == "outpaint":
        images, known = torch.linspace(-1, 1, 8 * 3 * 64 * 64).view(1, 8, 3, 64, 64), torch.zeros(1, 8, 1, 64, 64)
        known[:, 0] = 1
        run.keep_call(f"{task}, predicted", pipeline, PROMPTS[:1], images=images, known=known)
    else:
        prompts, images, frames = two_walks(run)
        known = torch.zeros(2, 5, 1, 48, 64)
        known[0, [0, 4]] = 1
        run.keep_call(f"{task}, predicted", pipeline, prompts, **frames)
        run.keep_call(f"{task}, predicted between", pipeline, prompts, images=images, known=known, **frames)


def base_weights(pipeline: Any) -> dict[str, Tensor]:
    """Return a pipeline's base under the names of the released code's time."""
    weights = {f"text_encoder.text_model.{name}": value for name, value in pipeline.text_encoder.state_dict().items()}
    weights["text_encoder.text_model.embeddings.position_ids"] = torch.arange(77)[None]
    for name, value in pipeline.vae.state_dict().items():
        for new, old in OLD_ATTENTION.items():
            name = name.replace(new, old)
        weights[f"vae.{name}"] = value
    return weights | {f"mv_base_model.unet.{name}": value for name, value in pipeline.unet.state_dict().items()}


def attention_weights(depth: bool) -> dict[str, Tensor]:
    """Return random weights of everything but the base, with frequencies that no formula gives."""
    generator = torch.Generator().manual_seed(0)
    weights = {}
    for name, shape in attention_shapes(depth).items():
        value = 0.2 * torch.randn(shape, generator=generator)
        if name.endswith("freq_bands"):
            value = 1.7 ** torch.arange(shape[0]) + 0.01 * torch.rand(shape, generator=generator)
        weights[name] = value + 1 if "norm" in name and name.endswith("weight") else value
    return weights


def attention_shapes(depth: bool) -> dict[str, tuple[int, ...]]:
    """Return names and shapes of everything but the base."""
    places = {f"cp_blocks_encoder.{i}": C for i, C in enumerate(WIDTHS)} | {"cp_blocks_mid": WIDTHS[-1]}
    places |= {f"cp_blocks_decoder.{i}": C for i, C in enumerate(WIDTHS[::-1])}
    shapes = {}
    for place, C in places.items():
        block = f"mv_base_model.{place}." + ("attn1." if depth else "")
        shapes[f"{block}pe.freq_bands"] = (C // 2 if depth else C // 4,)
        shapes |= {f"{block}transformer.attn1.{name}.weight": (C, C) for name in ("to_q", "to_k", "to_v", "to_out")}
        shapes[f"{block}transformer.attn1.to_out.bias"] = (C,)
        linear = {"net.0.proj.weight": (8 * C, C), "net.0.proj.bias": (8 * C,)}
        linear |= {"net.2.weight": (C, 4 * C), "net.2.bias": (C,)}
        shapes |= {f"{block}transformer.ff.{name}": shape for name, shape in linear.items()}
        norms = [f"{norm}.{kind}" for norm in ("norm1", "norm2") for kind in ("weight", "bias")]
        shapes |= {f"{block}transformer.{name}": (C,) for name in norms}
        if depth:
            resnet = f"mv_base_model.{place}.resnet."
            shapes |= {f"{resnet}conv{i}.weight": (C, C, 3, 3) for i in (1, 2)}
            shapes |= {f"{resnet}bn{i}.{kind}": (C,) for i in (1, 2) for kind in ("weight", "bias")}
    return shapes | condition_shapes() if depth else shapes


def condition_shapes() -> dict[str, tuple[int, ...]]:
    """Return names and shapes of the depth model's image-condition blocks."""
    first = WIDTHS[0]
    shapes = {"condition_conv_in.weight": (first, 5, 3, 3), "condition_conv_in.bias": (first,)}
    inputs = {"condition_downblocks": (first, *WIDTHS[:-1]), "condition_upblocks": (WIDTHS[-1], *WIDTHS[:0:-1])}
    for blocks, channels in inputs.items():
        for i, C in enumerate(channels):
            block = f"{blocks}.{i}."
            shapes |= {f"{block}norm1.{kind}": (first,) for kind in ("weight", "bias")}
            shapes |= {f"{block}conv1.weight": (C, first, 3, 3), f"{block}conv1.bias": (C,)}
            shapes |= {f"{block}norm2.{kind}": (C,) for kind in ("weight", "bias")}
            shapes |= {f"{block}conv2.weight": (C, C, 1, 1), f"{block}conv2.bias": (C,)}
    return {f"mv_base_model.{name}": shape for name, shape in shapes.items()}
