"""A browser for the tests of pages; they are skipped only where no Chromium is installed."""

from collections.abc import Iterator

import pytest

from tests.report.browser import Browser, find_chromium


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """One headless browser window of 1200 x 900 pixels for all tests."""
    if find_chromium() is None:
        pytest.skip("needs chromium and chromedriver (Debian: apt-get install chromium chromium-driver)")
    with Browser(tmp_path_factory.mktemp("profile")) as opened:
        yield opened
