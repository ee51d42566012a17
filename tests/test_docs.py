"""README, docs/ and notes/: links and pictures resolve, Python blocks run, the API reference renders."""

import doctest
import importlib
import importlib.util
import inspect
import re
import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "SECURITY.md",
    *sorted(ROOT.glob("docs/*.md")),
    *sorted(ROOT.glob("notes/*.md")),
]
API = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
ENTRY_POINTS = re.findall(r"^\| `(mvdiff[\w.]*)` \| .*?: (`.*) \|$", API, flags=re.MULTILINE)


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def without_code(text: str) -> str:
    return re.sub(r"^ *```.*?^ *```", "", text, flags=re.DOTALL | re.MULTILINE)


def anchors(path: Path) -> set[str]:
    """Return the anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", without_code(path.read_text(encoding="utf-8")), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-") for heading in headings}


def python_blocks(path: Path) -> list[tuple[int, str]]:
    """Return the Python blocks of a page with their lines; one that cannot run is fenced as `python no-run: REASON`."""
    text = path.read_text(encoding="utf-8")
    found = re.finditer(r"^```python\n(.*?)^```", text, flags=re.DOTALL | re.MULTILINE)
    return [(text.count("\n", 0, match.start(1)) + 1, match[1]) for match in found]


@pytest.mark.parametrize("path", PAGES, ids=name_of)
def test_links_and_pictures_resolve(path):
    broken = []
    for link in re.findall(r"\]\(([^)\s]+)\)", without_code(path.read_text(encoding="utf-8"))):
        if link.startswith(("http:", "https:")):
            continue
        target, _, anchor = link.partition("#")
        file = (path.parent / target).resolve() if target else path
        if not file.exists() or (anchor and anchor not in anchors(file)):
            broken.append(link)
    assert not broken


@pytest.mark.parametrize("path", PAGES, ids=name_of)
def test_fences_are_of_a_kind_that_the_tests_know(path):
    fences = re.findall(r"^ *```(.*)$", path.read_text(encoding="utf-8"), flags=re.MULTILINE)
    assert len(fences) % 2 == 0
    known = re.compile(r"(bash|python|python no-run: .+|yaml|text|bibtex|)")
    assert all(known.fullmatch(info) for info in fences[::2])


def test_the_index_names_every_page_and_picture():
    index = (ROOT / "docs" / "README.md").read_text(encoding="utf-8")
    for page in ROOT.glob("docs/*.md"):
        assert page.name == "README.md" or f"]({page.name})" in index, page.name
    notes = (ROOT / "notes" / "README.md").read_text(encoding="utf-8")
    for page in ROOT.glob("notes/*.md"):
        assert page.name == "README.md" or f"]({page.name})" in notes, page.name
    text = "".join(path.read_text(encoding="utf-8") for path in PAGES)
    for picture in [*ROOT.glob("docs/images/*"), *ROOT.glob("notes/images/*")]:
        assert f"images/{picture.name})" in text, picture.name


def test_pages_that_code_and_configs_name_exist():
    files = [path for root in ("mvdiff", "configs", "tests", "benchmarks") for path in (ROOT / root).rglob("*.*")]
    texts = [path.read_text(encoding="utf-8") for path in files if path.suffix in (".py", ".yaml")]
    named = {name for text in texts for name in re.findall(r"\b((?:docs|notes)/[\w-]+\.md)", text)}
    assert named
    assert not [name for name in sorted(named) if not (ROOT / name).is_file()]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Enter a folder with the files that examples open."""
    monkeypatch.chdir(tmp_path)
    colours = np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8)
    Image.fromarray(colours).save("photo.jpg")
    for name, shift in (("ours", 0.0), ("base", 5.0)):
        numbers = ", ".join(f'"room{i}": {20 - shift + i}' for i in range(3))
        number = f'"per_sample": {{{numbers}}}'
        Path(f"{name}.json").write_text(f'{{"metrics": {{"overlap_psnr_mean_of_pairs": {{{number}}}}}}}')
    return tmp_path


@pytest.mark.parametrize("path", [path for path in PAGES if python_blocks(path)], ids=name_of)
def test_python_blocks_run(path, folder):
    """The blocks of a page share their names; denoising takes two steps."""
    names = {"__name__": path.stem}
    for line, code in python_blocks(path):
        if ">>>" in code:
            examples = doctest.DocTestParser().get_doctest(code, names, path.name, path.name, line)
            assert doctest.DocTestRunner().run(examples).failed == 0
            continue
        code = re.sub(r"num_inference_steps=\d+", "num_inference_steps=2", code)
        exec(compile("\n" * (line - 1) + code, path.name, "exec", dont_inherit=True), names)
    if path.name == "README.md":
        assert Image.open("panorama.png").width == 2 * Image.open("panorama.png").height


@pytest.mark.parametrize(("module", "names"), ENTRY_POINTS)
def test_entry_points_are_there_and_documented(module, names):
    owner = importlib.import_module(module)
    assert inspect.getdoc(owner)
    for name in re.findall(r"`(\w+)`", names):
        assert len(inspect.getdoc(getattr(owner, name))) > 10, name


def test_the_reference_renders_without_warnings(tmp_path):
    pytest.importorskip("pdoc")
    spec = importlib.util.spec_from_file_location("build_docs", ROOT / "docs" / "build.py")
    build = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(build)
    build.write_pages(tmp_path)
    for page in tmp_path.glob("*.html"):
        for link in re.findall(r'(?:href|src)="([^"#:]+)["#]', page.read_text(encoding="utf-8")):
            assert link.startswith("api/") or (tmp_path / link).exists(), (page.name, link)
    with warnings.catch_warnings():
        build.strict()
        for module, names in ENTRY_POINTS:
            html = build.reference(module)
            assert all(f'id="{name}"' in html for name in re.findall(r"`(\w+)`", names)), module
