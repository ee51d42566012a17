"""Check of the files of weights that a run opens: the base, its autoencoder, an adapter, a checkpoint, judges."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from lightning.pytorch import LightningModule

from mvdiff.cli.doctor.findings import Finding, size
from mvdiff.cli.doctor.run import RunToCheck
from mvdiff.eval.metric_specs import MetricBuilder, MetricSpec, parse_specs
from mvdiff.eval.protocol import apply_protocol
from mvdiff.eval.runner import DEFAULT_METRICS
from mvdiff.eval.settings import EvaluationSettings
from mvdiff.eval.weights import file_hash
from mvdiff.files.paths import visible
from mvdiff.files.text import read_yaml_mapping
from mvdiff.hub_models import pinned_revision, snapshot_commit, split_revision
from mvdiff.models.backbone import base_parts
from mvdiff.models.loading import is_hub_id, resolve_folder
from mvdiff.models.weight_files import weight_files
from mvdiff.pipelines.checkpoint import read_checkpoint
from mvdiff.pipelines.model_folder import model_location
from mvdiff.run_files import configs_folder
from mvdiff.training.sample_writing import SampleWritingModule
from mvdiff.training.trained_part import TrainedPartModule

_KINDS = ("*.safetensors", "*.bin")
_HASH_DIGITS = 16


def check_weights(run: RunToCheck) -> Iterator[Finding]:
    """Report every file of weights, with size and SHA-256, and what is missing, with where to get it."""
    found = 0
    for finding in _all(run):
        found += 1
        yield finding
    if not found:
        yield Finding("ok", "the run opens none")


def _all(run: RunToCheck) -> Iterator[Finding]:
    named, class_path, module = run.arguments_of("model"), run.settings.model.class_path, _module(run)
    if not class_path.startswith("mvdiff.") and not isinstance(module, TrainedPartModule):
        yield Finding("not checked", f"weights of {class_path}, a class of your own: it opens them when it is built")
    else:
        fresh = named.get("fresh") or {}
        base = named.get("base") or getattr(module, "base", None) or fresh.get("parts_from")  # the task's by default
        if base is not None:
            yield from _base(base, named)
        for setting, settings in (("vae", named), ("vae", fresh), ("pretrained", named)):
            name = settings.get(setting)
            if isinstance(name, str):  # it may be the shape of a new one
                yield from _folder(setting, name, lambda name: resolve_folder(name, None, "vae", ["*"]))
        yield from _folder("init_adapter", named.get("init_adapter"), model_location)
        if isinstance(module, SampleWritingModule):
            yield from _judges(module)
    yield from _checkpoint(run)


def _module(run: RunToCheck) -> LightningModule | None:
    """Return the module where it can be built; its error is named by the check of the run."""
    try:
        return run.model
    except Exception:  # of a user's task or metric, which may raise any
        return None


def _base(name: str, named: Mapping[str, Any]) -> Iterator[Finding]:
    try:
        parts = base_parts(name, named.get("revision"))
    except (FileNotFoundError, ValueError) as error:
        yield Finding.of_error(error, remedy=_written_by(name))
        return
    for part, folder in parts.items():
        if part == "vae" and named.get("vae") is not None:
            continue
        if part.startswith(("tokenizer", "scheduler")):
            files = [path for path in visible(folder) if path.is_file()]
        else:
            files = _weight_files(folder)
        yield _found(f"base, {part}", folder, files, _fetch(name, named.get("revision")))
    yield from _pinned("base", name, named.get("revision"), next(iter(parts.values())).parent, "--model.revision {}")


def _folder(setting: str, name: str | None, resolve: Any) -> Iterator[Finding]:
    """Report the weights of a folder, packaged name or hub id, if the run names one."""
    if name is None:
        return
    try:
        folder = resolve(name)
    except (FileNotFoundError, ValueError) as error:
        yield Finding.of_error(error, remedy=_written_by(name))
        return
    yield from _pinned(setting, name, None, folder, f"Write {split_revision(name)[0]}@{{}}")
    inner = next((folder / part for part in ("adapter", "vae") if (folder / part).is_dir()), folder)
    yield _found(setting, inner, _weight_files(inner), _written_by(name) or _fetch(name, None))


def _pinned(setting: str, name: str, revision: str | None, folder: Path, remedy: str) -> Iterator[Finding]:
    """Report which commit of the hub is opened, with a warning where the next download may bring another one."""
    commit = snapshot_commit(folder)
    if commit is None or not is_hub_id(name):
        return
    hub_id, own = split_revision(name)
    if pinned_revision(hub_id, own or revision) == commit:
        yield Finding("ok", f"{setting}: commit {commit} of {hub_id}")
        return
    asked = f"revision {own or revision}" if own or revision else "no revision"
    text = f"{setting}: {asked} of {hub_id}, now commit {commit}; another day it may be another"
    yield Finding("warning", text, f"{remedy.format(commit)} keeps it.")


def _weight_files(folder: Path) -> list[Path]:
    """Return the files of a folder that are opened: weights, else what packaged feature networks and pickles hold."""
    if not folder.is_dir():
        return []
    files = weight_files(folder)[1]
    return files or next((found for kind in _KINDS if (found := visible(folder, kind.removeprefix("*")))), [])


def _found(setting: str, folder: Path, files: list[Path], remedy: str) -> Finding:
    if not files:
        lacking = "has no weights" if folder.is_dir() else "does not exist"
        return Finding("problem", f"{setting}: {folder} {lacking}", remedy)
    if not any(path.match(kind) for path in files for kind in _KINDS):
        return Finding("ok", f"{setting}: {folder}")
    hashes = ", ".join(_described(path) for path in files)
    return Finding("ok", f"{setting}: {files[0] if len(files) == 1 else folder} ({hashes})")


def _described(path: Path) -> str:
    return f"{size(path.stat().st_size)}, SHA-256 {file_hash(path)[:_HASH_DIGITS]}"


def _fetch(name: str, revision: str | None) -> str:
    if not is_hub_id(name):
        return "Copy the folder again."
    hub_id, own = split_revision(name)
    revision = pinned_revision(hub_id, own or revision)
    return f"hf download {hub_id}" + (f" --revision {revision}" if revision else "")


def _written_by(name: str) -> str:
    """Return the packaged run that writes a folder, as a remedy, or ""."""
    for path in sorted(configs_folder().rglob("*.yaml")):
        model = read_yaml_mapping(path).get("model") or {}
        if (model.get("init_args") or {}).get("out") == name:
            return f"mvdiff fit --config {path.relative_to(configs_folder()).as_posix()} writes it."
    return ""


def _judges(module: SampleWritingModule) -> Iterator[Finding]:
    """Open the networks of the metrics of `mvdiff test`, without which fit runs all the same."""
    settings, metrics = module.output.evaluation or EvaluationSettings(), module.output.metrics or DEFAULT_METRICS
    if (protocol := module.protocol()) is not None:
        settings, metrics = apply_protocol(protocol, settings), protocol.metrics
    for finding in of_judges(metrics, settings):
        is_there = finding.status == "ok"
        prefix = "network of" if is_there else "fit runs, but mvdiff test would leave out"
        yield replace(finding, status="ok" if is_there else "warning", text=f"{prefix} {finding.text}")


def of_judges(metrics: Sequence[MetricSpec], settings: EvaluationSettings) -> Iterator[Finding]:
    """Open the networks of metrics; each finding begins with the metrics of one network."""
    builder = MetricBuilder(asdict(settings) | {"device": "cpu"})
    named: dict[Finding, list[str]] = {}
    for metric, init_args in parse_specs(metrics).items():
        if metric.load_network is None:
            continue
        try:
            network = builder.build(metric, init_args).network
            finding = Finding("ok", f"{network.name}, SHA-256 {network.weights_hash[:_HASH_DIGITS]}")
        except Exception as error:  # of a user's metric, which may raise any
            finding = Finding.of_error(error)
        named.setdefault(finding, []).append(metric.name)
    for finding, names in named.items():
        yield replace(finding, text=f"{', '.join(names)}: {finding.text}")


def _checkpoint(run: RunToCheck) -> Iterator[Finding]:
    path = run.settings.ckpt_path
    if path is None:
        return
    if run.checkpoint_error is not None:
        yield Finding.of_error(run.checkpoint_error)
    elif Path(path).is_file():
        values = read_checkpoint(path, lazy=True)
        reached = f"step {values.get('global_step')}, epoch {values.get('epoch')}"
        yield Finding("ok", f"ckpt_path: {path} ({_described(Path(path))}), {reached}")
    elif Path(path).suffix == ".ckpt" and "://" not in path:
        yield Finding("problem", f"ckpt_path must be a file; got {path}, which does not exist", "Name a .ckpt file.")
    else:
        yield Finding("not checked", f"ckpt_path {path}: it is looked up when the run starts")
