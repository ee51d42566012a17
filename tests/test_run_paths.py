"""Paths of the paper's run, wherever the texts name one, are those that the run writes."""

import re
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]
COMMON, PANO = (
    yaml.safe_load((ROOT / "configs" / name).read_text())["trainer"]["logger"]["init_args"]
    for name in ("common/run.yaml", "pano.yaml")
)
RUN = f"{COMMON['save_dir']}/{PANO['name']}/"
TEXTS = {
    path: path.read_text(encoding="utf-8")
    for path in [ROOT / "README.md", *sorted(ROOT.glob("docs/*.md")), *sorted(ROOT.glob("mvdiff/**/*.py"))]
}


@pytest.mark.parametrize("path", [path for path, text in TEXTS.items() if RUN in text], ids=lambda path: path.name)
def test_a_run_has_versions(path):
    # Lightning's loggers write runs/<name>/version_<n>/; training.md lists what is in it.
    found = re.findall(rf"{re.escape(RUN)}(\S*?)[\s\"'`)]", TEXTS[path] + " ")
    known = r"version_\d+/(model|samples|config\.yaml|checkpoints/\S+\.ckpt)"
    assert [name for name in found if not re.fullmatch(known, name)] == []
