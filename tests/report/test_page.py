"""The smoke run's page in a real browser, from a folder, as a reader opens it."""

import pandas as pd
import pytest

from tests.report.conftest import VIEWS


@pytest.fixture(params=VIEWS, ids=lambda view: f"{view[0]}px-{view[1]}")
def page(request, opened, smoke):
    with opened(smoke.folder / "results/smoke/index.html", *request.param) as page:
        yield page


def test_every_claim_shows_its_verdict(page, smoke):
    claims = pd.read_csv(smoke.folder / "results/smoke/claims.csv")
    shown = page.locator("article.claim").evaluate_all(
        """articles => articles.map(article => [article.id, article.querySelector(".verdict").innerText,
        article.querySelector(".verdict").checkVisibility(), article.querySelector(".value").innerText])"""
    )
    assert len(shown) == len(claims)
    by_study = claims.sort_values(
        "study", key=lambda study: study.map({s: i for i, s in enumerate(claims["study"].unique())}), kind="stable"
    )
    for row, (name, verdict, visible, value) in zip(by_study.itertuples(), shown, strict=True):
        assert (name, verdict, visible) == (row.id, row.verdict, True)
        assert f"n\N{NO-BREAK SPACE}=\N{NO-BREAK SPACE}{row.n}" in value


def test_the_page_is_no_wider_than_the_screen(page):
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    page.evaluate("for (const details of document.querySelectorAll('details')) details.open = true")
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")


def test_figures_are_drawn(page, smoke):
    images = page.locator("figure img")
    assert images.count() == len(list(smoke.folder.glob("results/smoke/*/figures/*.svg"))) > 2
    page.evaluate("for (const image of document.querySelectorAll('figure img')) image.loading = 'eager'")
    page.wait_for_function("[...document.querySelectorAll('figure img')].every(image => image.complete)")
    drawn = images.evaluate_all("images => images.map(image => [image.naturalWidth, image.alt])")
    assert all(width > 0 and len(text) > 20 for width, text in drawn)


def test_every_link_leads_somewhere(page, smoke):
    folder = smoke.folder / "results/smoke"
    targets = set(page.locator("a").evaluate_all("links => links.map(link => link.getAttribute('href'))"))
    inside = sorted(target[1:] for target in targets if target.startswith("#"))
    assert len(inside) > 20
    assert not page.evaluate("ids => ids.filter(id => document.getElementById(id) === null)", inside)
    assert not [target for target in targets if not target.startswith("#") and not (folder / target).exists()]


def test_each_figure_names_the_records_that_it_was_drawn_from(page):
    captions = page.locator("figcaption").evaluate_all(
        "captions => captions.map(caption => [...caption.querySelectorAll('details a')].map(link => link.getAttribute('href')))"
    )
    assert all(captions)
    one_layer = next(paths for paths in captions if "regression/one_layer/rollout.csv" in paths)
    assert "regression/one_layer/alignment.csv" in one_layer


def test_a_claim_opens_to_its_rule_controls_records_and_commands(page):
    details = page.locator("article.claim details").first
    details.locator("summary").click()
    text = details.inner_text()
    assert "supported if in [0.996, 1.004]; refuted if outside [0.98, 1.02]" in text
    assert "construction_loss_ratio" in text
    assert "regression/one_layer/statistics.csv" in text
    table = "results/smoke/regression/one_layer/statistics.csv"
    assert f"snakemake results/smoke/claims.csv --forcerun {table} --cores all --configfile config/smoke.yaml" in text
    assert details.locator("img").count() == 1


def test_what_ran_and_what_it_cost_is_told(page):
    assert "torch" in page.locator("section[aria-labelledby=ran]").inner_text()
    assert "commit" in page.locator("section[aria-labelledby=ran]").inner_text()
    costs = page.locator("section[aria-labelledby=costs]")
    assert "What to cut first" in costs.inner_text()
    assert "train_regression" in costs.inner_text()
    page.evaluate("for (const details of document.querySelectorAll('details')) details.open = true")
    assert "train_regression · one_layer" in costs.inner_text()
