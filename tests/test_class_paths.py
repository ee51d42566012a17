"""What a file may name: nothing outside the package is imported before the user named it."""

import re
import sys
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import pytest

from mvdiff import class_paths
from mvdiff.class_paths import allow_plugins, allow_plugins_of, resolve_class, resolve_settings
from mvdiff.models.attention import CorrespondenceAwareAttention, ViewAttention

PAPER = "mvdiff.models.attention.CorrespondenceAwareAttention"


@pytest.fixture(autouse=True)
def nothing_named(monkeypatch):
    monkeypatch.setattr(class_paths, "_plugins", set())


@pytest.fixture
def trap(tmp_path, monkeypatch):
    """A module on the path that leaves a mark where it is imported."""
    (tmp_path / "trapped.py").write_text(
        f"import pathlib\npathlib.Path({str(tmp_path / 'mark')!r}).touch()\n"
        "from mvdiff.models.attention import CorrespondenceAwareAttention\n"
        "class Mine(CorrespondenceAwareAttention):\n    pass\n"
        "class Other:\n    pass\n"
        "def make(channels):\n    raise AssertionError('called')\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path / "mark"
    sys.modules.pop("trapped", None)


def test_the_packages_own_classes_resolve():
    assert resolve_class(PAPER, ViewAttention) is CorrespondenceAwareAttention


@pytest.mark.parametrize("name", ["trapped.Mine", "trapped.make", "trapped.sub.Mine"])
def test_a_module_that_nobody_named_is_not_imported(trap, name):
    with pytest.raises(ValueError, match=f"class_path must lie in mvdiff or .*got {name}, in evil.*--plugin trapped"):
        resolve_class(name, ViewAttention, "evil/config.json")
    assert not trap.exists()
    allow_plugins("trap", "trapped_too")  # other modules, however alike
    with pytest.raises(ValueError, match="class_path must lie in"):
        resolve_class(name, ViewAttention)
    assert not trap.exists()


def test_a_named_module_gives_classes_of_the_kind_alone(trap):
    allow_plugins("trapped")
    assert issubclass(resolve_class("trapped.Mine", ViewAttention), CorrespondenceAwareAttention)
    for name in ("Other", "make", "pathlib", "missing"):
        with pytest.raises(ValueError, match=f"class_path must name a ViewAttention; got trapped.{name}"):
            resolve_class(f"trapped.{name}", ViewAttention)


@pytest.mark.parametrize(
    "name",
    [
        *("os.system", "builtins.eval", "subprocess.Popen", "mvdiffusion.X", "mvdiff_evil.X"),
        *("mvdiff.cli.main.os.system", "mvdiff.cli.main.main", "mvdiff.cli.main.sys", "mvdiff.models.adapter.nn"),
        *("mvdiff.models.attention.ViewAttention", "mvdiff.models.adapter.MultiViewAdapter", "mvdiff.nowhere.X"),
        *("mvdiff", "X", "", ".mvdiff.X", "mvdiff..X", "mvdiff.models/../x.X", "mvdiff.a b.X", 3, None, ["mvdiff.X"]),
        {"class_path": PAPER},
    ],
    ids=str,
)
def test_names_of_anything_else_are_refused(name):
    with pytest.raises(ValueError, match="class_path must"):
        resolve_class(name, ViewAttention)


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"init_args": {"head_dim": {"class_path": "os.system", "init_args": {}}}}, "must hold only numbers"),
        ({"init_args": {"neighbours": [[{"class_path": PAPER}]]}}, "must hold only numbers, texts, lists"),
        ({"init_args": {"head_dim": print}}, "must hold only numbers, texts, lists"),
        ({"init_args": {1: 2}}, "must hold only numbers, texts, lists"),
        ({"init_args": {"channels": 4}}, "unknown channels; it takes kernel_size"),
        ({"init_args": {"colour": 4}}, "unknown colour; it takes kernel_size"),
        ({"init_args": [4]}, r"must be a mapping; got \[4\]"),
        ({"dict_kwargs": {}}, r"must have only class_path and init_args.*got \['dict_kwargs'\]"),
        ("a text", "must have only class_path and init_args.*got str"),
    ],
    ids=str,
)
def test_arguments_are_json_and_those_of_the_class(settings, text):
    with pytest.raises(ValueError, match=text):
        resolve_settings(settings, ViewAttention, PAPER)


