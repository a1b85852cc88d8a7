"""What claims read, from small tables whose answers can be seen; and figures of the same tables."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch

from activation_descent import plotting, records
from activation_descent.attention import CONTROLS, READINGS, circuits, figures, heads, language_heads, statistics
from activation_descent.attention.language_heads import Scan

SCAN = Scan(bases=9, level=0.05, untrained=2, draws=2, prompts=3, demonstrations=4)


def found(rows, metric, variant=None):
    table = pd.DataFrame(rows)
    chosen = table[(table["metric"] == metric) & (table["variant"] == (variant or table["variant"].iloc[0]))]
    return chosen.set_index("seed")["value"].to_dict()


def readings(values, tasks=(None,)):
    """R^2 of each head, seed and task: `values` for heads 1, 2, ..; head 0 is the layer."""
    rows = []
    for task in tasks:
        for seed in (0, 1):
            for head, value in enumerate(values, start=1):
                for reading in (*READINGS, *CONTROLS):
                    row = {"variant": "softmax_2", "seed": seed, "layer": 1, "head": head, "reading": reading}
                    rows.append(row | {"task": task, "metric": "reading_r_squared", "value": value + 10 * seed})
            rows.append(row | {"head": 0, "reading": "error", "task": task, "metric": "reading_r_squared", "value": 0.25})
    return pd.DataFrame(rows)


def test_the_median_over_heads_of_each_seed():
    rows = [*statistics.reading_statistics(readings([0.1, 0.3, 0.9]))]
    assert found(rows, "linear_reading") == {0: 0.3, 1: pytest.approx(10.3)}
    assert found(rows, "descent_reading") == {0: 0.25, 1: 0.25}
    assert {row["metric"] for row in rows} == {
        *(f"{name}_reading" for name in (*READINGS, *CONTROLS)),
        *("descent_reading", "best_reading", "first_order_over_linear"),
    }
    records.check(records.frame(rows), "statistics")


def test_the_best_reading_is_none_that_says_nothing():
    table = readings([0.1])
    for reading, value in (("exact", 1.0), ("from_state", 0.9), ("gaussian", 0.7), ("first_order", 0.5)):
        table.loc[(table["reading"] == reading) & (table["head"] > 0), "value"] = value
    rows = [*statistics.reading_statistics(table[table["seed"] == 0])]
    assert found(rows, "best_reading") == {0: 0.7}
    assert found(rows, "first_order_over_linear") == {0: pytest.approx(0.4)}
    of_tasks = [*statistics.reading_statistics(table[table["seed"] == 0].assign(task="work"))]
    assert [row["value"] for row in of_tasks if row["metric"] == "best_reading"] == [0.9]  # a language model's state is not empty


def test_tasks_are_units():
    table = readings([0.1, 0.3, 0.9], tasks=("work", "taste"))
    rows = [row for row in statistics.reading_statistics(table) if row["metric"] == "error_reading"]
    assert sorted((row["task"], row["seed"]) for row in rows) == [("taste", 0), ("taste", 1), ("work", 0), ("work", 1)]


def transfer():
    rows = []
    for seed in (0, 1):
        base = {"variant": "linear_copying", "seed": seed}
        for control, share, cosine in (
            ("refitted", 0.0, 0.5),
            ("refitted", 0.5, 0.6),
            ("refitted", 1.0, 0.99),
            ("own_readout", 1.0, 0.7),
            ("untrained", 0.0, 0.1),
            ("untrained", 1.0, 0.1),
        ):
            rows.append(base | {"control": control, "share": share, "metric": "transfer_cosine", "value": cosine + seed / 100})
            rows.append(base | {"control": control, "share": share, "metric": "transfer_loss_ratio", "value": 2 - cosine})
        for length in (1, 2):
            for learner, loss in (("transformer", 0.3 * length), ("gradient_descent", 0.2 * length), ("none", 0.4)):
                rows.append(
                    base | {"share": 0.0, "context_length": length, "learner": learner, "metric": "growing_loss", "value": loss}
                )
            rows.append(
                base
                | {
                    "share": 0.0,
                    "context_length": length,
                    "learner": "transformer",
                    "metric": "growing_cosine",
                    "value": length / 2,
                }
            )
    return pd.DataFrame(rows)


def test_both_ends_of_a_mixture():
    rows = [*statistics.transfer_statistics(transfer())]
    assert found(rows, "never_cosine") == {0: 0.5, 1: 0.51}
    assert found(rows, "always_cosine") == {0: 0.99, 1: 1.0}
    assert found(rows, "never_loss_ratio") == {0: 1.5, 1: 1.5}
    assert found(rows, "untrained_layer_cosine") == {0: 0.1, 1: pytest.approx(0.11)}
    assert found(rows, "growing_loss_ratio") == {0: pytest.approx(1.5), 1: pytest.approx(1.5)}
    assert found(rows, "growing_none_ratio") == {0: pytest.approx(4 / 3), 1: pytest.approx(4 / 3)}
    assert found(rows, "growing_step_cosine") == {0: 0.75, 1: 0.75}
    records.check(records.frame(rows), "statistics")


def random_model(seed=0, width=16, rank=4, number=6):
    rng = np.random.default_rng(seed)
    q, k, v, o = (torch.from_numpy(rng.standard_normal((number, width, rank))) for _ in range(4))
    return circuits.Circuits(q, k, v, o.mT, [1] * number, [*range(1, number + 1)], "")


@pytest.fixture(scope="module")
def scanned():
    """Two models: one of noise, one whose third head holds the construction; with untrained ones."""
    rng = np.random.default_rng(0)
    planted = heads.hand_made(rng, 1, 16, 4)
    second = random_model(1)
    for part in ("query", "key", "value", "output"):
        getattr(second, part)[2] = getattr(planted, part)[0]
    rows = []
    for name, own in (("noise", random_model()), ("planted", second)):
        rows += language_heads.scan_records(own, 19, rng, name, "trained")
        for seed in range(2):
            rows += language_heads.scan_records(random_model(5 + seed), 19, rng, name, "untrained", seed)
        for head in range(1, 7):
            base = {"study": "attention", "experiment": "readings", "variant": name, "layer": 1, "head": head}
            for task in ("work", "taste"):
                for reading in (*READINGS, *CONTROLS):
                    for metric in ("reading_r_squared", "reading_cosine"):
                        value = head / 10 + (task == "work") / 100
                        value += (reading != "error") + 2 * (metric != "reading_r_squared")
                        rows.append(base | {"task": task, "seed": 0, "reading": reading, "metric": metric, "value": value})
    return records.frame(rows)


def test_the_best_head_of_each_model(scanned):
    records.check(scanned, "heads")
    rows = [*statistics.head_statistics(scanned, ["noise", "planted"])]
    best = found(rows, "best_head_score")
    assert best[0] < 0.9 < best[1]
    excess, crossed = found(rows, "best_head_excess"), found(rows, "crossed_excess")
    assert excess[1] > 0.1
    assert excess[0] < excess[1]
    null = scanned[(scanned["metric"] == "null_score") & (scanned["variant"] == "planted") & (scanned["control"] == "trained")]
    assert excess[1] == pytest.approx(best[1] - null["value"].item())
    across = scanned[
        (scanned["metric"] == "crossed_score") & (scanned["variant"] == "planted") & (scanned["control"] == "trained")
    ]
    assert crossed[1] == pytest.approx(best[1] - across["value"].abs().max())
    assert crossed[1] > 0.1
    untrained = scanned[(scanned["control"] == "untrained") & (scanned["metric"] == "head_score")]
    expected = untrained.groupby(["variant", "seed"])["value"].max().groupby("variant").mean()
    assert found(rows, "untrained_score") == {0: pytest.approx(expected["noise"]), 1: pytest.approx(expected["planted"])}
    ties = scanned[(scanned["control"] == "trained") & (scanned["metric"] == "hopfield_tie")]
    assert found(rows, "best_tie_score")[0] == pytest.approx(ties[ties["variant"] == "noise"]["value"].abs().max())
    records.check(records.frame(rows), "statistics")


def test_heads_above_the_null(scanned):
    rows = [*statistics.above_null_statistics(scanned, ["noise", "planted"], 0.05)]
    assert found(rows, "heads_above_null") == {0: 0, 1: 1}
    assert found(rows, "above_null_error") == {0: pytest.approx(0.305)}  # the third head, mean over tasks


def test_models_that_no_untrained_network_goes_with(scanned):
    alone = scanned[scanned["control"] != "untrained"]
    alone = pd.concat([alone, scanned[(scanned["control"] == "untrained") & (scanned["variant"] == "noise")]])
    rows = [*statistics.head_statistics(alone, ["noise", "planted"])]
    assert set(found(rows, "untrained_score")) == {0}


def test_controls_score_high():
    rng = np.random.default_rng(0)
    d = 6
    layers = []
    for sign in (1, -1):  # linear attention does not tell (M, B) from (-M, -B)
        x = torch.diag(torch.cat([torch.ones(d), torch.zeros(1)]).double())
        y = torch.zeros(d + 1, d + 1).double()
        y[-1, -1] = -0.4 * sign
        noise = 0.005 * torch.from_numpy(rng.standard_normal((4, d + 1, d + 1)))
        layers.append(torch.stack([sign * x, x, y, torch.eye(d + 1).double()]) + noise)
    rows = [*language_heads.control_records(torch.stack(layers), 0, (3, 24, 8))]
    assert min(found(rows, "by_hand_score").values()) > 0.999
    assert min(found(rows, "tied_tie").values()) > 0.999
    assert len(found(rows, "one_layer_score")) == 2
    assert min(found(rows, "one_layer_score").values()) > 0.9
    records.check(records.frame(rows), "controls")


def test_weights_alone():
    table = pd.DataFrame(language_heads.checkpoint_records(random_model(), SCAN, 0, "file"))
    assert set(table["control"]) == {"trained"}
    assert len(table[table["metric"] == "head_score"]) == 6


def identities():
    rows = [
        {"variant": name, "seed": seed, "metric": metric, "value": value}
        for name in figures.STATEMENTS
        for seed in range(2)
        for metric, value in (("identity_gap", 1e-15), ("counterexample_gap", 0.3))
    ]
    return pd.DataFrame(rows)


def test_figures_say_what_they_show(scanned, tmp_path):
    controls = pd.DataFrame(language_heads.control_records(torch.eye(3).expand(2, 4, 3, 3), 0, (3, 24, 8)))
    softmax = readings([0.1, 0.3])
    picture = {
        "image": np.zeros((2, 8, 8)),
        "label": np.arange(2),
        "predicted": np.arange(2),
        "attended_image": np.zeros((2, 3, 8, 8)),
        "attended_label": np.zeros((2, 3), int),
        "attention": np.full((2, 3), 0.1),
        "pushing_image": np.zeros((2, 3, 8, 8)),
        "pushing_label": np.ones((2, 3), int),
        "contribution": np.full((2, 3), -0.5),
    }
    wanted = SimpleNamespace(
        duality=(lambda: figures.draw_duality(picture), ["0 → 0", "0: 0.1×", "1: −0.5"]),
        softmax=(lambda: figures.draw_softmax(identities(), softmax, scanned), ["softmax_2", "planted", "Hopfield energy"]),
        layers=(
            lambda: figures.draw_layers(transfer()),
            ["linear attention, own sequences", "before training", "copying"],
        ),
        heads=(lambda: figures.draw_heads(scanned, controls), ["planted,\nuntrained", "by hand", "M symmetric"]),
    )
    with plotting.style():
        for name, (draw, words) in vars(wanted).items():
            figure = draw()
            texts = {text.get_text() for text in figure.findobj(lambda item: hasattr(item, "get_text"))}
            for word in words:
                assert any(word in text for text in texts), (name, word)
            plotting.save(figure, tmp_path / f"{name}.svg")
    assert len([*tmp_path.iterdir()]) == 4
