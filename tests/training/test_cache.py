import pytest
import torch

from mvdiff.training.cache import TensorCache, cached_text


def test_second_fetch_reads_the_file(tmp_path):
    cache = TensorCache(tmp_path)
    value = torch.randn(3, 4, dtype=torch.float64)
    assert torch.equal(cache.fetch(lambda: value, "text", "hash", "a"), value)
    again = TensorCache(tmp_path).fetch(lambda: pytest.fail("computed twice"), "text", "hash", "a")
    assert torch.equal(again, value)
    assert again.dtype == torch.float64


OTHER_KEYS = [("text", "hash2", "a"), ("text", "hash", "b"), ("text", "hash", "a", ""), ("texth", "ash", "a")]


@pytest.mark.parametrize("other", OTHER_KEYS)
def test_other_keys_are_other_entries(tmp_path, other):
    cache = TensorCache(tmp_path)
    cache.fetch(lambda: torch.zeros(1), "text", "hash", "a")
    assert cache.fetch(lambda: torch.ones(1), *other) == 1


def test_a_text_is_encoded_once_and_alone(tmp_path):
    calls = []

    def encode(prompts):
        calls.append(prompts)
        return torch.tensor([[[float(len(prompt))]] for prompt in prompts])

    cache = TensorCache(tmp_path)
    assert cached_text(cache, "hash", encode, ["aa", "b", "aa"]).flatten().tolist() == [2, 1, 2]
    assert cached_text(cache, "hash", encode, ["b", "ccc"]).flatten().tolist() == [1, 3]
    assert calls == [["aa"], ["b"], ["ccc"]]
    assert cached_text(None, "hash", encode, ["aa", "b"]).shape == (2, 1, 1)
    assert calls[-1] == ["aa", "b"]


def test_a_broken_entry_is_named(tmp_path):
    cache = TensorCache(tmp_path)
    cache.fetch(lambda: torch.zeros(1), "a")
    (entry,) = tmp_path.rglob("*.safetensors")
    entry.write_bytes(b"\0" * 4)
    with pytest.raises(ValueError, match=f"files in cache.dir must be readable; .*{entry.name}"):
        cache.fetch(lambda: torch.zeros(1), "a")


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match=r"cache\.dir must be a writable folder"):
        TensorCache(tmp_path / "file").fetch(lambda: torch.zeros(1), "a")


def test_a_failed_write_leaves_nothing_behind(tmp_path, monkeypatch):
    def full(*args):
        raise OSError("disk is full")

    monkeypatch.setattr("mvdiff.files.writing.os.replace", full)
    with pytest.raises(OSError, match="disk is full"):
        TensorCache(tmp_path).fetch(lambda: torch.zeros(1), "a")
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []
