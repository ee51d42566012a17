"""Build step: ship the top-level configs/ in the wheel as mvdiff/configs (everything else is in pyproject.toml)."""

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py


class BuildWithConfigs(build_py):
    """Copy configs/ into the package that is built; an editable install reads them where they are."""

    def run(self) -> None:
        """Build, then copy."""
        super().run()
        if not self.editable_mode:
            shutil.copytree("configs", Path(self.build_lib) / "mvdiff" / "configs", dirs_exist_ok=True)


setup(cmdclass={"build_py": BuildWithConfigs})
