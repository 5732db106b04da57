"""Report, status page and search page in headless Chromium: what only a browser can judge."""

import os
import shutil

import pytest
from embeddings_example import publish, write_shards
from report_example import HOSTILE, add_status, make_empty_run, make_run
from status_example import FINDING, learner, status

from online_swav.cli import main
from online_swav.learning.findings import Finding, Health
from online_swav.metrics_server import serve_metrics
from online_swav.report.build import write_report
from streams.testing import jpeg_bytes

SECTIONS = ["verdict", "story", "curves", "books", "prototypes", "map", "crops", "quarantine",
            "used"]  # fmt: skip
ARGUMENTS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
]  # fmt: skip
CONTRAST = """() => {
  const channel = v => (v /= 255) <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
  const luminance = ([r, g, b]) => 0.2126 * channel(r) + 0.7152 * channel(g) + 0.0722 * channel(b);
  const parse = text => text.match(/[\\d.]+/g).map(Number);
  const paper = node => {
    for (; node; node = node.parentElement) {
      const color = parse(getComputedStyle(node).backgroundColor);
      if (color.length < 4 || color[3] === 1) return color;
    }
    return [255, 255, 255];
  };
  const bad = [];
  for (const node of document.querySelectorAll('p, h1, h2, h3, dt, dd, strong, summary, text')) {
    if (!node.textContent.trim() || !node.getClientRects().length) continue;
    const style = getComputedStyle(node);
    const ink = parse(node.tagName === 'text' ? style.fill : style.color);
    const a = luminance(ink), b = luminance(paper(node));
    const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    if (ratio < 4.5) bad.push(`${ratio.toFixed(2)} ${node.tagName} ${node.textContent.trim()}`);
  }
  return bad;
}"""
"""Texts that are hard to read: under the contrast that WCAG AA asks for."""


def missing(what):
    """A tool is not there: say so, or fail where it has to be."""
    if os.environ.get("ONLINE_SWAV_REQUIRE_TOOLS") == "1":
        pytest.fail(f"{what} is required here (ONLINE_SWAV_REQUIRE_TOOLS=1)")
    pytest.skip(f"NOT TESTED: the pages in a browser; {what} is missing (apt-get install chromium)")


@pytest.fixture(scope="module")
def browser():
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        missing("playwright")
    chromium = shutil.which("chromium")
    if chromium is None:
        missing("chromium")
    with sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path=chromium, args=ARGUMENTS)
        yield found
        found.close()


class Tab:
    """A page and everything that went wrong in it."""

    def __init__(self, browser, address, *, width, scheme):
        self.page = browser.new_page(viewport={"width": width, "height": 800}, color_scheme=scheme)
        self.trouble, self.requests = [], []
        self.page.on("console", lambda message: self.trouble.append(message.text))
        self.page.on("pageerror", lambda error: self.trouble.append(str(error)))
        self.page.on("dialog", lambda dialog: self.trouble.append(dialog.message))
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.goto(address)

    def outside(self, address):
        """Requests for anything but the page itself and what is written in it."""
        return [url for url in self.requests if url != address and not url.startswith("data:")]

    def overflow(self):
        """Pixels by which the page is wider than its window."""
        return self.page.evaluate("document.documentElement.scrollWidth - innerWidth")

    def unreadable(self):
        return self.page.evaluate(CONTRAST)


