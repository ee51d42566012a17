"""Everything that two trees may spell differently: commands, YAML keys, class paths, names in files.

`BASE` is the spelling of commit 874fe59. Where the present tree spells something differently, let `spelling` return a
copy of `BASE` with the changed fields, chosen by a feature of the tree (a file that exists), never by a guess:

    if (tree / "mvdiff" / "tasks").is_dir():
        return replace(BASE, commands=BASE.commands | {"mesh": "..."})

Edit a new tree's names here and nowhere else: a change of `BASE` or of a section runs the base commit again.
"""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

# Command lines, split at blanks; sections fill in the names in braces.
SAMPLING = "--num_inference_steps 4 --guidance_scale 2 --seed 7"
RESAMPLES = "--num_resamples 100 --device cpu"
QUICK = (
    "--out {out} --test_rooms 2 --batch_size 2 --max_steps 2 --continue_steps 2 --num_validations 1 "
    "--num_inference_steps 2 --num_workers 1"
)
SIZE = "--height {height} --width {width}"
COMMANDS = {
    "toy world": "data toyworld {out} --rooms 6 --test_rooms 2 --size 64 --num_frames 24 --arc_deg 140 --seed 7",
    "key frames": "data keyframes {scenes} --overlap 0.8 --out {out}",
    "generate panorama": "generate panorama --model mvdiff://toy-caa --prompts {prompts} --out {out} "
    f"--batch_size 2 --negative_prompt blurry {SAMPLING}",
    "generate outpaint": "generate outpaint --model mvdiff://toy-outpaint --prompts {prompts} --out {out} "
    "--image {first} --fov 65 --yaw 20 --image {second} --fov 80 --yaw -60 --no_paste_back "
    f"--batch_size 2 {SAMPLING}",
    "generate panorama, bfloat16": "generate panorama --model mvdiff://toy-caa --prompts {prompts} --out {out} "
    f"--num_samples 2 --scheduler EulerAncestralDiscrete --dtype bfloat16 --views_per_chunk 3 --vae_slicing {SAMPLING}",
    "generate depth": "generate depth --model mvdiff://toy-depth --scene {scene} --out {out} --real {real} --mode full "
    f"--num_views 4 --max_between 3 --batch_size 2 {SAMPLING}",
    "generate depth, interval": "generate depth --model mvdiff://toy-depth --scene {scene} --out {out} --real {real} "
    f"--mode interval --interval 3 --num_views 4 --window_overlap 0 --no_caa {SAMPLING}",
    "fit": "fit --config {config} --config {overlay}",
    "resume": "fit --config {config} --config {overlay} --ckpt_path {checkpoint} --trainer.max_steps 4",
    "test": "test --config {config} --config {overlay} --config {test}",
    "export": "export {checkpoint} --no_ema --out {out}",
    "convert": f"convert upstream {{file}} --task {{task}} --base {{base}} --out {{out}} {SIZE}",
    "convert with base": f"convert upstream {{file}} --task {{task}} --base {{base}} --save_base {{save_base}} "
    f"--out {{out}} {SIZE}",
    "convert single view": "convert upstream {file} --task depth-single-view --base {base} --out {out}",
    "to upstream": "convert to-upstream {model} --with_base --out {out}",
    "evaluate": f"evaluate --generated {{generated}} --reference {{reference}} --out {{out}} {RESAMPLES}",
    "evaluate alone": f"evaluate --generated {{generated}} --out {{out}} {RESAMPLES}",
    "evaluate truth": f"evaluate --config {{config}} --config {{overlay}} --config {{truth}} --out {{out}} {RESAMPLES}",
    "mesh": "mesh {source} --out {out} --voxel_size 0.08",
    "quickstart panorama": f"quickstart {QUICK} --rooms 10",
    "quickstart outpaint": f"quickstart outpaint {QUICK} --rooms 10 --pictures 1",
    "quickstart depth": f"quickstart depth {QUICK} --rooms 6 --stage1_steps 2 --num_frames 24 --arc_deg 140 "
    "--num_views 4",
}
# What follows `evaluate`.
EVALUATIONS = {
    "all": "--metrics fid inception_score clip_score overlap_psnr toy_fid toy_inception_score caption_agreement "
    "sharpness --inception_weights {inception} --inception_hash {inception_hash} --clip_model {clip} --truth {truth} "
    "--num_splits 2",
    "heads": "--metrics caption_agreement overlap_psnr --truth {truth} --judge_heads object colour --overlap_size 0 "
    "--overlap_pairs overlapping",
    "given": "--metrics given overlap_psnr toy_fid sharpness --overlap_size 128",
    "depth": "--metrics overlap_psnr toy_fid toy_inception_score sharpness --num_splits 2",
    "depth, overlapping": "--metrics overlap_psnr --overlap_pairs overlapping --overlap_depth_error 0.25",
    "plain": "--metrics overlap_psnr sharpness --overlap_size 128",
}
CONVERTED_TASKS = {"panorama": "panorama", "outpaint": "outpainting", "depth": "depth"}
BASES = {
    "panorama": "mvdiff://toy-base",
    "outpaint": "mvdiff://toy-inpainting-base",
    "depth": "mvdiff://toy-depth-base",
}


