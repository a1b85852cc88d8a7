"""The page in a real browser, from a folder, as a reader opens it."""

import re
import shutil

import pandas as pd
import pytest

CHROMIUM = next((path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None)
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine (Debian: apt-get install chromium)")


@pytest.fixture(scope="module")
def browser():
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture(
    params=[(360, "light"), (360, "dark"), (1440, "light"), (1440, "dark")], ids=lambda view: f"{view[0]}px-{view[1]}"
)
def page(request, browser, smoke):
    """The smoke run's page at one width and in one scheme; anything it logs or asks the network for fails the test."""
    width, scheme = request.param
    context = browser.new_context(viewport={"width": width, "height": 800}, color_scheme=scheme)
    context.set_default_navigation_timeout(120_000)  # a machine with other work to do
    page = context.new_page()
    heard, asked = [], []
    page.on("console", lambda message: heard.append(message.text))
    page.on("pageerror", lambda error: heard.append(str(error)))
    page.on("request", lambda request: asked.append(request.url))
    page.goto((smoke.folder / "results/smoke/index.html").as_uri())
    yield page
    context.close()
    assert not heard
    assert not [url for url in asked if not url.startswith(("file:", "data:"))]


def test_every_claim_shows_its_verdict(page, smoke):
    claims = pd.read_csv(smoke.folder / "results/smoke/claims.csv")
    articles = page.locator("article.claim")
    assert articles.count() == len(claims)
    for row, article in zip(claims.itertuples(), articles.all(), strict=True):
        assert article.get_attribute("id") == row.id
        assert article.locator(".verdict").is_visible()
        assert article.locator(".verdict").inner_text() == row.verdict
        assert f"n\N{NO-BREAK SPACE}=\N{NO-BREAK SPACE}{row.n}" in article.inner_text()


def test_the_page_is_no_wider_than_the_screen(page):
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")


def test_figures_are_drawn(page, smoke):
    images = page.locator("figure img")
    assert images.count() == len(list(smoke.folder.glob("results/smoke/*/figures/*.svg"))) > 2
    for image in images.all():
        assert image.evaluate("image => image.complete && image.naturalWidth > 0")
        assert image.get_attribute("alt")


def luminance(colour):
    channels = [int(channel) / 255 for channel in re.findall(r"\d+", colour)[:3]]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_text_stands_out_from_its_background(page):
    """WCAG 2 AA: a contrast of 4.5."""
    paper = luminance(page.evaluate("getComputedStyle(document.body).backgroundColor"))
    for selector in ("body", ".verdict", ".faint", "a", "dt"):
        ink = luminance(page.evaluate(f"getComputedStyle(document.querySelector('{selector}')).color"))
        assert (max(ink, paper) + 0.05) / (min(ink, paper) + 0.05) >= 4.5, selector


def test_every_link_leads_somewhere(page, smoke):
    folder = smoke.folder / "results/smoke"
    for link in page.locator("a").all():
        target = link.get_attribute("href")
        if target.startswith("#"):
            assert page.evaluate("id => document.getElementById(id) !== null", target[1:]), target
        else:
            assert (folder / target).exists(), target


def test_a_claim_opens_to_its_rule_and_controls(page):
    details = page.locator("article.claim details").first
    details.locator("summary").click()
    text = details.inner_text()
    assert "supported if in [0.996, 1.004]; refuted if outside [0.98, 1.02]" in text
    assert "construction_loss_ratio" in text


def test_what_ran_is_told(page):
    text = page.locator("section[aria-labelledby=ran]").inner_text()
    assert "torch" in text
    assert "train_regression · one_layer" in text
    assert "commit" in text
