"""The page in a real browser without network. WebGL 2 is drawn by the processor."""

from __future__ import annotations

import io
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pytest
from matplotlib.image import imread

from diffatlas_pipeline.evaluation.evaluate import evaluate_folders
from diffatlas_pipeline.report.page import write_page
from diffatlas_pipeline.report.sources import benchmark_source, prediction_source
from diffatlas_pipeline.volumes.io import read_labels, write_labels
from tests.report.folders import LABELS, write_dataset, write_many, write_predictions

REQUIRED = "DIFFATLAS_TEST_BROWSER"  # where this is set, a missing browser is a failure; elsewhere these tests are skipped
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
OPTIONS = [
    "--no-sandbox", "--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-quic",
]  # fmt: skip
SHOWN = "#viewer-canvas[data-shown='{}']"
WAIT_MS = 120_000


def without_browser(reason: str) -> NoReturn:
    """Skip the test, or fail it where there has to be a browser."""
    if os.environ.get(REQUIRED):
        pytest.fail(f"{reason}, but {REQUIRED} is set", pytrace=False)
    pytest.skip(reason)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        without_browser("the package playwright is not installed")
    if CHROMIUM is None:
        without_browser("no Chromium is installed on this machine")
    with sync_playwright() as driver:
        started = driver.chromium.launch(executable_path=CHROMIUM, args=OPTIONS)
        yield started
        started.close()


@pytest.fixture(scope="module")
def predictions_page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scored")
    names = ["first", "<b>second & 'third'"]
    dataset = write_dataset(folder / "raw", names)
    predictions = write_predictions(folder / "predictions", names, 3, uncertainty=True)
    evaluation = evaluate_folders(predictions, dataset / "labelsTs")
    write_page(prediction_source(predictions, evaluation, evaluation.labels, None), folder / "report.html")
    return folder / "report.html"


class Tab:
    """A page opened from a file, with all that its console says and all that it asks the network for."""

    def __init__(self, browser: Any, path: Path, width: int = 1280, height: int = 900, **options: Any) -> None:
        self.context = browser.new_context(viewport={"width": width, "height": height}, offline=True, **options)
        self.page = self.context.new_page()
        self.page.set_default_timeout(WAIT_MS)
        self.complaints: list[str] = []
        self.requests: list[str] = []
        self.page.on("console", lambda message: self._heard(message.type, message.text))
        self.page.on("pageerror", lambda error: self._heard("error", str(error)))
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.goto(path.resolve().as_uri())

    def _heard(self, kind: str, text: str) -> None:
        if kind == "error":
            self.complaints.append(text)

    def picture(self) -> np.ndarray:
        """What the viewer shows now, (rows, columns, red green blue) in [0, 1]."""
        self.page.wait_for_timeout(300)  # the next frame
        return np.asarray(imread(io.BytesIO(self.page.locator("#viewer-canvas").screenshot())))[..., :3]

    def show(self, case: str, cell: str = "all") -> np.ndarray:
        """Pick the case whose name begins with ``case`` and wait for its picture."""
        titles = self.page.locator("#viewer-case option").all_text_contents()
        index = next(i for i, title in enumerate(titles) if title.startswith(case))
        self.page.select_option("#viewer-case", index=index)
        title = titles[index].split(" (mean")[0].replace("'", "\\'")
        self.page.wait_for_selector(SHOWN.format(f"{title}|{cell}"))
        return self.picture()

    def wait_for_viewer(self) -> np.ndarray:
        self.page.locator("#viewer").scroll_into_view_if_needed()
        self.page.wait_for_selector("#viewer-canvas[data-shown]")
        return self.picture()

    def unpacked(self) -> dict[str, int]:
        """How often each volume was unpacked, by the id of its element; those that never were are left out."""
        found = self.page.eval_on_selector_all("[data-unpacked]", "all => all.map(({id, dataset}) => [id, +dataset.unpacked])")
        return {name: count for name, count in found if name != "viewer-bundle"}

    def check(self) -> None:
        """No error, and nothing asked for but what lies in the page."""
        assert not self.complaints
        foreign = [url for url in self.requests[1:] if not url.startswith(("data:", "blob:"))]
        assert not foreign
        self.context.close()