@dataclass(frozen=True)
class Training:
    """A packaged config, and the YAML after it that makes it small; sections fill in {world} and {folder}.

    Attributes:
        config: Name of the packaged config.
        overlay: YAML of three steps.
        out: File of the trained weights that `fit` writes below {folder}.
        test: YAML after the overlay, for `mvdiff test` of the packaged model.
        truth: YAML after the overlay, for `mvdiff evaluate` of the real views.
        resumes: Whether a fourth step is made from the checkpoint.
    """

    config: str
    overlay: dict[str, Any]
    out: str
    test: dict[str, Any] | None = None
    truth: dict[str, Any] | None = None
    resumes: bool = False


def small(trained: str, model: dict[str, Any], data: dict[str, Any], **settings: Any) -> dict[str, Any]:
    """Return YAML of three training steps; `trained` is the folder that `fit` writes, `settings` go to the top."""
    callbacks = [
        {
            "class_path": "lightning.pytorch.callbacks.ModelCheckpoint",
            "init_args": {"dirpath": "{folder}/checkpoints", "filename": "last", "every_n_train_steps": 3},
        },
        {"class_path": "mvdiff.training.ema.TrainedWeightsEMA", "init_args": {"decay": 0.7}},
    ]
    if trained == "model":
        folder = {"dirpath": "{folder}/model"}
        callbacks.append({"class_path": "mvdiff.training.callbacks.SaveModelFolder", "init_args": folder})
    else:
        model = {"out": f"{{folder}}/{trained}", **model}
    trainer = {
        "max_steps": 3,
        "val_check_interval": 3,
        "check_val_every_n_epoch": None,
        "log_every_n_steps": 1,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "default_root_dir": "{folder}",
        "logger": {
            "class_path": "lightning.pytorch.loggers.CSVLogger",
            "init_args": {"save_dir": "{folder}/logs", "name": "", "version": ""},
        },
        "callbacks": callbacks,
    }
    return {**settings, "trainer": trainer, "model": {"init_args": model}, "data": {"init_args": data}}


def tested(adapter: str, metrics: list[str], **data: Any) -> dict[str, Any]:
    """Return YAML that generates and scores test samples with a packaged model."""
    evaluation = {"overlap_size": 128, "num_resamples": 100, "num_splits": 2, "device": "cpu"}
    model = {
        "init_adapter": adapter,
        "kernel_size": None,
        "head_dim": None,
        "num_inference_steps": 4,
        "output_dir": "{folder}/test",
        "test_metrics": metrics,
        "evaluation": evaluation,
    }
    return {"model": {"init_args": model}, "data": {"init_args": {"max_test_samples": 2, **data}}}


