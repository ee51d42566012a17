"""Prompts over the context of a text encoder are found, counted, and told apart from those that just fit."""

import pytest

from mvdiff.text_context import TextContext, clip_context, is_empty
from tests.tiny import tiny_tokenizer


@pytest.fixture(params=["open_clip", "transformers"])
def context(request):
    return clip_context() if request.param == "open_clip" else TextContext.of_tokenizer(tiny_tokenizer())


def test_just_as_many_tokens_as_fit_are_not_cut(context):
    """75 letters with spaces are 75 tokens in both vocabularies; start and end make 77."""
    fits, longer = " ".join("a" * 75), " ".join("a" * 76)
    assert context.cut([fits, longer, longer]) == {longer: 78}
    assert context.describe_cut([fits]) is None
    assert context.read_part(longer).split() == ["a"] * 75


def test_tokens_are_those_that_open_clip_makes():
    import open_clip

    texts = ["a red sofa beside a wooden table, " * times for times in (8, 9, 30)]
    tokens = open_clip.get_tokenizer("ViT-B-16")(texts)
    assert [int(row.argmax()) + 1 for row in tokens] == [66, 74, 77]  # the largest token is that of the end
    assert clip_context().cut(texts) == {texts[2]: 30 * 8 + 2}


def test_short_texts_of_many_bytes_are_cut():
    assert clip_context().cut(["𓀀" * 40])  # 40 characters, 160 bytes


def test_prompts_that_differ_in_their_last_words_alone_become_equal(context):
    beginning = " ".join("a" * 80)
    texts = [f"{beginning} {end}" for end in ("b", "c")]
    line = context.describe_cut([*texts, "a b"])
    assert line.startswith(
        "2 of 3 prompts have more tokens than the 77 that the text encoder reads, and the rest is cut"
    )
    assert "(83 tokens, read up to '..." in line
    assert line.endswith("; 2 different prompts become equal")
    alone = context.describe_cut([texts[0], "a b"], "caption")
    assert alone.startswith("1 of 2 captions has more")
    assert "become equal" not in alone


def test_only_the_first_texts_are_named(context):
    line = context.describe_cut([" ".join("a" * n) for n in range(80, 86)])
    assert line.startswith("6 of 6 prompts")
    assert line.count("tokens, read up to") == 3
    assert "; 3 more" in line


@pytest.mark.parametrize(("text", "empty"), [("", True), (" \n\t", True), ("a", False)])
def test_empty_prompts(text, empty):
    assert is_empty(text) is empty
