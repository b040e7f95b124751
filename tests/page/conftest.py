"""Debian's Chromium without a screen; `make test-page` installs it."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from typing import Any

import pytest
from support.browser import Browser


@pytest.fixture(scope="session")
def chromium() -> Iterator[Any]:
    program, helper = shutil.which("chromium"), shutil.which("chromedriver")
    if not program or not helper:
        pytest.skip("Chromium is not installed; `make test-page` installs it")
    webdriver = pytest.importorskip("selenium.webdriver", reason="`make test-page` installs selenium")
    options = webdriver.ChromeOptions()
    options.binary_location = program
    for switch in ("headless=new", "no-sandbox", "disable-gpu", "disable-dev-shm-usage", "force-color-profile=srgb"):
        options.add_argument(f"--{switch}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(helper))
    try:
        yield driver
    finally:
        driver.quit()


@pytest.fixture
def browser(chromium: Any) -> Iterator[Browser]:
    """A browser; whatever the page complains of fails the test, unless the test takes it away."""
    looking = Browser(chromium)
    looking.complaints()
    yield looking
    complaints = looking.complaints()
    chromium.get("about:blank")
    assert not complaints
