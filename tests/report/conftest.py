import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.report.folders import make_run

QUALITY = {"Merge": 0.55, "InitInject": 0.6, "Attention": 0.85}


@pytest.fixture(scope="session")
def grid(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`runs/` of 2 encoders x 3 decoders x 2 seeds, and a run that was stopped. Read it, and change nothing."""
    runs = tmp_path_factory.mktemp("grid") / "runs"
    for encoder in ("test_resnet", "test_vit"):
        for decoder, quality in QUALITY.items():
            for seed in (0, 1):
                folder = runs / f"{encoder}-{decoder.lower()}-{seed}"
                make_run(folder, encoder, decoder, seed, quality=quality + 0.1 * (encoder == "test_vit"))
    make_run(runs / "stopped", status="stopped")
    return runs


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """A real Chromium without a window."""
    names = ("chromium", "chromium-browser", "google-chrome")
    program = next(filter(None, map(shutil.which, names)), None)
    try:
        from playwright.sync_api import Error, sync_playwright
    except ImportError:
        pytest.skip("NO PLAYWRIGHT (pip install playwright), so the page is NOT tested in a browser")
    with sync_playwright() as playwright:
        try:
            opened = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        except Error as error:
            reason = str(error).splitlines()[0]
            pytest.skip(f"NO BROWSER (apt-get install chromium), so the page is NOT tested in one: {reason}")
        yield opened
        opened.close()
