"""A headless Chromium that reaches nothing but this machine. For tests of pages, and for their pictures."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from selenium.common.exceptions import StaleElementReferenceException, TimeoutException
from selenium.webdriver import Chrome, ChromeOptions
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.support.wait import WebDriverWait

PACKAGES = "chromium chromium-driver fonts-dejavu-core"  # Debian's names
_PATIENCE_S = 30.0  # a page takes 2 s, more on a machine that does other things too
_SIZE = (1900, 1050)
# MLflow opens a panel of its assistant over the page at a browser's first visit.
_VISITED = {"fab.autoOpenedOnFirstLoad_v1": "true", "panelOpen_v1": "false"}


def missing() -> str:
    """Why there can be no browser here, empty when there can."""
    lacks = [name for name in ("chromium", "chromedriver") if shutil.which(name) is None]
    return f"{' and '.join(lacks)} missing: ask for 'apt-get install {PACKAGES}'" if lacks else ""


class Browser:
    """One window; every wait ends with the text of the page if it is in vain."""

    def __init__(self, driver: Chrome) -> None:
        self.driver = driver

    def open(self, url: str) -> None:
        """Go to ``url`` with a fresh page, also when only what follows its # is new."""
        self.driver.get("about:blank")
        self.driver.get(url)

    def visit(self, server: str) -> None:
        """Have been at this MLflow before."""
        self.driver.get(server)
        for name, value in _VISITED.items():
            self.driver.execute_script(
                "localStorage.setItem(arguments[0], arguments[1])", f"mlflow.assistant.{name}", value
            )

    def script(self, text: str, *arguments: Any) -> Any:
        """What a piece of JavaScript returns in the page."""
        return self.driver.execute_script(text, *arguments)

    def text(self) -> str:
        """What the page says, with single spaces."""
        return " ".join(str(self.script("return document.body.innerText")).split())

    def wait(self, holds: Callable[[], object], what: str) -> None:
        """Wait until ``holds`` is true; fails saying ``what`` was waited for and what the page says."""
        ignored = (StaleElementReferenceException,)
        try:
            WebDriverWait(self.driver, _PATIENCE_S, 0.2, ignored).until(lambda _: bool(holds()))
        except TimeoutException:
            raise AssertionError(f"waited for {what} at {self.driver.current_url}:\n{self.text()}") from None

    def wait_for(self, *texts: str) -> None:
        """Wait until the page says every one of ``texts``."""
        for text in texts:
            self.wait(lambda text=text: text in self.text(), repr(text))  # type: ignore[misc]  # bound now

    def count(self, selector: str) -> int:
        """How many elements of the page a CSS selector finds."""
        return len(self.driver.find_elements("css selector", selector))

    def scroll_to(self, text: str) -> None:
        """Bring the section ``text`` to the top: MLflow draws charts on sight."""
        find = r"""
            const title = e => (e.innerText ?? '').replace(/\s+/g, ' ').trim().replace(/ \(\d+\)$/, '');
            const found = [...document.querySelectorAll('*')].filter(e => title(e) === arguments[0]).pop();
            found?.scrollIntoView();
            return Boolean(found)"""
        self.wait(lambda: self.script(find, text), f"{text!r} to scroll to")

    def settle(self) -> None:
        """Wait until the page has looked the same for a second, and hide what only a mouse would show."""
        style = "const s = document.createElement('style'); s.textContent = '.modebar {display: none}';"
        self.script(f"{style} document.head.append(s)")  # a headless browser has no mouse to hover with
        seen: list[bytes] = []

        def still() -> bool:
            seen.append(self.driver.get_screenshot_as_png())
            time.sleep(0.5)
            return len(seen) > 2 and seen[-1] == seen[-2] == seen[-3]

        self.wait(still, "a page that stands still")

    def click(self, selector: str) -> None:
        """Click the first element that a CSS selector finds, once it is there."""
        self.wait(lambda: self.count(selector), selector)
        self.script("document.querySelector(arguments[0]).click()", selector)

    def picture(self, path: Path) -> None:
        """Save what the window shows as a PNG of 256 colours, which is a third of the size."""
        from PIL import Image

        self.driver.save_screenshot(str(path))
        with Image.open(path) as image:
            plain = image.convert("RGB")
            # The only one of Pillow's ways that keeps both the dots of runs and the grey of backgrounds.
            small = plain.quantize(256, Image.Quantize.MAXCOVERAGE, kmeans=3, dither=Image.Dither.NONE)
        small.save(path, optimize=True)


@contextmanager
def chromium() -> Iterator[Browser]:
    """A browser until the end of the block. It finds no host but 127.0.0.1, so pages have to bring all."""
    options = ChromeOptions()
    options.binary_location = str(shutil.which("chromium"))
    arguments = [
        "--headless=new",
        "--disable-gpu",
        "--disable-dev-shm-usage",  # /dev/shm of a container is small
        "--hide-scrollbars",
        f"--window-size={_SIZE[0]},{_SIZE[1]}",
        "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
    ]
    if os.geteuid() == 0:
        arguments.append("--no-sandbox")  # Chromium's own sandbox refuses root
    for argument in arguments:
        options.add_argument(argument)
    driver = Chrome(options=options, service=Service(str(shutil.which("chromedriver"))))
    try:
        yield Browser(driver)
    finally:
        driver.quit()
