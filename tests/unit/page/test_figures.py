import matplotlib.pyplot as plt
import pandas as pd
import pytest

from activation_descent import plotting
from activation_descent.page import figures

CLAIMS = pd.DataFrame({"id": ["c", "d"], "figure": ["study/figures/a.svg", "study/figures/b.svg"]})


@pytest.fixture
def drawn(tmp_path):
    """Read a figure of some panels, drawn as the project draws."""

    def draw(*panels):
        path = tmp_path / "study/figures/a.svg"
        path.parent.mkdir(parents=True, exist_ok=True)
        with plotting.style():
            figure, axes = plotting.panels("Loss & more", 1, len(panels), (3.0 * len(panels), 2.0), "How to read it")
            for each, (title, x, y) in zip(axes[0], panels, strict=True):
                each.plot([0, 1], [0, 1], label="a curve")
                each.legend()
                each.set(title=title, xlabel=x, ylabel=y)
            plotting.save(figure, path)
        drawn_from = {"study/figures/a.svg": ["study/a.csv", "study/b.csv"]}
        return figures.read_figures([str(path)], tmp_path / "index.html", CLAIMS, drawn_from)[0]

    yield draw
    plt.close("all")


def test_a_figure_has_its_title_size_claims_and_records(drawn):
    figure = drawn(("only", "", ""))
    assert (figure.path, figure.study, figure.title) == ("study/figures/a.svg", "study", "Loss & more")
    assert figure.size == (3 * 72, 2 * 72)
    assert figure.claims == ("c",)
    assert figure.records == ("study/a.csv", "study/b.csv")


def test_its_text_names_what_each_panel_shows(drawn):
    figure = drawn(("first", "step", "loss"), ("second", "step", ""), ("", "", "$\\lambda$ (1)"))
    assert figure.text == "Loss & more. Panel 1: first; loss against step. Panel 2: second; step. Panel 3: \\lambda (1)"


def test_many_small_panels_are_counted(drawn):
    assert drawn(*[(f"panel {i}", "", "") for i in range(20)]).text == "Loss & more. 20 small panels"


def test_a_drawing_without_a_title_is_called_by_its_file(tmp_path):
    path = tmp_path / "study/figures/a_b.svg"
    path.parent.mkdir(parents=True)
    path.write_text("<svg xmlns='http://www.w3.org/2000/svg'/>")
    (figure,) = figures.read_figures([str(path)], tmp_path / "index.html", CLAIMS, {})
    assert figure.title == figure.text == "a b"
    assert figure.records == ()
