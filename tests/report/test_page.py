"""The page of `compare --html`: opened from its file in a real browser, read and used as people do."""

import base64
import io
import json
import re
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import pytest
from PIL import Image

from capbench.report.comparison import compare
from capbench.report.gallery import Gallery
from capbench.report.importance import VALUES, importance
from capbench.report.page import embedded
from capbench.report.read import read_runs
from tests.report.folders import make_run, scenes
from tests.support import QUICK, TINY_ENCODER, TINY_SHAPES, result, rows, run

BASELINE = "test_resnet + Merge"
DESKTOP, PHONE = {"width": 1280, "height": 900}, {"width": 360, "height": 740}
SECTIONS = ("table", "scores", "grid", "cost", "curves", "sweep", "captions", "settings", "apart")
MADE = "tr, li, .card, .main-svg, dt"  # what a section holds once it is made


@dataclass
class Report:
    """A page and the table that was written beside it."""

    page: Path
    table: dict[str, Any]
    runs: Path


@pytest.fixture(scope="module")
def report(grid: Path, tmp_path_factory: pytest.TempPathFactory) -> Report:
    folder = tmp_path_factory.mktemp("report")
    page, table = folder / "report.html", folder / "table.json"
    assert run("compare", grid, "--baseline", BASELINE, "--published", "--html", page, "--output", table) == 0
    return Report(page, json.loads(table.read_text()), grid)


@dataclass
class Opened:
    """A page in the browser, and what the browser had to say."""

    page: Any
    said: list[str] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)

    def near(self, section: str) -> Any:
        """A section, brought near the screen and so made."""
        found = self.page.locator(f"#{section}")
        found.evaluate("section => section.scrollIntoView()")
        found.locator(MADE).first.wait_for(state="attached")
        return found

    def asked_elsewhere(self) -> list[str]:
        """What was asked for beyond what the page holds itself."""
        return [url for url in self.asked if not url.startswith("data:")]

    def texts(self, selector: str) -> list[str]:
        found: list[str] = self.page.locator(selector).all_inner_texts()
        return found


def open_page(browser: Any, file: Path, **options: Any) -> Opened:
    shown = Opened(browser.new_context(**({"viewport": DESKTOP} | options)).new_page())
    shown.page.on("console", lambda message: shown.said.append(message.text) if message.type == "error" else None)
    shown.page.on("pageerror", lambda error: shown.said.append(str(error)))
    shown.page.on("request", lambda request: shown.asked.append(request.url))
    shown.page.goto(file.as_uri())
    return shown


@pytest.fixture
def show(browser: Any) -> Iterator[Callable[..., Opened]]:
    """Opens a page, by default on a desktop by day."""
    shown: list[Opened] = []

    def opened(file: Path, **options: Any) -> Opened:
        shown.append(open_page(browser, file, **options))
        return shown[-1]

    yield opened
    for each in shown:
        each.page.context.close()


@pytest.fixture(scope="module")
def opened(browser: Any, report: Report) -> Iterator[Opened]:
    """The page on a desktop by day, which these tests share: each sets the controls that it is about."""
    shown = open_page(browser, report.page)
    yield shown
    assert shown.said == []
    assert shown.asked_elsewhere() == [report.page.as_uri()]
    shown.page.context.close()


def system_names(opened: Opened) -> list[str]:
    return [text.splitlines()[0] for text in opened.texts("#table tbody th")]


@pytest.mark.parametrize(("size", "colours"), [(DESKTOP, "dark"), (PHONE, "light")], ids=["desktop-dark", "phone"])
def test_all_of_it_shows_without_an_error_or_a_request(
    show: Callable[..., Opened], report: Report, size: dict[str, int], colours: str
) -> None:
    opened = show(report.page, viewport=size, color_scheme=colours)
    for section in SECTIONS:
        assert opened.near(section).is_visible()
    opened.page.wait_for_timeout(300)  # what is drawn last
    assert opened.said == []
    assert opened.asked_elsewhere() == [report.page.as_uri()]
    assert opened.page.evaluate("document.documentElement.scrollWidth") <= size["width"]
    assert opened.page.locator("#attention").is_hidden()