def coloured(picture: np.ndarray) -> float:
    """Share of the picture that is clearly red or blue: the colours of the labels. The crosshair is yellow."""
    red, green, blue = np.moveaxis(picture, -1, 0)
    return float(((red > green + 0.15) & (red > blue + 0.15) & (green < blue + 0.1) | (blue > red + 0.1)).mean())


def grey(picture: np.ndarray) -> float:
    """Share of the picture that is neither black nor coloured."""
    return float(((np.ptp(picture, axis=2) < 0.03) & (picture.max(axis=2) > 0.15)).mean())


def difference(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.abs(a - b).mean())


@pytest.mark.slow
def test_the_viewer_draws_and_the_picker_changes_the_picture(browser: Any, predictions_page: Path) -> None:
    tab = Tab(browser, predictions_page)
    begin = tab.wait_for_viewer()
    assert begin.std() > 0.05  # not blank
    assert coloured(begin) > 0.01
    first, second = tab.show("first"), tab.show("<b>second")
    assert difference(first, second) > 0.01
    assert difference(tab.show("first"), first) < 0.002  # and back
    tab.page.click("#viewer-next")
    tab.page.wait_for_selector(SHOWN.format("<b>second & \\'third\\'|all"))
    assert difference(tab.picture(), second) < 0.002
    assert "Dice" in tab.page.inner_text("#viewer-legend")
    assert "mm" in tab.page.inner_text("#viewer-location")
    tab.check()


@pytest.mark.slow
def test_layers_and_views(browser: Any, predictions_page: Path) -> None:
    tab = Tab(browser, predictions_page)
    tab.wait_for_viewer()
    tab.show("<b>second")
    tab.page.uncheck("#show-segmentation")
    bare = tab.picture()
    assert coloured(bare) < 0.002
    tab.page.check("#show-reference")
    reference = tab.picture()
    tab.page.uncheck("#show-reference")
    tab.page.check("#show-segmentation")
    segmentation = tab.picture()
    assert coloured(reference) > 0.01 and coloured(segmentation) > 0.01
    assert difference(reference, segmentation) > 0.005
    tab.page.uncheck("#show-segmentation")
    assert not tab.page.get_by_text("too much").is_visible()
    tab.page.check("#show-differences")
    assert tab.page.get_by_text("too much").is_visible()
    assert difference(tab.picture(), bare) > 0.002  # the second case is moved by three voxels
    tab.page.check("#show-reference")
    tab.page.check("#show-uncertainty")  # alone, with its scale
    assert tab.page.get_by_text("probability of an error: 0 %").is_visible()
    assert not any(tab.page.is_checked(f"#show-{kind}") for kind in ("segmentation", "reference", "differences"))
    assert difference(tab.picture(), bare) > 0.005
    tab.page.uncheck("#show-uncertainty")
    assert tab.page.is_checked("#show-segmentation") and not tab.page.get_by_text("probability of an error: 0 %").is_visible()
    for view in ("axial", "coronal", "sagittal", "render"):
        before = tab.picture()
        tab.page.select_option("#viewer-view", view)
        after = tab.picture()
        assert after.std() > 0.02 and difference(before, after) > 0.005
    surfaces = after  # in 3D the structures alone: no grey, but where the scan is all that is asked for
    assert coloured(surfaces) > 0.01 and grey(surfaces) < 0.01
    tab.page.uncheck("#show-segmentation")
    assert grey(tab.picture()) > 0.05
    tab.check()


