"""The page in a real browser: Debian's Chromium, headless."""

import base64
import io
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import capbench
from capbench.overlay import lit
from tests.support import make_picture

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium")

PICTURE = make_picture(1, (60, 48))[0]
DROP = """async (data) => {
    const bytes = Uint8Array.from(atob(data), (letter) => letter.charCodeAt(0));
    const files = new DataTransfer();
    files.items.add(new File([bytes], "dropped.png", { type: "image/png" }));
    const target = document.querySelector("#photo [data-testid=image] button, #photo button");
    for (const kind of ["dragenter", "dragover", "drop"])
        target.dispatchEvent(new DragEvent(kind, { dataTransfer: files, bubbles: true, cancelable: true }));
}"""
COPY = """async (data) => {
    const bytes = Uint8Array.from(atob(data), (letter) => letter.charCodeAt(0));
    await navigator.clipboard.write([new ClipboardItem({ "image/png": new Blob([bytes], { type: "image/png" }) })]);
}"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    flags = ["--no-sandbox", "--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"]
    with playwright.sync_playwright() as running:
        chromium = running.chromium.launch(executable_path=CHROMIUM, args=flags)
        yield chromium
        chromium.close()


@pytest.fixture(params=[(1280, 900), (360, 740)], ids=["desktop", "phone"])
def page(request: pytest.FixtureRequest, browser: Any, url: str) -> Iterator[Any]:
    """The page, freshly opened: it loads nothing from elsewhere, and no script of it fails."""
    width, height = request.param
    context = browser.new_context(
        viewport={"width": width, "height": height}, permissions=["camera", "clipboard-read", "clipboard-write"]
    )
    opened, asked, wrong = context.new_page(), [], []
    opened.set_default_timeout(60_000)
    opened.on("request", lambda each: asked.append(each.url))
    opened.on("pageerror", lambda error: wrong.append(str(error)))
    opened.goto(url)
    opened.wait_for_selector("#captions .note")
    yield opened
    assert opened.evaluate("document.documentElement.scrollWidth") <= width
    context.close()
    assert [each for each in asked if not each.startswith((url, "data:", "blob:"))] == []
    assert wrong == []


@pytest.fixture(scope="module")
def png(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("pictures") / "box.png"
    PICTURE.save(file)
    return file


def choose(page: Any, file: Path | dict[str, Any]) -> None:
    page.locator("#photo input[type=file]").first.set_input_files(file)


def captions_of(page: Any, place: int) -> list[str]:
    return page.locator(".system").nth(place).locator(".caption").all_inner_texts()  # type: ignore[no-any-return]


def test_a_file_is_captioned_by_both_and_the_attention_follows_the_words(
    page: Any, png: Path, checkpoints: list[Path]
) -> None:
    choose(page, png)
    page.wait_for_selector(".system")
    models = [capbench.load(checkpoint, "cpu") for checkpoint in checkpoints]
    assert page.locator(".system h3").all_inner_texts() == ["looks", "blind"]
    for place, model in enumerate(models):
        assert captions_of(page, place) == [each.text for each in model.caption(PICTURE, num_captions=3)]
    assert "does not say where it looks" in page.locator(".system").nth(1).inner_text()

    system = page.locator(".system").first
    words = captions_of(page, 0)[0].split()
    slider, shade = system.locator("input[type=range]"), system.locator(".shade")
    assert not shade.is_visible()
    slider.focus()
    seen = []
    for word in words:
        page.keyboard.press("ArrowRight")
        assert slider.get_attribute("aria-valuetext") == word
        assert system.locator(".word[aria-pressed=true]").all_inner_texts() == [word]
        assert shade.is_visible()
        seen.append(shade.get_attribute("src"))
    assert seen == [each.get_attribute("data-shade") for each in system.locator(".words").first.locator(".word").all()]
    maps = models[0].caption(PICTURE, num_captions=3, attention=True)[0].attention
    for url, weights in zip(seen, maps, strict=True):
        shadow = Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2]))).getchannel("A")
        expected = lit(Image.new("RGB", shadow.size, "white"), weights)
        assert (
            np.abs(255 - np.asarray(shadow, int) - np.asarray(expected, int)[..., 0]).max() <= 4
        )  # each is cut to whole numbers
    assert shade.bounding_box() == system.locator(".picture img").first.bounding_box()
    page.keyboard.press("Home")
    assert not shade.is_visible()

    system.locator(".word").nth(1).click()
    assert slider.input_value() == "2"
    system.locator(".caption").nth(2).click()
    assert slider.input_value() == "0"
    visible = [each for each in system.locator(".word").all() if each.is_visible()]
    assert [each.inner_text() for each in visible] == captions_of(page, 0)[2].split()


def test_a_file_is_dropped(page: Any, png: Path) -> None:
    page.evaluate(DROP, base64.b64encode(png.read_bytes()).decode())
    page.wait_for_selector(".system")


def test_a_picture_is_pasted(page: Any, png: Path) -> None:
    page.evaluate(COPY, base64.b64encode(png.read_bytes()).decode())
    page.get_by_label("Paste from clipboard").click()
    page.wait_for_selector(".system")


def test_an_example_is_at_hand_and_the_search_is_adjustable(page: Any, checkpoints: list[Path]) -> None:
    page.locator("button.gallery-item, .gallery-item").first.click()
    page.wait_for_selector(".system")
    assert len(captions_of(page, 0)) == 3
    page.get_by_role("button", name="Search").click()
    count = page.get_by_label("number input for Captions")
    slider = page.locator("input[type=range][aria-label*=Captions]")
    for _ in range(20):  # what is typed while the panel still opens is lost
        count.fill("5")
        count.press("Tab")
        page.wait_for_timeout(500)
        if slider.input_value() == "5":
            break
    assert slider.input_value() == "5"
    page.get_by_role("button", name="Caption", exact=True).click()
    page.wait_for_function("document.querySelectorAll('.system:first-child .caption').length === 5")


def test_a_picture_is_taken_with_the_camera(page: Any) -> None:
    page.get_by_label("Capture from camera").click()
    page.get_by_role("button", name="Click to Access Webcam").click()
    page.wait_for_function("document.querySelector('#photo video').videoWidth > 0")
    page.get_by_label("capture photo").click()
    page.wait_for_selector(".system")


@pytest.mark.parametrize(
    ("name", "data", "sentence"),
    [
        ("notes.jpg", b"Just a text.\n" * 50, "notes.jpg is no picture that can be read"),
        ("large.jpg", bytes(11 * 2**20), "maximum allowed size"),
    ],
)
def test_what_went_wrong_is_said_and_the_next_picture_is_captioned(
    page: Any, png: Path, name: str, data: bytes, sentence: str
) -> None:
    choose(page, {"name": name, "mimeType": "image/jpeg", "buffer": data})
    page.get_by_text(sentence).first.wait_for()
    if page.get_by_label("Clear").count():
        page.get_by_label("Clear").first.click()
    choose(page, png)
    page.wait_for_selector(".system")


def test_uploads_lie_in_the_servers_own_folder_alone(page: Any, png: Path, temp: Path) -> None:
    choose(page, png)
    page.wait_for_selector(".system")
    left = {file.relative_to(temp).parts[1] for file in temp.rglob("*") if file.is_file()}
    assert left == {"uploads", "examples"}
    assert not list(Path(capbench.__file__).parent.rglob("*.pyi"))