def test_below_the_screen_nothing_is_made_yet_and_the_keyboard_finds_the_table(
    show: Callable[..., Opened], report: Report
) -> None:
    opened = show(report.page)
    opened.page.wait_for_timeout(300)
    assert opened.page.locator("#table tbody tr").count() > 0
    assert opened.page.locator("#captions .card").count() == 0
    assert opened.page.evaluate("window.Plotly === undefined")

    opened.page.keyboard.press("Tab")
    assert opened.page.evaluate("document.activeElement.textContent") == "Skip to the table"
    assert opened.page.locator(".skip").bounding_box()["x"] >= 0
    opened.page.keyboard.press("Enter")
    opened.page.keyboard.press("Tab")
    assert opened.page.evaluate("document.activeElement.closest('section').id") == "table"


def test_the_page_follows_the_colours_of_the_system(opened: Opened) -> None:
    def colours() -> tuple[str, str]:
        paper = opened.page.evaluate("getComputedStyle(document.body).backgroundColor")
        plot = opened.near("curves").locator(".main-svg").first
        return paper, plot.evaluate("svg => svg.style.background")

    day = colours()
    opened.page.emulate_media(color_scheme="dark")
    opened.page.wait_for_timeout(300)
    night = colours()
    opened.page.emulate_media(color_scheme="light")
    for light, dark in zip(day, night, strict=True):
        assert sum(map(int, re.findall(r"\d+", light)[:3])) > 600
        assert sum(map(int, re.findall(r"\d+", dark)[:3])) < 150


def test_the_table_says_what_the_written_one_says(opened: Opened, report: Report) -> None:
    heads = opened.texts("#table thead th")
    lines = {
        line.locator("th").inner_text().splitlines()[0]: line for line in opened.page.locator("#table tbody tr").all()
    }
    assert set(lines) == {system["system"] for system in report.table["systems"]}
    unsure = 0
    for system in report.table["systems"]:
        text = lines[system["system"]].locator("td").all_inner_texts()[heads.index("BLEU-4") - 1]
        assert text.startswith(f"{system['bleu4']:.4f}" if "bleu4" in system else "–")
        tags = lines[system["system"]].locator(".tag").all_inner_texts()
        assert tags == (["published"] if "source" in system else ["baseline"] * (system["system"] == BASELINE))
        if "source" not in system:
            low, high = system["intervals"]["bleu4"]
            assert f"{low:.3f} to {high:.3f}" in text
        if difference := system["differences"].get("bleu4"):
            assert ("no difference shown" in text) == (difference["p"] >= 0.05)
            assert f"p {difference['p']:.3f}" in text
            unsure += difference["p"] >= 0.05
    assert unsure
    sources = opened.page.locator("#table .sources").inner_text()
    assert all(system["source"] in sources for system in report.table["systems"] if "source" in system)


def test_the_table_is_sorted_by_mouse_and_by_keyboard(opened: Opened, report: Report) -> None:
    values = {system["system"]: system.get("rouge_l") for system in report.table["systems"]}
    has = [name for name, value in values.items() if value is not None]
    head = opened.page.locator("#table th", has_text="ROUGE-L")
    head.get_by_role("button").click()
    falling = sorted(has, key=lambda name: -values[name])
    assert head.get_attribute("aria-sort") == "descending"
    assert system_names(opened)[: len(has)] == falling
    head.get_by_role("button").press("Enter")
    assert head.get_attribute("aria-sort") == "ascending"
    assert system_names(opened)[: len(has)] == falling[::-1]
    assert values[system_names(opened)[-1]] is None  # a row without a value is last, either way
    assert opened.page.locator("#table [aria-sort]").count() == 1

    opened.page.locator("#table th", has_text="parameters").get_by_role("button").click()
    assert opened.page.locator("#table [aria-sort]").get_attribute("aria-sort") == "ascending"  # the smallest first


def test_the_table_is_filtered_by_text_encoder_and_decoder(opened: Opened, report: Report) -> None:
    everything = len(report.table["systems"])
    assert opened.page.locator("#table .count").inner_text() == f"{everything} of {everything} rows"
    opened.page.locator("#table").get_by_label("Search", exact=True).fill("INITINJ")
    assert sorted(system_names(opened)) == ["test_resnet + InitInject", "test_vit + InitInject"]
    opened.page.locator("#table").get_by_label("Encoder", exact=True).select_option("test_vit")
    assert system_names(opened) == ["test_vit + InitInject"]
    opened.page.locator("#table").get_by_label("Search", exact=True).fill("")
    opened.page.locator("#table").get_by_label("Decoder", exact=True).select_option("Merge")
    assert system_names(opened) == ["test_vit + Merge"]
    assert opened.page.locator("#table .count").inner_text() == f"1 of {everything} rows"
    opened.page.locator("#table").get_by_label("Decoder", exact=True).select_option("")
    opened.page.locator("#table").get_by_label("Encoder", exact=True).select_option("")
    assert len(system_names(opened)) == everything


