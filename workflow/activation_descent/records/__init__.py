"""Records: tidy numbers, one row a number, and what each metric means.

Every table has the columns of `COLUMNS`; a table may add columns of `EXTRA_COLUMNS`, which together with the others say what a number
belongs to. Frames are checked before they are written, and a file appears whole or not at all.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from activation_descent.errors import RecordsError
from activation_descent.files import whole
from activation_descent.records import attention, benchmark, finetuning, language, lens, reasoning, regression

Row = dict[str, Any]  # one number and what it belongs to, by column

COLUMNS = ("study", "experiment", "variant", "seed", "step", "metric", "value")

EXTRA_COLUMNS = {
    "learner": "who predicts: transformer, untrained, interpolated, optimum (closed form), label (nobody) or a learner of the ladder",
    "reference": "the learner that a transformer is compared with, or none",
    "layers": "K, layers of a network or steps of a learner",
    "layer": "one of them, from 1; of lenses the states that enter it, from 0, and -1 for all",
    "context_length": "N, examples in the context",
    "input_dim": "d, entries of an input",
    "output_dim": "entries of a label",
    "condition": "what differs from training: context_length, input_scale, weight_scale, distribution_scale, noisy_labels; or an example",
    "level": "how much: N, factors on the training range of inputs and weights, Frobenius norm of the inputs, labels replaced; a query",
    "damping": "lambda, the factor on each update of a roll-out",
    "iteration": "how often the layer, or the gradient step, was applied",
    "width": "hidden units of a network, 0 for none",
    "task": "a classification task",
    "group": "seen or held_out, by whether the corpus shows a task's canonical labels; real for sets from elsewhere",
    "classes": "labels of the task",
    "labelling": "how demonstrations are labelled: gold, random, abstract or flipped",
    "demonstrations": "examples, or answered questions, in the prompt",
    "control": "what stands in the place of fine-tuning or in-context learning (`finetuning.controls`), or what a number belongs to",
    "position": "query: the token that predicts the label; dai: the first label word after it, where Dai et al. recorded",
    "length": "tokens of a document or of a sequence, or the place of one, from 1",
    "capacity": "C of a knapsack",
    "row": "i, items that an entry of the dynamic programme's table is about",
    "sampler": "of logic problems: where a network is tested; the variant says where it was trained",
    "depth": "rounds of forward chaining that prove a predicate; -1 for what cannot be proved",
    "head": "of a layer, from 1; 0 for all of them together",
    "reading": "the gradient step that a head's updates are held against (`attention.readings`)",
    "share": "of the training sequences that are linear regression",
    "lens": "kind of translator (`lens.translators`)",
    "states": "what a lens reads: states of the model, rotated, or with updates carried along in bases of their own",
    "fitted": "the layer that a translator was fitted at, when it reads `layer`",
}

METRICS = {
    **regression.METRICS,
    **language.METRICS,
    **finetuning.METRICS,
    **attention.METRICS,
    **reasoning.METRICS,
    **lens.METRICS,
    **benchmark.METRICS,
}


def frame(rows: Iterable[dict[str, Any]]) -> pd.DataFrame:
    """Rows as a table with the contract's columns first. Missing `seed` and `step` become 0."""
    table = pd.DataFrame(list(rows))
    for column in ("seed", "step"):
        if column not in table:
            table[column] = 0
    extra = [column for column in EXTRA_COLUMNS if column in table]
    return table[[column for column in (*COLUMNS[:-2], *extra, *COLUMNS[-2:]) if column in table]]


def tail(table: pd.DataFrame, share: float) -> pd.DataFrame:
    """The rows of the last `share` of training: where the learning rate never decays, single snapshots hover around their mean."""
    return table[table["step"] > (1 - share) * table["step"].max()]


def check(table: pd.DataFrame, name: str) -> None:
    """Hold a table against the contract.

    Args:
        name: how to call the table in an error.

    Raises:
        RecordsError: if a column is missing or unknown, a metric is not in `METRICS`, a value is not a number (or not finite for
            a metric that must be), or two rows say what one number belongs to.
    """
    missing = [column for column in COLUMNS if column not in table]
    unknown = [column for column in table if column not in COLUMNS and column not in EXTRA_COLUMNS]
    if missing or unknown:
        raise RecordsError(f"{name}: columns missing {missing}, columns not declared in records {unknown}")
    undeclared = sorted(set(map(str, table["metric"])) - set(METRICS))
    if undeclared:
        raise RecordsError(f"{name}: metrics not declared in records: {', '.join(undeclared)}")
    values = pd.to_numeric(table["value"], errors="coerce")
    bad = values.isna() | (np.isinf(values) & table["metric"].map(lambda metric: METRICS[metric].finite))
    if bad.any():
        row = table[bad].iloc[0]
        raise RecordsError(f"{name}: {row['metric']} of variant {row['variant']}, seed {row['seed']} is {row['value']}")
    keys = [column for column in table if column != "value"]
    if table.duplicated(keys).any():
        row = table[table.duplicated(keys)].iloc[0]
        raise RecordsError(f"{name}: two rows for {row['metric']} of variant {row['variant']}, seed {row['seed']}")


def write(table: pd.DataFrame, path: str | Path) -> None:
    """Check a table and write it as CSV, whole or not at all.

    Raises:
        RecordsError: see `check`.
    """
    check(table, str(path))
    write_text(table.to_csv(index=False, lineterminator="\n"), path)


def read(paths: str | Path | Sequence[str | Path]) -> pd.DataFrame:
    """One or several tables of records, checked.

    Raises:
        RecordsError: if a file cannot be parsed, or see `check`.
    """
    tables = []
    for path in [paths] if isinstance(paths, str | Path) else paths:
        try:
            table = pd.read_csv(path)
        except (ValueError, UnicodeDecodeError) as error:
            raise RecordsError(f"{path} is not a table of records: {error}") from error
        check(table, str(path))
        tables.append(table)
    return pd.concat(tables, ignore_index=True)


def merge(shards: Sequence[str | Path], path: str | Path) -> None:
    """Put tables of parts of a job below one another, digit by digit as they are: the bytes that the whole job would have written.

    Raises:
        RecordsError: see `read` and `check`.
    """
    check(read(shards), str(path))
    parts = [pd.read_csv(shard, dtype=str, keep_default_na=False) for shard in shards]
    rows = pd.concat(parts, ignore_index=True).fillna("").to_dict("records")
    write_text(frame(rows).to_csv(index=False, lineterminator="\n"), path)


def write_text(text: str, path: str | Path) -> None:
    """Write a text file by `os.replace`: a reader sees the old file or the new one, never half of it."""
    with whole(path) as partial:
        partial.write_text(text, encoding="utf-8")
