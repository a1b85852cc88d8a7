import pandas as pd
import pytest

from activation_descent import records
from activation_descent.errors import RecordsError

ROW = {"study": "regression", "experiment": "e", "variant": "v", "seed": 0, "step": 0, "metric": "loss_ratio", "value": 1.0}


def table(*changes):
    return records.frame([ROW | change for change in changes or ({},)])


def test_columns_stand_in_the_contract_s_order():
    frame = records.frame([{"value": 1.0, "metric": "loss", "variant": "v", "study": "s", "experiment": "e", "damping": 1.0}])
    assert list(frame) == ["study", "experiment", "variant", "seed", "step", "damping", "metric", "value"]


def test_what_is_written_is_what_is_read_to_the_last_digit(tmp_path):
    frame = table({"value": 0.1 + 0.2}, {"seed": 1, "value": 1e-300})
    records.write(frame, tmp_path / "a.csv")
    records.write(table({"seed": 2}), tmp_path / "b.csv")
    read = records.read([tmp_path / "a.csv", tmp_path / "b.csv"])
    assert read["value"].tolist() == [0.1 + 0.2, 1e-300, 1.0]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.csv", "b.csv"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ([{"metric": "beauty"}], "not declared in records: beauty"),
        ([{"value": float("nan")}], "loss_ratio of variant v, seed 0 is nan"),
        ([{"value": float("inf")}], "is inf"),
        ([{}, {}], "two rows for loss_ratio"),
        ([{"value": "much"}], "is much"),
    ],
)
def test_bad_rows_are_refused(changes, message, tmp_path):
    with pytest.raises(RecordsError, match=message):
        records.write(table(*changes), tmp_path / "a.csv")
    assert not list(tmp_path.iterdir())


def test_a_metric_that_may_diverge_may_be_infinite():
    records.check(table({"metric": "rollout_final_loss", "value": float("inf")}), "table")


@pytest.mark.parametrize("frame", [table().drop(columns="seed"), table().assign(colour="red")])
def test_other_columns_are_refused(frame):
    with pytest.raises(RecordsError, match=r"seed|colour"):
        records.check(frame, "table")


@pytest.mark.parametrize("content", ["", "a,b\n1,2,3\n", "\x00\x01"])
def test_a_damaged_file_is_named(tmp_path, content):
    (tmp_path / "bad.csv").write_text(content)
    with pytest.raises(RecordsError, match=r"bad\.csv"):
        records.read(tmp_path / "bad.csv")


def test_every_metric_says_its_unit_and_meaning():
    assert all(metric.unit and metric.meaning for metric in records.METRICS.values())


def test_a_failed_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "a.csv"
    records.write(table(), path)
    before = path.read_text()
    with pytest.raises(RecordsError):
        records.write(table({"metric": "beauty"}), path)
    assert path.read_text() == before
    assert isinstance(pd.read_csv(path), pd.DataFrame)


def test_no_metric_means_two_things():
    tables = [module.METRICS for module in vars(records).values() if hasattr(module, "METRICS")]
    assert len(tables) >= 4
    assert sum(map(len, tables)) == len(records.METRICS)