PANORAMAS = {"root": "{world}/mp3d_skybox", "batch_size": 2, "num_val": 1}
WALKS = {"root": "{world}/scannet", "batch_size": 2, "num_val": 1}
SHOWN = {"num_inference_steps": 2, "num_validation_samples": 1}
METRICS = ["overlap_psnr", "toy_fid", "toy_inception_score", "sharpness"]
ADAPTER, UNET = "adapter/diffusion_pytorch_model.safetensors", "unet/diffusion_pytorch_model.safetensors"
TRAININGS = {
    "train panorama": Training(
        "toy/pano.yaml",
        small("model", SHOWN | {"text_dropout": 0.5}, PANORAMAS, total_batch_size=2),
        f"model/{ADAPTER}",
        tested("mvdiff://toy-caa", METRICS),
        {"data": {"init_args": {"yaw": [90]}}},
        resumes=True,
    ),
    "train outpaint": Training(
        "toy/outpaint.yaml",
        small("model", SHOWN | {"cache_dir": "{folder}/cache", "views_per_chunk": 3}, PANORAMAS, total_batch_size=2),
        f"model/{ADAPTER}",
        tested("mvdiff://toy-outpaint", [*METRICS, "given"]),
    ),
    "train depth": Training(
        "toy/depth.yaml",
        small(
            "model",
            SHOWN | {"base": "mvdiff://toy-depth-base", "snr_gamma": 5.0, "gradient_checkpointing": True},
            WALKS | {"num_views": 4, "min_frames": 3, "max_val_samples": 2},
            total_batch_size=2,
        ),
        f"model/{ADAPTER}",
        tested("mvdiff://toy-depth", METRICS),
        {"data": {"init_args": {"eval_mode": "interval", "interval": 3}}},
    ),
    "train depth base": Training("toy/depth_base.yaml", small("base", {}, WALKS | {"interval": 5}), f"base/{UNET}"),
    "train inpainting base": Training("toy/inpainting_base.yaml", small("base", {}, PANORAMAS), f"base/{UNET}"),
    "train sphere base": Training(
        "toy/sphere_base.yaml",
        small("base", {"cache_dir": "{folder}/cache", "cache_latents": True}, PANORAMAS | {"yaw": [0, 90]}),
        f"base/{UNET}",
    ),
    "train equirectangular": Training(
        "toy/pano.yaml",
        small("model", SHOWN, PANORAMAS | {"root": "{folder}/panoramas"}, total_batch_size=2),
        f"model/{ADAPTER}",
    ),
}
EQUIRECTANGULAR = "mvdiff.data.datamodule.EquirectangularDataModule"
TRAININGS["train equirectangular"].overlay["data"]["class_path"] = EQUIRECTANGULAR


@dataclass(frozen=True)
class Spelling:
    """Names that the sections use.

    Attributes:
        program: What Python runs for the command line.
        commands: Command lines.
        evaluations: Options of `evaluate`.
        trainings: Packaged configs and their small forms.
        pipelines: Module and class of each task's pipeline.
        converted_tasks: Names of the tasks in `convert`.
        bases: Packaged base of each task.
        checkpoint_weights: Where a checkpoint keeps the averaged and the last weights.
        weight_prefixes: What stands before a weight's own name in a checkpoint.
        result_numbers: The part of `results.json` that holds the numbers.
        quickstart_numbers: Likewise, of a quickstart.
        sample_fields: Fields of `sample.json` to compare.
    """

    program: tuple[str, ...] = ("-m", "mvdiff.cli.main")
    commands: dict[str, str] = field(default_factory=lambda: COMMANDS)
    evaluations: dict[str, str] = field(default_factory=lambda: EVALUATIONS)
    trainings: dict[str, Training] = field(default_factory=lambda: TRAININGS)
    pipelines: dict[str, tuple[str, str]] = field(
        default_factory=lambda: {
            "panorama": ("mvdiff.pipelines.panorama", "MVDiffusionPanoramaPipeline"),
            "outpaint": ("mvdiff.pipelines.outpaint", "MVDiffusionOutpaintPipeline"),
            "depth": ("mvdiff.pipelines.depth", "MVDiffusionDepthPipeline"),
        }
    )
    converted_tasks: dict[str, str] = field(default_factory=lambda: CONVERTED_TASKS)
    bases: dict[str, str] = field(default_factory=lambda: BASES)
    checkpoint_weights: tuple[tuple[str, str], ...] = (("average", "state_dict"), ("last", "current_model_state"))
    weight_prefixes: tuple[str, ...] = ("adapter.", "unet.")
    result_numbers: tuple[str, ...] = ("metrics",)
    quickstart_numbers: tuple[str, ...] = ("scores", "interpolation", "before", "curves")
    sample_fields: tuple[str, ...] = ("sample_id", "rig", "cameras", "prompts", "seed")


