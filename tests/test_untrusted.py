"""Files that would run code are refused everywhere, in plain words, and no repository brings code of its own."""

import ast
import os
from pathlib import Path

import pytest
import torch
from lightning.fabric.plugins.io import TorchCheckpointIO
from safetensors.torch import load_file

from mvdiff.cli.main import main
from mvdiff.data.prepare.captioner import Captioner
from mvdiff.eval.extractors import inception_extractor
from mvdiff.eval.features import ToyFeatureNet
from mvdiff.eval.metrics.clip_score import clip_scorer
from mvdiff.files.refusals import UnsafeFile
from mvdiff.hub_models import open_transformers
from mvdiff.models.adapter import MultiViewAdapter
from mvdiff.models.backbone import load_backbone
from mvdiff.pipelines.checkpoint import read_checkpoint
from mvdiff.training.checkpoint_files import CheckpointFiles
from mvdiff.training.multi_view import MultiViewModule
from tests.captioners import tiny_blip, tiny_blip2
from tests.eval.clip import TINY_NAME, write_open_clip, write_transformers_clip
from tests.pipelines.conftest import make_pipeline
from tests.tiny import tiny_base

PACKAGE = Path(__file__).resolve().parents[1] / "mvdiff"


class Hostile:
    """An object whose pickle makes a folder when it is read."""

    def __init__(self, made: Path) -> None:
        self.made = made

    def __reduce__(self):
        return os.mkdir, (str(self.made),)


@pytest.fixture
def made(tmp_path):
    """Folder that exists if code of a file was run."""
    return tmp_path / "ran"


def as_pickle(weights: Path, made: Path, name: str) -> Path:
    """Put a pickle beside `weights`, in whose place it is opened: its tensors, and one object that runs code."""
    state = load_file(weights)
    weights.unlink()
    torch.save({**state, "extra": Hostile(made)}, weights.parent / name)
    return weights.parent / name


def refused(action, path: Path, made: Path) -> None:
    with pytest.raises(UnsafeFile) as caught:
        action()
    text = str(caught.value)
    assert "must hold only tensors and plain values; got a pickled" in text
    assert "mkdir" in text
    assert path.name in text
    assert "weights_only" not in text
    assert caught.value.__suppress_context__ or caught.value.__cause__ is None
    assert not made.exists()


def test_the_files_are_real_attacks(tmp_path, made):
    torch.save(Hostile(made), tmp_path / "a.ckpt")
    torch.load(tmp_path / "a.ckpt", weights_only=False)
    assert made.is_dir()


@pytest.mark.parametrize(
    ("part", "name"),
    [
        ("unet/diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.bin"),
        ("vae/diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.bin"),
        ("text_encoder/model.safetensors", "pytorch_model.bin"),
    ],
)
def test_a_base(tmp_path, made, part, name):
    base = tiny_base(tmp_path / "base")
    refused(lambda: load_backbone(base), as_pickle(base / part, made, name), made)


def test_an_adapter(tmp_path, made):
    MultiViewAdapter([32], 32, [32]).save_pretrained(tmp_path / "a")
    path = as_pickle(tmp_path / "a" / "diffusion_pytorch_model.safetensors", made, "diffusion_pytorch_model.bin")
    refused(lambda: MultiViewAdapter.from_pretrained(tmp_path / "a"), path, made)


def test_a_lora(tmp_path, made):
    pipeline = make_pipeline(tmp_path / "base")
    path = tmp_path / "lora.bin"
    torch.save({"unet.x.lora_A.weight": torch.zeros(2, 2), "extra": Hostile(made)}, path)
    refused(lambda: pipeline.load_lora_weights(tmp_path, weight_name=path.name), path.parent, made)


@pytest.fixture
def checkpoint(tmp_path, made):
    path = tmp_path / "hostile.ckpt"
    torch.save({"state_dict": {}, "extra": Hostile(made), "pytorch-lightning_version": "2.6.0"}, path)
    return path


def test_a_checkpoint(checkpoint, made, tmp_path, capsys):
    refused(lambda: read_checkpoint(checkpoint), checkpoint, made)
    refused(lambda: read_checkpoint(checkpoint, lazy=True), checkpoint, made)
    refused(lambda: CheckpointFiles().load_checkpoint(checkpoint, weights_only=True), checkpoint, made)
    refused(lambda: MultiViewModule.load_from_checkpoint(checkpoint), checkpoint, made)
    assert main(["export", str(checkpoint), "--out", str(tmp_path / "model")]) == 1
    said = capsys.readouterr().err
    assert "hostile.ckpt" in said
    assert "only tensors and plain values" in said
    assert "weights_only" not in said
    assert said.count("\n") == 1
    assert not made.exists()
    assert issubclass(CheckpointFiles, TorchCheckpointIO)