def test_bars_have_their_intervals_and_differences_their_words(opened: Opened, report: Report) -> None:
    section = opened.near("scores")
    assert opened.texts("#scores h3") == ["CIDEr-D", "BLEU-1", "BLEU-2", "BLEU-3", "BLEU-4"]
    first = report.table["systems"][0]
    bar = section.locator("li", has_text=first["system"]).first
    widths = {kind: bar.locator(f".{kind}").bounding_box()["width"] for kind in ("bar", "range")}
    low, high = first["intervals"]["cider_d"]
    assert widths["range"] / widths["bar"] == pytest.approx((high - low) / first["cider_d"], rel=0.02)
    section.get_by_label("Show", exact=True).select_option("differences")
    shown = [system for system in report.table["systems"] if "bleu1" in system["differences"]]
    assert section.locator(".panels > div").nth(1).locator("li").count() == len(shown)
    unsure = sum(system["differences"]["bleu1"]["p"] >= 0.05 for system in shown)
    assert section.locator(".panels > div").nth(1).locator("li", has_text="no difference shown").count() == unsure > 0


def test_cells_of_the_grid_are_the_systems_scores(opened: Opened, report: Report) -> None:
    section = opened.near("grid")
    section.get_by_label("Score", exact=True).select_option("bleu2")
    decoders = opened.texts("#grid thead th")
    found = {}
    for line in section.locator("tbody tr").all():
        for decoder, cell in zip(decoders, line.locator("td").all_inner_texts(), strict=True):
            found[f"{line.locator('th').inner_text()} + {decoder}"] = cell
    ours = [system for system in report.table["systems"] if "source" not in system]
    assert found == {system["system"]: f"{system['bleu2']:.4f}" for system in ours}


def test_the_front_is_what_nothing_beats_at_both(opened: Opened, report: Report) -> None:
    section = opened.near("cost")
    section.get_by_label("Cost", exact=True).select_option("parameters")
    ours = [system for system in report.table["systems"] if "source" not in system]

    def beats(one: dict[str, Any], other: dict[str, Any]) -> bool:
        better, cheaper = one["cider_d"] - other["cider_d"], other["parameters"] - one["parameters"]
        return better >= 0 and cheaper >= 0 and better + cheaper > 0

    front = [system for system in ours if not any(beats(other, system) for other in ours)]
    listed = section.locator(".count").inner_text().removeprefix("On the front, the cheapest first: ").rstrip(".")
    assert listed.split("; ") == [each["system"] for each in sorted(front, key=lambda each: each["parameters"])]
    drawn = section.locator(".chart").evaluate("chart => chart.data.slice(1).flatMap((trace) => trace.y)")
    assert sorted(drawn) == sorted(system["cider_d"] for system in ours)


def test_each_run_has_a_learning_curve_in_its_systems_colour(opened: Opened, report: Report) -> None:
    section = opened.near("curves")
    section.get_by_label("Metric", exact=True).select_option("val/cider_d")
    traces = section.locator(".chart").evaluate(
        "chart => chart.data.map((trace) => [trace.text, trace.line.color, trace.y])"
    )
    folders = sorted(path.parent for path in report.runs.glob("*-*/result.json"))
    expected = [[row["val/cider_d"] for row in rows(folder / "metrics.jsonl")] for folder in folders]
    assert sorted(curve for _, _, curve in traces) == sorted(expected)
    colours = {text.rpartition(",")[0]: colour for text, colour, _ in traces}
    assert len(set(colours.values())) == len(colours) == 6
    assert all(colours[text.rpartition(",")[0]] == colour for text, colour, _ in traces)
    section.get_by_label("Highlight", exact=True).select_option(label="test_vit + Merge")
    bright = section.locator(".chart").evaluate("chart => chart.data.filter((trace) => trace.opacity === 1).length")
    assert bright == 2


