import pytest
import torch

from mvdiff.eval.features import ToyFeatureNet, caption_agreement, packaged_toy_features
from mvdiff.eval.weights import module_hash
from mvdiff.samples import from_uint8

HEADS = {"object": ["none", "sofa", "lamp"], "colour": ["none", "red"], "walls": ["blue", "green"]}


@pytest.fixture
def net():
    torch.manual_seed(0)
    return ToyFeatureNet(HEADS, width=8, num_features=16).eval()


def images(num=5, size=(64, 64)):
    return torch.randint(0, 256, (num, 3, *size), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


def test_size_is_as_stated():
    count = sum(p.numel() for p in ToyFeatureNet(HEADS).parameters())
    assert 250_000 < count < 500_000


def test_uint8_and_float_images_give_the_same_numbers(net):
    a, b = net(images()), net(from_uint8(images()))
    assert all(torch.equal(a[key], b[key]) for key in a)
    assert a["features"].shape == (5, 16)


def test_features_are_those_the_heads_read(net):
    out = net(images(3, (20, 33)))
    assert torch.equal(net.heads["walls"](out["features"]), out["walls"])
    assert out["object"].shape == (3, 3)


def test_split_batch_equals_whole(net):
    whole = net(images())["features"]
    parts = torch.cat([net(chunk)["features"] for chunk in images().split(2)])
    assert torch.allclose(whole, parts, atol=1e-6)
    assert net.predict(images(), batch_size=2) == net.predict(images(), batch_size=64)


def test_gradients_are_finite(net):
    sum(value.square().sum() for value in net(images(1)).values()).backward()
    assert all(p.grad is not None and bool(torch.isfinite(p.grad).all()) for p in net.parameters())


def test_save_and_load_keep_everything(net, tmp_path):
    back = ToyFeatureNet.from_pretrained(net.save_pretrained(tmp_path / "net"))
    assert back.labels == HEADS
    assert back.num_features == 16
    assert back.weights_hash() == net.weights_hash() == module_hash(net)
    assert torch.equal(back(images())["object"], net(images())["object"])
    assert not back.training


def test_half_precision_file_loads_as_float32(net, tmp_path):
    expected = net(images())["features"]
    net.half().save_pretrained(tmp_path)
    back = ToyFeatureNet.from_pretrained(tmp_path)
    assert next(back.parameters()).dtype == torch.float32
    assert torch.allclose(back(images())["features"], expected, atol=1e-2)


def test_errors_name_the_folder(net, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"config\.json is missing, in .*absent"):
        ToyFeatureNet.from_pretrained(tmp_path / "absent")
    folder = net.save_pretrained(tmp_path / "net")
    (folder / "model.safetensors").write_bytes(b"no weights")
    with pytest.raises(ValueError, match="toy_features must be a folder with a ToyFeatureNet"):
        ToyFeatureNet.from_pretrained(folder)
    (folder / "config.json").write_text('{"name": "inception"}')
    with pytest.raises(ValueError, match="name must be 'toy-features'"):
        ToyFeatureNet.from_pretrained(folder)
    with pytest.raises(ValueError, match="heads must name at least one head"):
        ToyFeatureNet({})


def test_module_hash_sees_every_change(net):
    before = module_hash(net)
    with torch.no_grad():
        net.heads["walls"].bias[0] += 1e-3
    assert module_hash(net) != before


def test_caption_agreement_counts_by_hand(net):
    pixels = images(5)
    read = net.predict(pixels)
    other = {head: [next(x for x in HEADS[head] if x != label) for label in labels] for head, labels in read.items()}
    net.labels["object"] = [label.replace("none", "rug") for label in HEADS["object"]]  # so that no label is skipped
    net.labels["colour"] = [label.replace("none", "grey") for label in HEADS["colour"]]
    read, other = (
        {h: [{"object": "rug", "colour": "grey"}[h] if x == "none" else x for x in xs] for h, xs in named.items()}
        for named in (read, other)
    )
    truth = [
        {head: read[head][0] for head in HEADS},
        {"object": read["object"][1], "walls": other["walls"][1]},
        None,
        {**{head: read[head][3] for head in HEADS}, "colour": other["colour"][3]},
        {},
    ]
    verdicts = caption_agreement(net, pixels, truth)
    assert verdicts == {
        "object": [True, True, True],
        "colour": [True, False],
        "walls": [True, False, True],
        "all": [True, False],
    }


def test_caption_agreement_does_not_judge_none(net):
    truth = [{"object": "none", "colour": "none", "walls": "blue"}] * 2
    verdicts = caption_agreement(net, images(2), truth)
    assert verdicts["object"] == verdicts["colour"] == verdicts["all"] == []
    assert len(verdicts["walls"]) == 2


def test_caption_agreement_refuses_foreign_truth(net):
    with pytest.raises(ValueError, match=r"truth must use the judge's heads and labels .* object='car', in view 1"):
        caption_agreement(net, images(2), [None, {"object": "car"}])
    with pytest.raises(ValueError, match=r"one entry per image \(2\); got 1"):
        caption_agreement(net, images(2), [None])


def test_packaged_folder_is_inside_the_package():
    assert packaged_toy_features().parts[-3:] == ("mvdiff", "assets", "toy-features")
