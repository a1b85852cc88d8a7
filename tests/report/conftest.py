"""A real browser, and the page of the committed default run's verdicts."""

import shutil
from contextlib import contextmanager
from pathlib import Path

import pandas as pd
import pytest
import yaml

from activation_descent.page import costs, figures, render
from tests.conftest import ROOT

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
VIEWS = [(360, "light"), (360, "dark"), (1440, "light"), (1440, "dark")]


@pytest.fixture(scope="session")
def browser():
    if CHROMIUM is None:
        pytest.skip("no Chromium on this machine (Debian: apt-get install chromium)")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def opened(browser):
    """Open a page at one width and in one scheme; anything that it logs or asks the network for fails the test."""

    @contextmanager
    def open_page(path: Path, width: int = 1440, scheme: str = "light", **options):
        context = browser.new_context(viewport={"width": width, "height": 800}, color_scheme=scheme, **options)
        context.set_default_timeout(120_000)  # a machine with other work to do
        page = context.new_page()
        page.heard, page.asked = [], []
        page.on("console", lambda message: page.heard.append(message.text))
        page.on("pageerror", lambda error: page.heard.append(str(error)))
        page.on("request", lambda request: page.asked.append(request.url))
        page.goto(path.as_uri())
        yield page
        context.close()
        assert not page.heard
        assert not [url for url in page.asked if not url.startswith(("file:", "data:"))]

    return open_page


@pytest.fixture(scope="session")
def verdicts() -> pd.DataFrame:
    """The verdicts of the committed default run."""
    empty = {"value": "", "ci_low": "", "ci_high": ""}
    return pd.read_csv(ROOT / "results/reference/claims.csv", keep_default_na=False, na_values=empty)


@pytest.fixture(scope="session")
def reference(tmp_path_factory, verdicts) -> Path:
    """The page of these verdicts, with the committed figures."""
    folder = tmp_path_factory.mktemp("reference")
    drawn = ("regression/figures/one_layer.svg", "finetuning/figures/default_controls.svg")
    for path in drawn:
        (folder / path).parent.mkdir(parents=True)
        shutil.copy(ROOT / "results/reference" / path, folder / path)
    document = yaml.safe_load((ROOT / "config/claims.yaml").read_text())
    found = {
        (claim["study"], claim["statistic"]["variant"], claim["statistic"]["metric"]): f"{claim['study']}/statistics.csv"
        for claim in document["claims"]
    }
    names = ("train_regression/one_layer.tsv", "probe_finetuning/default.tsv", "judge_claims.tsv")
    for name in names:
        (folder / "benchmarks" / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / "benchmarks" / name).write_text("s\tmax_rss\tcpu_time\n100\t500\t90\n")
    page = folder / "index.html"
    page.write_text(
        render.render(
            "reference",
            verdicts,
            document,
            found,
            render.Command("results/default", "--cores all"),
            figures.read_figures(
                [str(folder / path) for path in drawn], page, verdicts, {path: ["a.csv", "b.csv"] for path in drawn}
            ),
            sorted(set(found.values())),
            (ROOT / "config/config.yaml").read_text(),
            {"python": "3.11"},
            costs.read_costs([str(folder / "benchmarks" / name) for name in names], list(document["studies"])),
        )
    )
    return page