def test_parallel_coordinates_hold_what_differs(opened: Opened, report: Report) -> None:
    section = opened.near("sweep")
    axes = section.locator(".chart").evaluate("chart => chart.data[0].dimensions.map((axis) => axis.label)")
    assert sorted(axes) == sorted(["encoder.name", "decoder", "seed", "CIDEr-D"])
    shares = dict(text.split("\n") for text in opened.texts("#sweep .bars .label"))
    assert int(shares["decoder"].rstrip(" %")) > 50
    assert int(shares["seed"].rstrip(" %")) < 10


def image_scores(report: Report, system: str, score: str) -> dict[str, float]:
    """Each image's score, the mean over the system's runs."""
    folder = system.lower().replace(" + ", "-")
    seeds = [rows(report.runs / f"{folder}-{seed}" / "captions.jsonl") for seed in (0, 1)]
    return {pair[0]["image_id"]: fmean(row["scores"][score] for row in pair) for pair in zip(*seeds, strict=True)}


def test_the_gallery_begins_where_two_systems_differ_most(opened: Opened, report: Report) -> None:
    section = opened.near("captions")
    one, other = "test_vit + InitInject", "test_resnet + Attention"
    section.get_by_label("First", exact=True).select_option(label=one)
    section.get_by_label("Second", exact=True).select_option(label=other)
    section.get_by_label("Score", exact=True).select_option("rouge_l")
    ours, theirs = image_scores(report, one, "rouge_l"), image_scores(report, other, "rouge_l")
    first = section.locator(".card h3").first
    apart = {image: abs(ours[image] - theirs[image]) for image in ours}
    assert apart[first.inner_text()] == pytest.approx(max(apart.values()), abs=0.002)  # the page has three digits
    section.get_by_label("Order", exact=True).select_option("one")
    shown = section.locator(".card h3").all_inner_texts()
    assert {image for image in ours if ours[image] - theirs[image] > 0.001} == set(shown)
    section.get_by_label("Order", exact=True).select_option("worst")
    means = {image: fmean((ours[image], theirs[image])) for image in ours}
    assert means[first.inner_text()] == pytest.approx(min(means.values()), abs=0.002)
    section.get_by_label("Order", exact=True).select_option("best")
    assert means[first.inner_text()] == pytest.approx(max(means.values()), abs=0.002)


def test_a_card_has_references_and_each_runs_caption_with_its_score(opened: Opened, report: Report) -> None:
    section = opened.near("captions")
    section.get_by_label("Order", exact=True).select_option("name")
    section.get_by_label("Score", exact=True).select_option("cider_d")
    image = scenes().split("test")[3]
    section.get_by_label("Search", exact=True).fill(image.references[2].upper())
    cards = section.locator(".card")
    assert image.id in cards.locator("h3").all_inner_texts()
    card = cards.filter(has_text=image.id)
    assert card.locator(".references li").all_inner_texts() == list(image.references)
    assert card.locator(".told li").count() == 4  # two systems of two seeds
    section.get_by_label("all systems", exact=True).check()
    assert card.locator(".told li").count() == 12
    row = next(
        row for row in rows(report.runs / "test_vit-attention-1" / "captions.jsonl") if row["image_id"] == image.id
    )
    line = card.locator(".told li", has_text="test_vit + Attention, seed 1")
    number, caption, _ = line.inner_text().splitlines()
    assert (number, caption) == (f"{row['scores']['cider_d']:.2f}", row["caption"])
    known = {word for reference in image.references for word in reference.split()}
    alone = [word for word in row["caption"].split() if word not in known]
    assert line.locator(".alone").all_inner_texts() == alone
    assert card.locator("img").evaluate("image => image.naturalWidth") == 64  # Shapes' own size


def test_more_images_come_by_a_button(opened: Opened) -> None:
    section = opened.near("captions")
    section.get_by_label("Search", exact=True).fill("")
    section.get_by_label("Order", exact=True).select_option("name")
    assert section.locator(".count").inner_text() == "10 of 12 images"
    section.get_by_role("button", name="Show more").press("Enter")
    assert section.locator(".card").count() == 12
    assert opened.page.evaluate("document.activeElement.className") == "card"  # the first of the new ones
    assert section.get_by_role("button", name="Show more").is_hidden()