def test_networks_of_metrics(tmp_path, made):
    path = tmp_path / "inception.pth"
    torch.save({"fc.weight": Hostile(made)}, path)
    refused(lambda: inception_extractor(path, inception_hash=""), path, made)
    write_open_clip(tmp_path)  # registers the architecture
    path = tmp_path / "clip.pt"
    torch.save({"x": Hostile(made)}, path)
    refused(lambda: clip_scorer(TINY_NAME, path), path, made)
    folder = write_transformers_clip(tmp_path / "clip")
    as_pickle(folder / "model.safetensors", made, "pytorch_model.bin")
    refused(lambda: clip_scorer(folder), folder, made)


def test_a_captioner(tmp_path, made):
    folder = tiny_blip2(tmp_path / "captioner")
    as_pickle(folder / "model.safetensors", made, "pytorch_model.bin")
    refused(lambda: Captioner(str(folder), device="cpu"), folder, made)


@pytest.mark.parametrize("content", ["pickle", "text", "damaged"])
def test_files_that_hold_no_code_are_not_called_hostile(tmp_path, made, content):
    path = tmp_path / "a.ckpt"
    torch.save({"state_dict": {}}, path)
    if content == "text":
        path.write_text("no weight file")
    elif content == "damaged":
        path.write_bytes(path.read_bytes()[:-30])
    if content == "pickle":
        read_checkpoint(path)
    else:
        with pytest.raises(ValueError, match=r"a\.ckpt") as caught:
            read_checkpoint(path, lazy=True)
        assert not isinstance(caught.value, UnsafeFile)
        assert "weights_only" not in str(caught.value)
    inception = tmp_path / "inception.pth"
    inception.write_text("no weight file")
    with pytest.raises(ValueError, match="must be a readable state dict") as caught:
        inception_extractor(inception, inception_hash="")
    assert "weights_only" not in str(caught.value)


def test_safetensors_that_are_pickles(tmp_path, made):
    net = ToyFeatureNet({"object": ["none", "sofa"]}, width=8, num_features=16)
    folder = net.save_pretrained(tmp_path / "net")
    torch.save({"x": Hostile(made)}, folder / "model.safetensors")
    with pytest.raises(ValueError, match="toy_features must be a folder with a ToyFeatureNet"):
        ToyFeatureNet.from_pretrained(folder)
    assert not made.exists()


def transformers_names(tree: ast.Module) -> set[str]:
    imports = (node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module == "transformers")
    return {alias.asname or alias.name for node in imports for alias in node.names}


def test_every_model_of_transformers_is_opened_in_one_place():
    """`open_transformers` alone calls `from_pretrained` of its classes."""
    found = []
    for path in PACKAGE.rglob("*.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        names = transformers_names(tree)
        found += [
            f"{path.relative_to(PACKAGE)}:{node.lineno}"
            for node in ast.walk(tree)
            if isinstance(node, ast.Attribute) and node.attr == "from_pretrained"
            if isinstance(node.value, ast.Name) and node.value.id in names
        ]
        source = path.read_text(encoding="utf-8")
        assert "trust_remote_code=True" not in source
        assert "weights_only=False" not in source
    assert found == []


def test_code_of_a_repository_is_not_run(tmp_path, made):
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text('{"auto_map": {"AutoConfig": "code.Config"}, "model_type": "of_its_own"}')
    (folder / "code.py").write_text(f"import os\nos.mkdir({str(made)!r})\nclass Config: pass\n")
    from transformers import AutoModelForImageTextToText

    with pytest.raises(ValueError, match=r"model must be a model whose class transformers has; .*does not run"):
        open_transformers(AutoModelForImageTextToText, folder)
    assert not made.exists()


@pytest.mark.parametrize("name", ["eager", "someone/kernel"])
def test_attention_is_pytorchs_own_whatever_the_config_says(tmp_path, name):
    """The default of transformers 5 is the same, so that numbers stay bit for bit."""
    base = tiny_base(tmp_path / "base")
    with torch.no_grad():
        before = load_backbone(base).encode_prompts(["a red ball"])
    path = base / "text_encoder" / "config.json"
    path.write_text(
        path.read_text().replace("{", f'{{"_attn_implementation": "{name}", "attn_implementation": "{name}",', 1)
    )
    backbone = load_backbone(base)
    assert backbone.text_encoder.config._attn_implementation == "sdpa"
    with torch.no_grad():
        assert torch.equal(backbone.encode_prompts(["a red ball"]), before)
    random = load_backbone(base, without_weights=["text_encoder"])
    assert random.text_encoder.config._attn_implementation == "sdpa"


def test_captions_and_scores_are_those_of_the_librarys_default(tmp_path):
    from transformers import AutoModelForImageTextToText, CLIPModel

    for kind, folder in (
        (AutoModelForImageTextToText, tiny_blip(tmp_path / "blip")),
        (AutoModelForImageTextToText, tiny_blip2(tmp_path / "blip2")),
        (CLIPModel, write_transformers_clip(tmp_path / "clip")),
    ):
        default, ours = kind.from_pretrained(str(folder)), open_transformers(kind, folder)
        assert ours.config._attn_implementation == default.config._attn_implementation
        same = zip(default.state_dict().values(), ours.state_dict().values(), strict=True)
        assert all(torch.equal(one, other) for one, other in same)