@pytest.mark.slow
def test_what_nobody_annotated_is_no_difference(browser: Any, tmp_path: Path) -> None:
    dataset = write_dataset(tmp_path / "raw", ["first", "second"])
    predictions = write_predictions(tmp_path / "predictions", ["first", "second"], 3)
    found, reference = (read_labels(folder / "second.nii.gz") for folder in (predictions, dataset / "labelsTs"))
    known = np.where(found.array == reference.array, reference.array, 3)
    write_labels(dataset / "labelsTs" / "second.nii.gz", known, reference.grid)
    (dataset / "dataset.json").write_text(json.dumps({"labels": {**LABELS, "ignore": 3}}))
    evaluation = evaluate_folders(predictions, dataset / "labelsTs")
    write_page(prediction_source(predictions, evaluation, evaluation.labels, None), tmp_path / "report.html")
    tab = Tab(browser, tmp_path / "report.html")
    tab.wait_for_viewer()
    tab.show("second")
    tab.page.uncheck("#show-segmentation")
    bare = tab.picture()
    tab.page.check("#show-differences")
    assert difference(tab.picture(), bare) < 0.0005
    tab.page.uncheck("#show-differences")
    tab.page.check("#show-reference")
    assert 0.005 < coloured(tab.picture()) < 0.5
    tab.check()


@pytest.mark.slow
def test_the_viewer_begins_inside_a_structure_and_its_uncertainty_is_smooth(browser: Any, predictions_page: Path) -> None:
    tab = Tab(browser, predictions_page)
    tab.wait_for_viewer()
    for case in ("first", "<b>second"):
        tab.show(case)
        assert "segmentation: " in (said := tab.page.inner_text("#viewer-location")) and "background" not in said
    tab.page.select_option("#viewer-view", "axial")
    tab.page.uncheck("#show-segmentation")
    bare = tab.picture()
    tab.page.check("#show-uncertainty")
    painted = np.abs(tab.picture() - bare).max(axis=(0, 2))  # by column; the uncertainty rises along them
    first, last = np.flatnonzero(painted > 0.01)[[0, -1]]
    ends = sorted([painted[first + 15], painted[last - 15]])  # a voxel inside
    assert ends[0] < 0.1 < ends[1], "it fades to nothing"
    tab.check()


@pytest.mark.parametrize("width", [1280, 400])
def test_a_click_on_a_picture_shows_it_large_and_another_one_closes_it(
    browser: Any, predictions_page: Path, width: int
) -> None:
    tab = Tab(browser, predictions_page, width, java_script_enabled=False)
    picture = tab.page.locator("#pictures img").first
    picture.scroll_into_view_if_needed()
    before = picture.bounding_box()
    picture.click()
    large = picture.bounding_box()
    assert large["width"] > 1.1 * before["width"] and large["x"] >= 0
    assert tab.page.locator("#pictures figcaption").first.is_visible()
    tab.page.mouse.click(width / 2, 500)
    assert picture.bounding_box()["width"] == before["width"]
    tab.check()


@pytest.mark.slow
def test_benchmark_viewer_chooses_the_model(browser: Any, benchmark_folder: Path, tmp_path: Path) -> None:
    write_page(benchmark_source(benchmark_folder), tmp_path / "report.html")
    tab = Tab(browser, tmp_path / "report.html")
    tab.wait_for_viewer()
    ours = tab.show("c", "c0")
    tab.page.select_option("#viewer-cell", "c2")
    tab.page.wait_for_selector(SHOWN.format("c|c2"))
    assert difference(tab.picture(), ours) > 0.002
    tab.check()