def test_two_runs_settings_are_those_that_differ(opened: Opened, report: Report) -> None:
    section = opened.near("settings")
    section.get_by_label("One run", exact=True).select_option(label=str(report.runs / "test_vit-merge-0"))
    section.get_by_label("Other run", exact=True).select_option(label=str(report.runs / "test_resnet-merge-1"))
    lines = [line.locator("th, td").all_inner_texts() for line in section.locator("tbody tr").all()]
    assert lines == [["model.encoder.name", "test_vit", "test_resnet"], ["seed", "0", "1"]]
    assert opened.near("apart").locator("dd").inner_text() == "not finished: its status is 'stopped'"


NASTY = (
    """</script><script>document.title = "broken"</script><!-- <script> 'x' "y" & \u2028 {{ script }} """
    "<img src=x onerror=alert(1)>"
)


def test_captions_and_files_of_others_break_nothing(show: Callable[..., Opened], tmp_path: Path) -> None:
    image = scenes().split("test")[0].id
    folder = make_run(tmp_path / "<b>one & only", "<i>vit</i>", "Merge", captions={image: NASTY})
    (folder / "metrics.jsonl").write_text('{"epoch": 0, "val/bl')
    make_run(tmp_path / "other", "test_vit", "Attention", 1)
    page = tmp_path / "page.html"
    assert run("compare", tmp_path, "--html", page) == 0
    opened = show(page)
    opened.near("cost")
    section = opened.near("captions")
    section.get_by_label("Order", exact=True).select_option("name")
    assert section.locator(".told li", has_text="Merge").first.locator("span").nth(1).text_content() == NASTY
    assert opened.page.title() == "Shapes, test split: 2 systems"
    assert opened.page.locator("#captions b, #captions script, img[src=x]").count() == 0
    assert "i> + Merge" in " ".join(system_names(opened))
    note = opened.near("curves").locator(".count").inner_text()
    assert note == f"{folder}: metrics.jsonl cannot be read: it is cut short or not ours."
    assert opened.page.locator("#curves .chart").evaluate("chart => chart.data.length") == 1
    assert opened.said == []


def test_without_images_no_picture_is_in_the_page(show: Callable[..., Opened], report: Report, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    assert run("compare", report.runs, "--html", page, "--no-images") == 0
    assert "data:image/jpeg" not in page.read_text(encoding="utf-8")
    assert "data:image/jpeg" in report.page.read_text(encoding="utf-8")
    opened = show(page)
    section = opened.near("captions")
    assert section.locator("img").count() == 0
    assert section.locator(".card h3").first.inner_text().startswith("scene-")
    assert "--no-images" in section.locator("#missing").inner_text()


def test_pictures_that_are_gone_are_missed_in_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = make_run(tmp_path / "runs" / "one")
    config = folder / "config.yaml"
    config.write_text(re.sub(r"test: 12", "test: 11", config.read_text()))
    page = tmp_path / "page.html"
    assert run("compare", folder, "--html", page) == 0
    reason = "are not the data that"
    assert capsys.readouterr().out.count(reason) == 1
    assert page.read_text(encoding="utf-8").count(reason) == 1

    pictures = tmp_path / "pictures"
    (pictures / "below").mkdir(parents=True)
    for image in scenes().split("test"):
        image.open().save(pictures / "below" / f"{image.id}.png")
        shutil.move(pictures / "below" / f"{image.id}.png", pictures / "below" / image.id)
    assert run("compare", folder, "--html", page, "--images", pictures) == 0
    assert page.read_text(encoding="utf-8").count("data:image/jpeg") == 12
    assert run("compare", folder, "--html", page, "--images", tmp_path / "runs") == 0
    assert "holds none of the images" in capsys.readouterr().out


def test_attention_is_shown_word_by_word(
    show: Callable[..., Opened], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    options = (*TINY_SHAPES, "--data.test=12", *TINY_ENCODER, "--model.decoder=Attention", "--model.decoder.hidden=8")
    assert run("fit", *options, *QUICK, "--name=looks") == 0
    folder = make_run(tmp_path / "tested" / "attention", "test_resnet", "Attention")
    shutil.copytree(tmp_path / "runs" / "looks" / "checkpoints", folder / "checkpoints")
    told = result(folder)
    told["scores"]["test"]["search"] |= {"min_words": 4, "max_words": 6}
    (folder / "result.json").write_text(json.dumps(told))
    make_run(tmp_path / "tested" / "merge", "test_resnet", "Merge")

    assert run("compare", tmp_path / "tested", "--html", "page.html", "--attention", 2, "--no-images") == 0
    opened = show(tmp_path / "page.html")
    section = opened.near("attention")
    assert section.locator(".card").count() == 2
    words = section.locator(".card").first.locator("li")
    assert 4 <= words.count() <= 6
    assert all(text.strip() for text in words.all_inner_texts())
    assert opened.said == []
    lights = words.locator("img").evaluate_all("all => all.map((image) => image.src)")
    assert len(lights) == words.count()
    assert all(colourfulness(light) < 12 for light in lights)  # without the picture there is only light

    comparison = compare(*read_runs([tmp_path / "tested" / "attention"], "test"))
    [first, _] = Gallery(comparison).attention(comparison, 2)
    assert [word for word, _ in first["words"]] == words.all_inner_texts()
    assert all(colourfulness(light) > 60 for _, light in first["words"])


def colourfulness(uri: str) -> int:
    """How far red, green and blue of a picture are apart, at most."""
    pixels = np.asarray(Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2])))).astype(int)
    return int((pixels.max(axis=-1) - pixels.min(axis=-1)).max())


