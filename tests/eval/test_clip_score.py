"""CLIP score with tiny random models of both libraries, against torchmetrics and a score written out."""

import numpy as np
import pytest
import torch
from PIL import Image

from mvdiff.eval.metrics.clip_score import ClipScore, clip_scorer
from mvdiff.eval.sample import ScoredSample
from mvdiff.eval.weights import file_hash
from tests.eval.clip import TINY_NAME, write_open_clip, write_transformers_clip

PROMPTS = ["a red sofa", "a blue lamp in a green room", "a door", "a red sofa", "x " * 200]


def images(num=5, height=40, width=32):
    """Blobs of different colours under noise."""
    generator = torch.Generator().manual_seed(0)
    blobs = torch.randint(0, 200, (num, 3, 2, 2), generator=generator).float()
    noise = torch.randint(0, 56, (num, 3, height, width), generator=generator)
    return (torch.nn.functional.interpolate(blobs, (height, width)) + noise).to(torch.uint8)


@pytest.fixture(scope="module")
def open_clip_file(tmp_path_factory):
    return write_open_clip(tmp_path_factory.mktemp("open_clip"))


@pytest.fixture(scope="module")
def transformers_folder(tmp_path_factory):
    return write_transformers_clip(tmp_path_factory.mktemp("clip") / "tiny")


def test_open_clip_matches_the_score_written_out(open_clip_file):
    import open_clip

    net, _, preprocess = open_clip.create_model_and_transforms(TINY_NAME, pretrained=str(open_clip_file))
    net.eval()
    expected = []
    with torch.no_grad():
        for image, prompt in zip(images(), PROMPTS, strict=True):
            pixels = preprocess(Image.fromarray(image.permute(1, 2, 0).numpy()))[None]
            a = net.encode_image(pixels, normalize=True)
            b = net.encode_text(open_clip.get_tokenizer(TINY_NAME)([prompt]), normalize=True)
            expected.append(100 * max(0.0, (a * b).sum().item()))
    scorer = clip_scorer(TINY_NAME, open_clip_file)
    assert scorer(images(), PROMPTS).tolist() == pytest.approx(expected, abs=1e-4)
    assert np.std(expected) > 5, "scores hardly differ: the comparison could not fail"
    assert scorer.name == f"open_clip {TINY_NAME} (tiny.safetensors)"
    assert scorer.weights_hash == file_hash(open_clip_file)


def test_transformers_matches_torchmetrics(transformers_folder):
    from torchmetrics.functional.multimodal.clip_score import clip_score
    from transformers import CLIPModel, CLIPProcessor

    class Adapter(torch.nn.Module):
        """torchmetrics 1.9 expects tensors where transformers 5 returns objects."""

        def __init__(self):
            super().__init__()
            self.net = CLIPModel.from_pretrained(transformers_folder).eval()
            self.config = self.net.config
            self.device = torch.device("cpu")

        def get_image_features(self, *args, **kwargs):
            return self.net.get_image_features(*args, **kwargs).pooler_output

        def get_text_features(self, *args, **kwargs):
            return self.net.get_text_features(*args, **kwargs).pooler_output

    processor = CLIPProcessor.from_pretrained(transformers_folder)
    scorer = clip_scorer(transformers_folder)
    scores = scorer(images(), PROMPTS)
    assert scores.std() > 5, "scores hardly differ: the comparison could not fail"
    for image, prompt, ours in zip(images()[:4], PROMPTS[:4], scores[:4].tolist(), strict=True):
        with torch.no_grad():
            theirs = clip_score(image, prompt, model_name_or_path=lambda: (Adapter(), processor))
        assert ours == pytest.approx(float(theirs), abs=1e-4)
    assert scorer.name == "transformers CLIPModel tiny"


def test_split_batch_equals_whole_and_prompts_matter(transformers_folder):
    scorer = clip_scorer(transformers_folder)
    whole = scorer(images(), PROMPTS)
    assert torch.allclose(scorer(images(), PROMPTS, batch_size=2), whole, atol=1e-4)
    assert not torch.allclose(scorer(images(), PROMPTS[::-1]), whole, atol=1e-4)
    assert whole.dtype == torch.float64


def test_wrong_arguments_are_refused(transformers_folder):
    scorer = clip_scorer(transformers_folder)
    with pytest.raises(ValueError, match=r"prompts must hold one text per image \(5\); got 2"):
        scorer(images(), PROMPTS[:2])
    with pytest.raises(ValueError, match="images_uint8 must be uint8"):
        scorer(images().float(), PROMPTS)


def test_missing_weights_are_one_clear_error(tmp_path, open_clip_file):
    with pytest.raises(FileNotFoundError, match=r"clip_weights must be .* for ViT-B-16; got .*set clip_weights"):
        clip_scorer("ViT-B-16", tmp_path / "absent.pt")
    with pytest.raises(ValueError, match="clip_model must be an open_clip architecture or a folder"):
        clip_scorer("ViT-B-17", open_clip_file)
    with pytest.raises(ValueError, match="clip_weights must be weights of RN50; got"):
        clip_scorer("RN50", open_clip_file)
    (tmp_path / "broken.pt").write_bytes(b"broken")
    with pytest.raises(ValueError, match=r"clip_weights must be weights of .*; got .*broken\.pt"):
        clip_scorer(TINY_NAME, tmp_path / "broken.pt")


@pytest.mark.filterwarnings("ignore:.*(torch.jit|TorchScript).*")
def test_archives_of_code_as_openai_publishes_them_are_refused(tmp_path, open_clip_file):
    torch.jit.save(torch.jit.trace(torch.nn.Linear(2, 2), torch.zeros(1, 2)), tmp_path / "ViT-B-16.pt")
    with pytest.raises(ValueError, match=r"clip_weights must .*got a TorchScript program.*ViT-B-16\.pt"):
        clip_scorer(TINY_NAME, tmp_path / "ViT-B-16.pt")


def test_incomplete_folder_is_refused(tmp_path, transformers_folder):
    from safetensors.torch import load_file, save_file

    with pytest.raises(ValueError, match="clip_model must be a folder with CLIPModel"):
        clip_scorer(tmp_path)
    for path in transformers_folder.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    state = load_file(tmp_path / "model.safetensors")
    del state["visual_projection.weight"]
    save_file(state, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"every weight of CLIPModel; got 1 missing, e\.g\. \['visual_projection"):
        clip_scorer(tmp_path)


def test_prompts_that_clip_cuts_and_empty_ones_are_counted_and_noted(transformers_folder, open_clip_file):
    for scorer in (clip_scorer(transformers_folder), clip_scorer(TINY_NAME, open_clip_file)):
        metric, eye = ClipScore(network=scorer), torch.eye(3).expand(5, 3, 3)
        for name, prompts in (("a", PROMPTS), ("b", ["", "a sofa", " ", "x " * 80, "a door"])):
            metric.update(ScoredSample(name, images(), eye, eye, prompts), False)
        result = metric.compute()["clip_score"]
        assert [result.n[f"num_{kind}"] for kind in ("images", "prompts_cut", "prompts_empty")] == [10, 2, 2]
        assert result.note == (
            "2 of 10 prompts have more than 77 tokens; CLIP reads the first of them only; 2 of 10 prompts are empty"
        )
        metric.reset()
        metric.update(ScoredSample("a", images(4), eye[:4], eye[:4], PROMPTS[:4]), False)
        assert metric.compute()["clip_score"].note is None
        with pytest.raises(ValueError, match=r"prompts must hold one text per view; got none\. Put the prompt of"):
            metric.update(ScoredSample("c", images(1), eye[:1], eye[:1], []), False)