@pytest.mark.slow
def test_hundreds_of_cases_fit_and_only_those_looked_at_are_unpacked(browser: Any, tmp_path: Path) -> None:
    count, limit_mb = 300, 2.6
    predictions, references = write_many(tmp_path, count)
    evaluation = evaluate_folders(predictions, references)
    path = tmp_path / "report.html"
    notes = write_page(prediction_source(predictions, evaluation, evaluation.labels, None), path, limit_mb)
    assert path.stat().st_size <= limit_mb * 1e6 and "not in the viewer to keep the size limit" in notes[0]
    tab = Tab(browser, path, height=300)  # the viewer lies below what is seen
    cases = json.loads(tab.page.inner_text("#viewer-data", timeout=WAIT_MS))["cases"]
    assert 200 <= len(cases) < count and tab.page.locator("#viewer-case option").count() == len(cases)
    assert tab.page.locator("script[id^=volume]").count() == 4 * len(cases)

    def volumes(case: dict[str, Any]) -> set[str]:
        return {case["image"], case["reference"], *case["layers"]["all"].values()}

    tab.page.wait_for_timeout(500)
    assert tab.unpacked() == {}
    tab.wait_for_viewer()
    seen = volumes(cases[0])
    assert tab.unpacked() == dict.fromkeys(seen, 1) and len(seen) == 4
    tab.show(cases[150]["title"])
    seen |= volumes(cases[150])
    assert tab.unpacked() == dict.fromkeys(seen, 1)
    tab.page.evaluate("for (let i = 0; i < 40; i++) document.getElementById('viewer-next').click()")
    tab.page.wait_for_selector(SHOWN.format(f"{cases[190]['title']}|all"))
    seen |= volumes(cases[190])  # those between were passed by too fast
    assert tab.unpacked() == dict.fromkeys(seen, 1)
    tab.check()


def test_a_missing_browser_is_a_failure_where_it_is_required(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(f"{__name__}.CHROMIUM", None)
    started = browser.__wrapped__  # type: ignore[attr-defined]
    monkeypatch.delenv(REQUIRED, raising=False)
    with pytest.raises(pytest.skip.Exception, match="no Chromium"):
        next(started())
    monkeypatch.setenv(REQUIRED, "1")
    with pytest.raises(pytest.fail.Exception, match=REQUIRED):
        next(started())
    assert f"export {REQUIRED}=" in (Path(__file__).parents[2] / ".ci" / "run").read_text(encoding="utf-8")


@pytest.mark.parametrize("width", [1280, 360])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_is_readable_and_nothing_sticks_out(browser: Any, predictions_page: Path, width: int, scheme: str) -> None:
    tab = Tab(browser, predictions_page, width, color_scheme=scheme)
    assert tab.page.evaluate("document.documentElement.scrollWidth") <= width
    wider = "all => all.filter((one) => one.scrollWidth > one.clientWidth + 1).map((one) => one.outerHTML.slice(0, 80))"
    assert not tab.page.eval_on_selector_all("main *:not(select):not(svg *)", wider)  # nor has to be scrolled sideways
    assert tab.page.locator("#results td").first.is_visible()
    assert tab.page.locator("#verdict").inner_text().startswith("2 cases, mean Dice ")
    colours = tab.page.evaluate("(({color, backgroundColor}) => [color, backgroundColor])(getComputedStyle(document.body))")
    ink, paper = (np.mean([int(part) for part in colour[4:-1].split(",")]) for colour in colours)
    assert (ink < 60 and paper > 240) if scheme == "light" else (ink > 200 and paper < 40)
    svg = tab.page.evaluate("getComputedStyle(document.querySelector('svg text')).fill")
    assert svg == colours[0]  # the plots follow the scheme
    tab.check()


def test_without_javascript(browser: Any, predictions_page: Path) -> None:
    tab = Tab(browser, predictions_page, java_script_enabled=False)
    page = tab.page
    assert page.locator("#results table").is_visible()
    assert page.locator("#plots svg").first.is_visible()
    pictures = page.locator("#pictures img")
    assert pictures.count() == 2
    shown = imread(io.BytesIO(pictures.first.screenshot()))
    assert shown[..., :3].std() > 0.05
    assert "needs JavaScript" in page.inner_text("#viewer")
    assert not page.locator("#viewer-controls").is_visible()
    tab.check()