def test_options_of_the_page_want_a_page(grid: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("compare", grid, "--no-images") == 2
    assert "add --html FILE" in capsys.readouterr().err


def test_without_plotly_a_sentence_says_so(
    grid: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "plotly.offline", None)
    assert run("compare", grid, "--html", tmp_path / "page.html") == 2
    assert "pip install plotly" in capsys.readouterr().err


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_numbers_that_json_lacks_are_null(value: float) -> None:
    assert json.loads(embedded({"a": [value, 1.5], "b": "</script>"})) == {"a": [None, 1.5], "b": "</script>"}
    assert "<" not in embedded("</script><!--")


def test_importance_is_the_adjusted_share_of_a_regression_on_the_values() -> None:
    dice = np.random.default_rng(0)
    decoders, rates = dice.choice(["Merge", "Attention", "Transformer"], 40), dice.uniform(size=40)
    scores = (decoders == "Attention") * 0.3 + dice.normal(scale=0.2, size=40)
    settings = [{"decoder": str(d), "lr": float(lr)} for d, lr in zip(decoders, rates, strict=True)]
    found = {each.settings[0]: each.share for each in importance(settings, scores.tolist())}

    cuts = np.quantile(rates, [0.25, 0.5, 0.75])
    for name, groups in (("decoder", decoders), ("lr", np.digitize(rates, cuts))):
        dummies = (groups[:, None] == np.unique(groups)).astype(float)
        residual = scores - dummies @ np.linalg.lstsq(dummies, scores, rcond=None)[0]
        adjusted = 1 - (residual @ residual / (40 - dummies.shape[1])) / scores.var(ddof=1)
        assert found[name] == pytest.approx(max(adjusted, 0), abs=1e-12)
    assert found["decoder"] > 0.2


def test_importance_of_chance_is_nothing_on_average() -> None:
    dice = np.random.default_rng(1)
    shares = []
    for _ in range(200):
        settings = [{"a": int(dice.integers(4))} for _ in range(12)]
        shares += [each.share for each in importance(settings, dice.normal(size=12).tolist()) if each.share is not None]
    assert len(shares) > 150
    assert np.median(shares) == 0  # the plain share, eta squared, would be 0.27 on average


def test_settings_that_change_together_share_a_line_and_too_few_runs_have_no_share() -> None:
    settings = [{"encoder": name, "size": size, "same": 1} for name, size in (("a", 224), ("b", 299), ("a", 224))]
    assert [each.settings for each in importance(settings, [0.1, 0.2, 0.1])] == [["encoder", "size"]]
    lone = [{"lr": value, "list": [value], "none": None} for value in (0.1, 0.2)]
    assert [(each.settings, each.share) for each in importance(lone, [1.0, 2.0])] == [(["lr", "list"], None)]
    many = [{"lr": float(value)} for value in range(3 * VALUES)]
    [found] = importance(many, list(map(float, range(3 * VALUES))))
    assert found.share is not None
    assert found.share > 0.8
    assert importance(many, [1.0] * len(many))[0].share is None  # nothing to explain