@pytest.fixture(scope="module")
def reports(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    found = {}
    for name, run in (("full", make_run(folder / "a" / "run")),
                      ("empty", make_empty_run(folder / "b" / "run"))):  # fmt: skip
        out = run / "report.html"
        write_report(run, out, shards=(), images=30, with_images=True, say=lambda _: None)
        found[name] = out.as_uri()
    return found


@pytest.mark.parametrize("name", ["full", "empty"])
@pytest.mark.parametrize(("width", "scheme"), [(390, "dark"), (390, "light"), (1280, "light"),
                                               (1280, "dark")])  # fmt: skip
def test_the_report_is_whole_alone_and_readable(browser, reports, name, width, scheme):
    address = reports[name]
    tab = Tab(browser, address, width=width, scheme=scheme)
    assert tab.trouble == []
    assert tab.outside(address) == []
    assert tab.page.eval_on_selector_all("section", "all => all.map(s => s.id)") == SECTIONS
    assert tab.page.eval_on_selector_all("section", "all => all.every(s => s.offsetHeight > 60)")
    tab.page.eval_on_selector_all("details", "all => all.forEach(d => d.open = true)")
    assert tab.overflow() <= 0
    assert tab.unreadable() == []
    broken = "all => all.filter(i => !i.naturalWidth).length"
    assert tab.page.eval_on_selector_all("img", broken) == 0
    tab.page.close()


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """The page of a search, one of whose pictures is gone."""
    folder = tmp_path_factory.mktemp("search")
    publish(folder / "run", step=100, seed=0)
    shards = write_shards(folder / ("shards-" + 40 * "w"))
    (folder / "query.jpg").write_bytes(jpeg_bytes(12))
    index = folder / "out.parquet"
    embed = ["embed", "--run", str(folder / "run"), "--source", str(shards), "--out", str(index)]
    assert main(embed) == 0
    (shards / "a.tar").unlink()
    page = folder / "found.html"
    search = ["search", "--index", str(index), "--image", str(folder / "query.jpg"), "-k", "12"]
    assert main([*search, "--html", str(page)]) == 0
    return page.as_uri()


@pytest.mark.parametrize(("width", "scheme"), [(390, "dark"), (1280, "light")])
def test_the_page_of_a_search_is_whole_alone_and_readable(browser, found, width, scheme):
    tab = Tab(browser, found, width=width, scheme=scheme)
    assert tab.trouble == []
    assert tab.outside(found) == []
    tab.page.eval_on_selector_all("details", "all => all.forEach(d => d.open = true)")
    assert tab.overflow() <= 0
    assert tab.unreadable() == []
    assert tab.page.eval_on_selector_all("img", "all => all.filter(i => !i.naturalWidth)") == []
    assert "its shard is gone" in tab.page.inner_text("body")
    tab.page.close()


LONG = Finding(
    name="lagging", value=90_000.0, shown="25 h", subject="source_" + 60 * "x",
    healthy="under 60 min behind the newest (--watch.max-lag-s-" + 60 * "y" + ")",
    remedy="Try `online-swav train --learner.codes.freeze-prototypes-steps 300 --learner.queue."
    f"length 3840`, --learner.{50 * 'z'}, or see https://example.org/{90 * 'a'}.",
)  # fmt: skip


def test_a_very_long_finding_fits_a_small_phone(browser, tmp_path):
    run = make_empty_run(tmp_path / "run")
    add_status(run, run="run_" + 80 * "w", findings=(LONG,))
    write_report(run, run / "report.html", shards=(), images=1, with_images=False,
                 say=lambda _: None)  # fmt: skip
    server = serve_metrics(lambda: status(findings=(LONG,)), host="127.0.0.1", port=0)
    page = f"http://127.0.0.1:{server.port}/"
    wider = """() => [...document.querySelectorAll('main *')].filter(
        node => node.getBoundingClientRect().right > innerWidth).map(node => node.outerHTML)"""
    try:
        for address in (page, (run / "report.html").as_uri()):
            tab = Tab(browser, address, width=360, scheme="light")
            tab.page.eval_on_selector_all("details", "all => all.forEach(d => d.open = true)")
            assert "25\u00a0h" in tab.page.inner_text(".findings")
            assert tab.overflow() <= 0, address
            assert tab.page.evaluate(wider) == [], address
            tab.page.close()
    finally:
        server.close()


def test_the_name_of_a_finding_leads_to_its_section_of_the_guide(browser):
    server = serve_metrics(lambda: status(findings=(LONG,)), host="127.0.0.1", port=0)
    tab = Tab(browser, f"http://127.0.0.1:{server.port}/", width=360, scheme="light")
    try:
        tab.page.click(".findings h3 a")
        tab.page.wait_for_function("scrollY > 500")
        assert "### lagging" in tab.page.inner_text("body")
        tab.page.close()
    finally:
        server.close()


def test_the_report_shows_the_picture_that_fits(browser, reports):
    shown = {}
    for width in (390, 1280):
        tab = Tab(browser, reports["full"], width=width, scheme="light")
        for part in (".timeline.wide", ".timeline.narrow"):
            shown[width, part] = tab.page.locator(part).is_visible()
        assert tab.page.locator(".curves svg").count() > 8
        assert tab.page.locator(".pins img").count() > 3
        tab.page.close()
    assert shown == {(390, ".timeline.wide"): False, (390, ".timeline.narrow"): True,
                     (1280, ".timeline.wide"): True, (1280, ".timeline.narrow"): False}  # fmt: skip


def test_the_served_pages_obey_their_own_policies(browser, reports):
    from pathlib import Path
    from urllib.parse import urlsplit

    report = Path(urlsplit(reports["full"]).path)
    unwell = status(
        run=HOSTILE, learner=learner(health=Health(verdict="degraded", findings=(FINDING,)))
    )
    server = serve_metrics(lambda: unwell, host="127.0.0.1", port=0, report=report)
    base = f"http://127.0.0.1:{server.port}"
    try:
        for path, width, scheme in (("/", 390, "light"), ("/", 1280, "dark"),
                                    ("/report", 390, "dark")):  # fmt: skip
            tab = Tab(browser, base + path, width=width, scheme=scheme)
            assert tab.trouble == [], path
            assert tab.outside(base + path) == [], path
            assert tab.overflow() <= 0, path
            assert tab.unreadable() == [], path
            family = tab.page.evaluate("getComputedStyle(document.body).fontFamily")
            assert family.startswith("system-ui"), "its style sheet was let in"
            tab.page.close()
    finally:
        server.close()
