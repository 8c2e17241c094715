"""Headless Chromium for the tests of HTML pages; they are skipped where it is not installed, nothing is downloaded."""

from __future__ import annotations

import os
import shutil

import pytest

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
DRIVER = shutil.which("chromedriver")

needs_browser = pytest.mark.skipif(
    not (CHROMIUM and DRIVER), reason="no chromium and chromedriver on PATH (Debian: chromium chromium-driver)"
)


def open_browser(width=1400, height=1000):
    """A selenium driver of headless Chromium without network; close it with ``quit()``."""
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for argument in ("headless=new", "disable-dev-shm-usage", "host-resolver-rules=MAP * ~NOTFOUND",
                     f"window-size={width},{height}"):  # fmt: skip
        options.add_argument(f"--{argument}")
    if hasattr(os, "geteuid") and os.geteuid() == 0:
        options.add_argument("--no-sandbox")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    return webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))


@pytest.fixture(scope="module")
def browser():
    """A browser shared by a module's tests."""
    driver = open_browser()
    yield driver
    driver.quit()


def errors(driver):
    """What the console complains about."""
    return [entry["message"] for entry in driver.get_log("browser") if entry["level"] in ("SEVERE", "WARNING")]
