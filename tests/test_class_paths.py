"""What a file may name: nothing outside the package is imported before the user named it."""

import sys

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
        ({"init_args": {"head_dim": {"class_path": "os.system", "init_args": {}}}}, "must hold numbers, texts, lists"),
        ({"init_args": {"neighbours": [[{"class_path": PAPER}]]}}, "must hold numbers, texts, lists"),
        ({"init_args": {"head_dim": print}}, "must hold numbers, texts, lists"),
        ({"init_args": {1: 2}}, "must hold numbers, texts, lists"),
        ({"init_args": {"channels": 4}}, "must be of kernel_size, .*; got channels"),
        ({"init_args": {"colour": 4}}, "must be of kernel_size, .*; got colour"),
        ({"init_args": [4]}, r"must be a mapping; got \[4\]"),
        ({"dict_kwargs": {}}, r"must have class_path and init_args, .*got \['dict_kwargs'\]"),
        ("a text", "must have class_path and init_args, .*got str"),
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


def test_the_users_own_settings_name_their_packages(trap):
    settings = {"model": {"class_path": "other.Model", "init_args": {"attention": {"class_path": "trapped.Mine"}}}}
    allow_plugins_of({"fit": [settings]})
    assert not trap.exists()
    assert resolve_class("trapped.Mine", ViewAttention).__name__ == "Mine"
    assert class_paths._plugins == {"other", "trapped"}


@pytest.mark.parametrize("name", ["", "my-package", "my package", "a..b", "-x"])
def test_a_plugin_is_a_modules_name(name):
    with pytest.raises(ValueError, match="plugin must be the name of a module"):
        allow_plugins(name)
