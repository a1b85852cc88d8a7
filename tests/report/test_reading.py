"""Reading the page of the committed default run: its answer, its filters, without a script, by a machine, on paper."""

import pytest

from tests.report.conftest import VIEWS

VISIBLE = "claims => claims.filter(claim => claim.checkVisibility()).map(claim => claim.id)"


def test_the_answer_stands_on_top_and_counts_the_verdicts(opened, reference, verdicts):
    with opened(reference) as page:
        answer = page.locator(".answer").inner_text()
        assert page.locator(".answer").bounding_box()["y"] < 400
        for outcome in ("What holds", "What does not hold", "What holds in part"):
            assert f"{outcome}: that " in answer
        for verdict, count in verdicts["verdict"].value_counts().items():
            assert f"{count} {verdict}" in answer


@pytest.mark.parametrize("view", VIEWS, ids=lambda view: f"{view[0]}px-{view[1]}")
def test_no_accessibility_violation(opened, reference, view):
    from axe_playwright_python.sync_playwright import Axe

    with opened(reference, *view) as page:
        page.evaluate("for (const details of document.querySelectorAll('details')) details.open = true")
        found = Axe().run(page)
        assert found.violations_count == 0, found.generate_report()
        assert len(found.response["passes"]) > 20


@pytest.mark.parametrize("script", [True, False], ids=["with a script", "without a script"])
def test_verdicts_and_studies_filter_claims(opened, reference, verdicts, script):
    with opened(reference, java_script_enabled=script) as page:
        shown = lambda: set(page.locator(".claim").evaluate_all(VISIBLE))
        assert shown() == set(verdicts["id"])
        page.locator("#show-refuted").check()
        assert shown() == set(verdicts.loc[verdicts["verdict"] == "refuted", "id"])
        assert not page.locator("#reasoning").is_hidden()
        page.locator("#show-language").check()
        both = verdicts.loc[(verdicts["verdict"] == "refuted") & (verdicts["study"] == "language"), "id"]
        assert shown() == set(both)
        assert page.locator("#reasoning").is_hidden()
        if script:
            assert page.locator("#shown").inner_text() == f"{len(both)} of {len(verdicts)} claims"
        else:
            assert page.locator("#search").is_hidden()


def test_a_claim_opens_without_a_script(opened, reference):
    with opened(reference, java_script_enabled=False) as page:
        claim = page.locator("#regression-loss")
        claim.locator("summary").click()
        assert claim.locator("dl").is_visible()
        assert "snakemake results/default/claims.csv --forcerun" in claim.inner_text()


def test_search_finds_words_in_any_order(opened, reference):
    with opened(reference) as page:
        page.locator("#search").fill("fifth HALVING layer")
        assert page.locator(".claim").evaluate_all(VISIBLE) == ["regression-cosine-is-scale-free"]
        assert page.locator(".study").evaluate_all(VISIBLE) == ["regression"]
        page.locator("#search").fill("no such words")
        assert page.locator("#shown").inner_text().startswith("0 of ")


def test_a_link_opens_its_claim_whatever_the_filters_say(opened, reference):
    with opened(reference) as page:
        page.locator("#show-refuted").check()
        page.evaluate("location.hash = '#language-zero-shot'")
        claim = page.locator("#language-zero-shot")
        claim.locator("dl").wait_for(state="visible")
        assert page.locator("#show-verdicts").is_checked()


def test_the_keyboard_reaches_filters_and_claims(opened, reference):
    with opened(reference) as page:
        page.locator("#show-verdicts").focus()
        page.keyboard.press("ArrowRight")
        assert page.locator("#show-supported").is_checked()
        page.locator(".claim summary").first.focus()
        page.keyboard.press("Enter")
        assert page.locator(".claim dl").first.is_visible()


def test_figures_are_read_when_they_are_looked_at(opened, reference):
    assert reference.stat().st_size < 1_000_000
    with opened(reference) as page:
        page.wait_for_load_state("load")
        assert not [url for url in page.asked if url.endswith(".svg")]
        page.locator("figure img").first.scroll_into_view_if_needed()
        page.wait_for_function("document.querySelector('figure img').naturalWidth > 0")


def test_paper_shows_every_claim_open_and_every_figure(opened, reference, verdicts):
    with opened(reference) as page:
        page.emulate_media(media="print")
        opened_claims = page.locator(".claim dl").evaluate_all(
            "lists => lists.map(list => list.getBoundingClientRect().height > 50)"
        )
        assert len(opened_claims) == len(verdicts)
        assert all(opened_claims)
        assert page.locator(".filters").is_hidden()
        printed = page.pdf(format="A4")
        assert printed.startswith(b"%PDF")
        assert 20 < printed.count(b"/Type /Page\n") + printed.count(b"/Type /Page ") + printed.count(b"/Type /Page/") < 150
        assert page.locator("figure img").evaluate_all("images => images.every(image => image.naturalWidth > 0)")
