"""The report in a real browser, headless and offline: charts, slider, widths, colour schemes, keyboard, contrast."""

from __future__ import annotations

import shutil

import pytest
from playwright.sync_api import Page, sync_playwright

from codesign.report import write_report
from codesign.workflows.compare import compare_targets
from codesign.workflows.compile import compile_source
from codesign.workflows.frames import FrameChoice
from codesign.workflows.simulate import simulate
from codesign.workflows.sources import find

FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
CHARTS = 7
LEAST_CONTRAST = 4.5
"""WCAG 2.2, AA, of text."""

CONTRAST = """() => {
  const channel = c => { c /= 255; return c <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4; };
  const light = c => 0.2126 * channel(c[0]) + 0.7152 * channel(c[1]) + 0.0722 * channel(c[2]);
  const parse = text => (text.match(/[\\d.]+/g) || [0, 0, 0, 0]).map(Number);
  const paper = element => {
    for (let e = element; e; e = e.parentElement) {
      const c = parse(getComputedStyle(e).backgroundColor);
      if (c.length < 4 || c[3] > 0.5) return c;
    }
    return [255, 255, 255];
  };
  const found = [];
  for (const element of document.querySelectorAll("body *")) {
    const own = [...element.childNodes].some(n => n.nodeType === 3 && n.textContent.trim());
    if (!own || element.closest("script, style, .hoverlayer") || !element.getClientRects().length) continue;
    const style = getComputedStyle(element);
    const ink = parse(element.closest("svg") ? style.fill : style.color);
    const [a, b] = [light(ink), light(paper(element))].sort((x, y) => y - x);
    found.push([(a + 0.05) / (b + 0.05), element.textContent.trim().slice(0, 40)]);
  }
  return found;
}"""


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """SESR-M5 on a small photograph: it is trained, so every chart has data."""
    result = simulate(compile_source(find("sesr_m5_x2"), "tiny", FrameChoice((48, 32))), backend="reference")
    comparison, pictures = compare_targets(result, ["H200", "Orin"], command="python -m codesign compare sesr_m5_x2")
    return write_report(comparison, tmp_path_factory.mktemp("report"), pictures)["page"]


@pytest.fixture(scope="module")
def browser():
    path = shutil.which("chromium") or shutil.which("chromium-browser")
    assert path is not None, "chromium is missing: `make test` installs it, or install the package chromium"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=list(FLAGS))
        yield browser
        browser.close()


@pytest.fixture
def opened(browser, report):
    """Opens the report: ``opened(width, scheme)``. Console messages and requests are recorded."""
    contexts = []

    def opening(width: int = 1280, scheme: str = "light") -> tuple[Page, list[str]]:
        context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme, offline=True)
        contexts.append(context)
        page, said = context.new_page(), []
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("requestfailed", lambda request: said.append(request.url))
        page.goto(report.as_uri())
        page.wait_for_function(f"document.querySelectorAll('.chart .main-svg').length >= {CHARTS}")
        return page, said

    yield opening
    for context in contexts:
        context.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
def test_it_is_readable(opened, width, scheme) -> None:
    page, said = opened(width, scheme)
    assert said == []
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.locator(".chart").count() == CHARTS
    for chart in page.locator(".chart").all():
        box = chart.locator(".main-svg").first.bounding_box()
        assert box["width"] > 0.75 * min(width, 1024) - 40
        assert box["height"] > 150
        assert chart.locator(".tag").count() >= 1  # its evidence
        assert "python -m codesign compare" in chart.inner_text()
        assert chart.locator(".main-svg path, .main-svg rect.bg").count() > 0
    for number, summary in enumerate(page.locator("summary").all()):
        summary.click()
        assert page.locator("details").nth(number).get_attribute("open") is not None
    poor = [(ratio, text) for ratio, text in page.evaluate(CONTRAST) if ratio < LEAST_CONTRAST]
    assert poor == []


def test_both_schemes_differ(opened) -> None:
    papers = [
        opened(scheme=scheme)[0].evaluate("getComputedStyle(document.body).backgroundColor")
        for scheme in ("light", "dark")
    ]
    assert papers[0] != papers[1]


def test_the_verdict_is_read_first(opened) -> None:
    page, _ = opened()
    assert page.locator("h1").bounding_box()["y"] < 200
    assert "takes" in page.locator("h1").inner_text()


def over(page: Page) -> str:
    return page.evaluate("getComputedStyle(document.querySelector('.slider .over')).clipPath")


def test_the_slider_follows_keyboard_and_mouse(opened) -> None:
    page, said = opened()
    slide = page.locator("#slide")
    assert "50%" in over(page)
    slide.focus()
    for key, expected in (("ArrowRight", "51%"), ("Home", "0%"), ("End", "100%")):
        page.keyboard.press(key)
        assert over(page) == f"inset(0px 0px 0px {expected})", key
    page.locator("#slider").scroll_into_view_if_needed()
    box = page.locator("#slider").bounding_box()
    middle = box["y"] + box["height"] / 2
    page.mouse.move(box["x"] + 0.25 * box["width"], middle)
    page.mouse.down()
    assert slide.input_value() == "25"
    page.mouse.move(box["x"] + 0.75 * box["width"], middle)
    page.mouse.up()
    assert "75%" in over(page)
    page.mouse.move(box["x"] + 0.1 * box["width"], middle)  # released: it stays
    assert slide.input_value() == "75"
    assert slide.get_attribute("aria-label")
    assert said == []


def test_all_controls_are_reached_by_tab(opened) -> None:
    page, _ = opened()
    reached = set()
    for _ in range(8):
        page.keyboard.press("Tab")
        reached.add(page.evaluate("document.activeElement.id || document.activeElement.tagName"))
    assert {"slide", "SUMMARY"} <= reached
    outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
    assert outline != "none" or page.evaluate("document.activeElement.tagName") == "BODY"


def test_a_chart_tells_on_hover(opened) -> None:
    page, _ = opened()
    chart = page.locator(".chart").nth(6)
    chart.scroll_into_view_if_needed()
    box = chart.locator(".nsewdrag").first.bounding_box()
    page.mouse.move(box["x"] + box["width"] / 3, box["y"] + box["height"] / 2)
    page.wait_for_selector(".hoverlayer .hovertext")
    assert "cycles" in page.locator(".hoverlayer").nth(6).inner_html()
