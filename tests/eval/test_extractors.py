import pytest
import torch

from mvdiff.eval.extractors import FeatureExtractor, inception_extractor, toy_extractor
from mvdiff.eval.features import ToyFeatureNet
from mvdiff.eval.weights import file_hash
from tests.eval.inception import write_random_inception


@pytest.fixture(scope="module")
def inception_file(tmp_path_factory):
    return write_random_inception(tmp_path_factory.mktemp("weights") / "random-inception.pth")


def images(num=3, size=40):
    return torch.randint(0, 256, (num, 3, size, size), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def test_inception_matches_torchmetrics_without_antialias(inception_file):
    from torchmetrics.image.fid import NoTrainInceptionV3

    extractor = inception_extractor(inception_file, inception_hash=file_hash(inception_file)[:8])
    features, logits = extractor(images(), batch_size=2)
    oracle = NoTrainInceptionV3(
        "inception-v3-compat", ["2048", "logits_unbiased"], str(inception_file), antialias=False
    )
    for ours, expected in zip((features, logits), oracle._torch_fidelity_forward(images()), strict=True):
        assert torch.allclose(ours, expected, rtol=1e-4, atol=1e-6)
    assert features.shape == (3, 2048)
    assert logits.shape == (3, 1008)
    assert extractor.name == "inception-v3-compat"
    assert extractor.weights_hash == file_hash(inception_file)


def test_another_weight_file_is_refused_unless_named(inception_file):
    with pytest.raises(ValueError, match=r"starts with 6726825d; got .*random-inception\.pth.*inception_hash"):
        inception_extractor(inception_file)


def test_missing_inception_is_one_clear_error(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path))
    with pytest.raises(FileNotFoundError) as caught:
        inception_extractor()
    for part in ("pt_inception-2015-12-05-6726825d.pth", "torch-fidelity", str(tmp_path), "set inception_weights"):
        assert part in str(caught.value)
    with pytest.raises(FileNotFoundError, match=r"nowhere\.pth, which does not exist"):
        inception_extractor(tmp_path / "nowhere.pth")


def test_failed_download_is_the_same_clear_error(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path))
    monkeypatch.setattr("torch_fidelity.feature_extractor_inceptionv3.URL_INCEPTION_V3", "file:///nowhere/weights.pth")
    with pytest.raises(FileNotFoundError, match=r"the download failed \(.*set inception_weights to its path"):
        inception_extractor()
    assert list((tmp_path / "checkpoints").iterdir()) == []


@pytest.mark.parametrize("content", [b"", b"not a weight file", None])
def test_unreadable_inception_is_a_clear_error(tmp_path, content):
    path = tmp_path / "broken.pth"
    if content is None:
        torch.save({"fc.weight": torch.zeros(2)}, path)
    else:
        path.write_bytes(content)
    with pytest.raises(ValueError, match="inception_weights must be a readable state dict"):
        inception_extractor(path, inception_hash=file_hash(path))


def test_a_pickle_that_runs_code_is_refused(tmp_path):
    class Evil:
        def __reduce__(self):
            return (open, (str(tmp_path / "ran"), "w"))

    path = tmp_path / "evil.pth"
    torch.save({"fc.weight": Evil()}, path)
    with pytest.raises(ValueError, match="inception_weights must hold only tensors and plain values; got a pickled"):
        inception_extractor(path, inception_hash="")
    assert not (tmp_path / "ran").exists()


def test_toy_extractor(tmp_path):
    torch.manual_seed(0)
    net = ToyFeatureNet({"object": ["none", "sofa", "lamp"], "walls": ["blue"]}, width=8, num_features=16).eval()
    extractor = toy_extractor(net.save_pretrained(tmp_path))
    features, logits = extractor(images(5), batch_size=2)
    expected = net(images(5))
    assert torch.allclose(features, expected["features"], atol=1e-6)
    assert torch.allclose(logits, expected["object"], atol=1e-6)
    assert not features.requires_grad
    assert extractor.name == "toy-features"
    assert extractor.weights_hash == net.weights_hash()
    with pytest.raises(ValueError, match=r"head must be one of \['object', 'walls'\]; got 'colour'"):
        toy_extractor(tmp_path, head="colour")


def test_any_function_of_images_may_extract():
    extractor = FeatureExtractor("mean-colour", "", 3, lambda x: (x.float().mean(dim=(2, 3)), None), "as given")
    features, logits = extractor(images())
    assert logits is None
    assert torch.equal(features, images().float().mean(dim=(2, 3)))
    with pytest.raises(ValueError, match=r"images_uint8 must be uint8; got torch\.float32"):
        extractor(images().float())