BASE = Spelling()
GROUPED = {  # settings of a model since the tree has tasks, by their names before
    "num_inference_steps": "sampling.num_inference_steps",
    "cache_dir": "cache.dir",
    "cache_latents": "cache.latents",
    "gradient_checkpointing": "memory.gradient_checkpointing",
    "views_per_chunk": "memory.views_per_chunk",
    "output_dir": "output.dir",
    "test_metrics": "output.metrics",
    "evaluation": "output.evaluation",
    "kernel_size": "adapter.attention",
    "head_dim": "adapter.attention",
}


def grouped(values: dict[str, Any] | None) -> dict[str, Any] | None:
    """Return YAML with the settings of its model in groups."""
    if values is None or "model" not in values:
        return values
    settings: dict[str, Any] = {}
    for name, value in values["model"]["init_args"].items():
        group, _, key = GROUPED.get(name, name).partition(".")
        if key:
            settings.setdefault(group, {})[key] = value
        else:
            settings[group] = value
    return values | {"model": {"init_args": settings}}


def with_groups(training: Training) -> Training:
    """Return a training with the settings of its model in groups."""
    yaml = {name: grouped(getattr(training, name)) for name in ("overlay", "test", "truth")}
    return replace(training, **yaml)


SCHEDULE_STEPS = {  # of the base's configs, where the present ones take the length of the run
    "toy/pano.yaml": 300,
    "toy/outpaint.yaml": 300,
    "toy/depth.yaml": 600,
    "toy/depth_base.yaml": 1500,
    "toy/inpainting_base.yaml": 900,
    "toy/sphere_base.yaml": 300,
}


def with_steps(training: Training) -> Training:
    """Return a training of three steps with the schedule of its base, which is longer."""
    model = training.overlay["model"]["init_args"]
    schedule = {"lr_scheduler": {"init_args": {"total_steps": SCHEDULE_STEPS[training.config]}}}
    return replace(training, overlay=training.overlay | {"model": {"init_args": model | schedule}})


def spelling(tree: Path) -> Spelling:
    """Return the spelling of a tree."""
    spelled, trainings = BASE, BASE.trainings
    if (tree / "mvdiff" / "tasks").is_dir():
        trainings = {name: with_groups(one) for name, one in trainings.items()}
    if (tree / "mvdiff" / "training" / "schedules.py").is_file():
        trainings = {name: with_steps(one) for name, one in trainings.items()}
    if (tree / "mvdiff" / "cli" / "command.py").is_file():  # options have one vocabulary
        commands = {name: command.replace(" --real ", " --reference ") for name, command in BASE.commands.items()}
        commands |= {  # quickstarts choose the precision by the processor, unless asked
            name: f"{line} --precision 32-true" for name, line in commands.items() if name.startswith("quickstart")
        }
        tasks = BASE.converted_tasks | {"outpaint": "outpaint"}
        spelled = replace(spelled, commands=commands, converted_tasks=tasks)
    return replace(spelled, trainings=trainings)