def test_settings_are_completed_with_the_classs_defaults():
    kind, arguments, settings = resolve_settings({"init_args": {"neighbours": ((1,), ())}}, ViewAttention, PAPER)
    assert kind is CorrespondenceAwareAttention
    assert arguments == {
        **{"kernel_size": 3, "head_dim": 32, "wavelengths": [0.5, 16.0], "min_overlap": 0.01},
        "neighbours": [[1], []],
    }
    assert settings == {"class_path": PAPER, "init_args": arguments}


@pytest.mark.parametrize("task", ["my_package.tasks.Mine", {"class_path": "my_package.tasks.Mine"}])
def test_the_users_own_settings_let_in_the_modules_of_task_and_attention_alone(task, trap):
    output = {"metrics": [{"class_path": "torch.nn.Linear"}]}
    arguments = {"task": task, "adapter": {"attention": {"class_path": "trapped.Mine"}}, "output": output}
    allow_plugins_of({"class_path": "other.Model", "init_args": arguments})
    assert not trap.exists()
    assert resolve_class("trapped.Mine", ViewAttention).__name__ == "Mine"
    assert class_paths._plugins == {"my_package.tasks", "trapped"}


@pytest.mark.parametrize("model", [None, "text", {}, {"init_args": {"task": "panorama", "adapter": None}}], ids=str)
def test_other_settings_let_nothing_in(model):
    allow_plugins_of(model)
    assert class_paths._plugins == set()


def test_a_module_that_breaks_at_import_is_named(tmp_path, monkeypatch):
    (tmp_path / "broken_plugin.py").write_text("1 / 0\n")
    monkeypatch.syspath_prepend(tmp_path)
    allow_plugins("broken_plugin")
    with pytest.raises(ValueError, match=r"class_path must .*got broken_plugin.Mine .*ZeroDivisionError"):
        resolve_class("broken_plugin.Mine", ViewAttention)


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        *(("kernel_size", value) for value in ("three", 3.0, True, None, [3])),
        *(("head_dim", value) for value in ("8", 8.0)),
        *(("wavelengths", value) for value in (0.5, "0.5", [0.5, "16"], [True, 2], {"0": 1})),
        *(("min_overlap", value) for value in ("0.1", False, None)),
        *(("neighbours", value) for value in ([1, 2], [[1.0], [0]], "all", False)),
    ],
)
def test_arguments_are_of_their_annotations(argument, value):
    with pytest.raises(ValueError, match=rf"{argument} must be .*got {re.escape(repr(value))}, in config.json"):
        resolve_settings({"init_args": {argument: value}}, ViewAttention, PAPER, "config.json")


@pytest.mark.parametrize(
    ("value", "wanted", "fits"),
    [
        *((1, float, True), (True, float, False), (None, float | None, True), ("a", Literal["a", "b"], True)),
        *(("c", Literal["a", "b"], False), (True, Literal[1], False), ([1, "a"], tuple[int, str], True)),
        *(([1], tuple[int, str], False), ([1, 2], tuple[int, ...], True), ([1, None], list[int], False)),
        *(([], list, True), ({"a": 1}, dict[str, int], True), ({"a": "b"}, Mapping[str, int], False)),
        *(([[1], 2], list[int | list[int]], True), ("text", Sequence[str], False), (print, Any, True)),
    ],
    ids=str,
)
def test_annotations_of_a_plugin(value, wanted, fits):
    assert class_paths._fits(value, wanted) == fits


@pytest.mark.parametrize("name", ["", "my-package", "my package", "a..b", "-x"])
def test_a_plugin_is_a_modules_name(name):
    with pytest.raises(ValueError, match="plugin must be the name of a module"):
        allow_plugins(name)
