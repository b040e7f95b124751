"""A browser that looks at the status page."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
PHONE, DESK = (360, 740), (1100, 900)


class Browser:
    """A browser that looks at one page."""

    def __init__(self, driver: Any) -> None:
        self.driver, self.size = driver, DESK

    def show(self, size: tuple[int, int] = DESK, *, dark: bool = False) -> None:
        """Have a window of that size, of a phone where it is narrow."""
        width, height = self.size = size
        window = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", window)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme]})

    def open(self, port: int, *, size: tuple[int, int] = DESK, dark: bool = False) -> None:
        self.show(size, dark=dark)
        self.driver.get(f"http://127.0.0.1:{port}/")

    def js(self, script: str, *values: object) -> Any:
        return self.driver.execute_script(f"return {script}", *values)

    def text(self, selector: str) -> str:
        told: str = self.js("document.querySelector(arguments[0]).textContent", selector)
        return told

    def texts(self, selector: str) -> list[str]:
        told: list[str] = self.js(
            "[...document.querySelectorAll(arguments[0])].map((one) => one.textContent)", selector
        )
        return told

    def until(self, script: str, *values: object) -> None:
        """Wait until the page has come to that."""
        from selenium.webdriver.support.ui import WebDriverWait  # noqa: PLC0415  only where there is a browser

        WebDriverWait(self.driver, 30, poll_frequency=0.05).until(lambda _: self.js(script, *values), script)

    def picture(self, what: str) -> None:
        """Keep a picture of the whole page for people to look at."""
        folder = ROOT / "build" / "page"
        folder.mkdir(parents=True, exist_ok=True)
        taken = self.driver.execute_cdp_cmd("Page.captureScreenshot", {"captureBeyondViewport": True})
        (folder / f"{what}.png").write_bytes(base64.b64decode(taken["data"]))

    def complaints(self) -> list[str]:
        return [one["message"] for one in self.driver.get_log("browser")]
