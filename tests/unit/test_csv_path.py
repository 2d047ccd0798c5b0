"""docs/from-csv-to-model.md as a test: a raw table to a model, with scikit-learn's pipeline as the truth."""

from __future__ import annotations

import csv
import io
import json
import lzma
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from reference import SHARED, needs_shared
from sklearn.compose import ColumnTransformer
from sklearn.impute import MissingIndicator, SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.pipeline import make_pipeline, make_union
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from mpinewton.cli import run_command_line
from mpinewton.fleet.transport.session import LocalSession

Rows = list[list[str]]
ADULT = [
    "age", "workclass", "fnlwgt", "education", "education-num", "marital-status", "occupation", "relationship", "race",
    "sex", "capital-gain", "capital-loss", "hours-per-week", "native-country", "income",
]  # fmt: skip


def made_up(n: int, seed: int) -> Rows:
    """Rows of numbers and words, some missing, in units that differ by factors of a million."""
    rng = np.random.default_rng(seed)
    age, pay, job = rng.integers(17, 90, n), 1e5 * rng.lognormal(size=n), rng.integers(0, 4, n)
    z = 0.05 * (age - 50) + 1e-5 * (pay - 1e5) + job - 1.5
    income = np.where(rng.random(n) < 1 / (1 + np.exp(-z)), ">50K", "<=50K")
    jobs = np.array(["sales", "Tech, other", "ça", "?"])[job]
    shown = np.where(rng.random(n) < 0.1, "?", np.round(pay).astype(int).astype(str))
    return [list(map(str, row)) for row in zip(age, jobs, shown, income)]


def adult(name: str) -> Rows:
    """Every eighth row; all are in tests/unit/test_documentation.py."""
    with lzma.open(SHARED / f"{name}.xz", "rt") as file:
        rows = list(csv.reader(file, skipinitialspace=True))
    return [[*row[:-1], row[-1].rstrip(".")] for row in rows if len(row) == len(ADULT)][::8]


def write(path: str, rows: Rows) -> None:
    with Path(path).open("w", encoding="utf-8", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows(rows)


def is_number(cells: Any) -> bool:
    return all(cell == "?" or cell.replace(".", "").isdecimal() for cell in cells)


def peer(rows: Rows) -> tuple[Any, list[int], list[int]]:
    """A pipeline of scikit-learn that does what the commands do; its columns of words, and of numbers."""
    cells = np.array(rows, dtype=object)[:, :-1]
    numbers = [j for j in range(cells.shape[1]) if is_number(cells[:, j])]
    words = [j for j in range(cells.shape[1]) if j not in numbers]
    scaled = make_union(make_pipeline(SimpleImputer(), StandardScaler(with_mean=False)), MissingIndicator())
    encoder = ColumnTransformer([("words", OneHotEncoder(), words), ("numbers", scaled, numbers)])
    model = make_pipeline(encoder, LogisticRegression(C=1.0, tol=1e-12, max_iter=10_000))  # l2 = 1 / n
    return model.fit(floats(rows, numbers), [row[-1] for row in rows]), words, numbers


def floats(rows: Rows, numbers: list[int]) -> Any:
    cells = np.array(rows, dtype=object)[:, :-1]
    for j in numbers:
        cells[:, j] = [np.nan if cell == "?" else float(cell) for cell in cells[:, j]]
    return cells


@pytest.mark.parametrize("data", ["made up", pytest.param("adult", marks=[*needs_shared, pytest.mark.slow])])
def test_from_a_raw_table_to_predictions(
    data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str) -> str:
        code = run_command_line(LocalSession(), list(arguments))
        out, err = capsys.readouterr()
        assert code == 0, out + err
        return out

    names, train, test = ["age", "job", "pay", "income"], made_up(300, 0), made_up(200, 1)
    if data == "adult":
        names, train = ADULT, adult("adult.data")
        known = [set(column) for column in zip(*train)]
        test = [row for row in adult("adult.test") if all(is_number([c]) or c in k for c, k in zip(row, known))]
    write("train.csv", [names, *train])
    write("test.csv", [names, *test])
    order = list(np.random.default_rng(0).permutation(len(names) - 1))
    write("new.csv", [[names[j] for j in order], *([row[j] for j in order] for row in test)])

    run("pack", "train.csv", "-o", "d", "--workers", "4", "--categories", "onehot", "--missing", "indicator",
        "--standardize", "--sparse")  # fmt: skip
    run("run", "auto", "d", "-o", "r", "--intercept")
    figures = json.loads(run("evaluate", "r/model.h5", "test.csv", "--json"))
    table = json.loads(run("coefficients", "r/model.h5", "d", "--json"))
    predicted = run("predict", "r/model.h5", "new.csv").splitlines()
    chances = np.array(list(csv.reader(io.StringIO(run("predict", "r/model.h5", "new.csv", "--proba"))))[1:], float)

    truth, words, numbers = peer(train)
    P = truth.predict_proba(floats(test, numbers))
    assert figures["auc"] == pytest.approx(roc_auc_score([row[-1] for row in test], P[:, 1]), abs=1e-4)
    assert np.allclose(chances, P, atol=1e-4)
    same = np.array(predicted) == truth.predict(floats(test, numbers))
    assert same[abs(P[:, 1] - 0.5) > 1e-4].all()

    encoder, weights = truth[0], truth[-1].coef_[0]
    expected = {}
    for j, categories in zip(words, encoder.named_transformers_["words"].categories_):
        expected |= {f"{names[j]} missing" if word == "?" else f"{names[j]}={word}": 1.0 for word in categories}
    scaler = encoder.named_transformers_["numbers"].transformer_list[0][1][-1]
    expected |= {names[j]: 1 / scale for j, scale in zip(numbers, scaler.scale_)}
    missing = encoder.named_transformers_["numbers"].transformer_list[1][1].features_
    expected |= {f"{names[numbers[k]]} missing": 1.0 for k in missing}
    expected = {name: weight * factor for (name, factor), weight in zip(expected.items(), weights)}
    found = {row["name"]: row["coefficient"] for row in table["coefficients"]}
    errors = {row["name"]: row["std_error"] for row in table["coefficients"]}
    assert found.pop("intercept") == pytest.approx(truth[-1].intercept_[0], rel=1e-3)
    assert found.keys() == expected.keys()
    for name, value in found.items():
        assert value == pytest.approx(expected[name], abs=1e-2 * errors[name]), name
    assert table["predicts"] == "log-odds of >50K against <=50K"
