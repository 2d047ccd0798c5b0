"""Models, predict, evaluate and coefficients: scikit-learn and closed forms as the truth."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
from pathlib import Path
from typing import Any

import h5py
import msgspec
import numpy as np
import pytest
from scipy import sparse
from scipy.stats import norm, t
from sklearn import metrics
from sklearn.datasets import load_iris
from sklearn.linear_model import LogisticRegression

from mpinewton.cli import run_command_line
from mpinewton.data.columns import Column, Columns, Schema
from mpinewton.data.shard import Shard
from mpinewton.errors import ConfigError, DataError
from mpinewton.fleet.transport.session import LocalSession
from mpinewton.runs.coefficients import _inverse, coefficients, with_errors
from mpinewton.runs.model import Model, read_model, write_model
from mpinewton.runs.storage import sealed_file, write_text

RNG = np.random.default_rng(0)
N = 80
X = RNG.standard_normal((N, 2)) * [3.0, 0.1] + [5.0, -1.0]
WEIGHT = RNG.integers(1, 4, N).astype(float)
SIDE = RNG.random(N) < 1 / (1 + np.exp(-(X[:, 0] - 5 + 10 * (X[:, 1] + 1))))


class Terminal:
    """Runs commands and keeps what they print."""

    def __init__(self, capture: pytest.CaptureFixture[str]) -> None:
        self.capture, self.out, self.err = capture, "", ""

    def __call__(self, *arguments: object, code: int = 0) -> str:
        found = run_command_line(LocalSession(), [str(a) for a in arguments])
        self.out, self.err = self.capture.readouterr()
        assert found == code, self.out + self.err
        return self.out


@pytest.fixture
def terminal(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Terminal:
    monkeypatch.chdir(tmp_path)
    return Terminal(capsys)


def write_csv(path: str, header: str, *columns: Any) -> None:
    rows = "".join(",".join(map(str, row)) + "\n" for row in zip(*columns))
    Path(path).write_text((header + "\n" if header else "") + rows, encoding="utf-8")


@pytest.fixture
def trained(terminal: Terminal) -> Terminal:
    """A logistic regression on a table, in m.h5; the table is t.csv."""
    write_csv("t.csv", "côté,a,b,w", np.where(SIDE, "être", "no"), *X.T.tolist(), WEIGHT.tolist())
    terminal("pack", "t.csv", "-o", "d", "--workers", 2, "--label-column", "côté", "--weight-column", "w")
    terminal("run", "newton", "d", "-o", "r", "--l2", 0, "--intercept")
    Path("r/model.h5").rename("m.h5")
    return terminal


def truth(l2: float = 0.0) -> LogisticRegression:
    C = 1 / (l2 * WEIGHT.sum()) if l2 else np.inf
    return LogisticRegression(C=C, tol=1e-12, max_iter=10_000).fit(X, np.where(SIDE, "être", "no"), WEIGHT)


# -- predict ----------------------------------------------------------------------------------------------------------


def test_rows_without_labels_are_predicted_in_every_format(trained: Terminal) -> None:
    expected = truth().predict(X).tolist()
    assert 10 < expected.count("no") < N - 10
    a, b = X.T.tolist()
    write_csv("none.csv", "b,a", b, a)
    write_csv("unknown.csv", "côté,b,other,a", ["?"] * N, b, ["x"] * N, a)
    write_csv("blank.csv", "a,côté,b", a, [""] * N, b)
    write_csv("word.csv", "a,b,côté", a, b, ["maybe"] * N)
    write_csv("positions.csv", "", a, b)
    for name in ("none", "unknown", "blank", "word", "positions"):
        assert trained("predict", "m.h5", f"{name}.csv").split() == expected, name
    pairs = [f"1:{x!r} 2:{y!r}" for x, y in zip(a, b)]
    Path("labels.svm").write_text("".join(f"0 {pair}\n" for pair in pairs))
    Path("none.svm").write_text("".join(f"{pair}\n" for pair in pairs))
    np.savez("none.npz", X=X)
    np.savez("labels.npz", X=X, y=np.zeros(N))
    sparse.save_npz("sparse.npz", sparse.csc_array(X))
    for name in ("labels.svm", "none.svm", "none.npz", "labels.npz", "sparse.npz"):
        assert trained("predict", "m.h5", name).split() == expected, name
    assert sorted(trained("predict", "m.h5", "d").split()) == sorted(expected)  # in the order of the shards


def test_columns_are_matched_by_name_and_missing_ones_refused(trained: Terminal) -> None:
    write_csv("lacks.csv", "a,c", *X.T.tolist())
    trained("predict", "m.h5", "lacks.csv", code=2)
    assert "'b'" in trained.err


def test_outputs_are_text_csv_or_npy_in_utf8(trained: Terminal) -> None:
    peer = truth()
    expected = peer.predict(X).tolist()
    for name in ("p.txt", "p.csv", "p.npy"):
        assert trained("predict", "m.h5", "t.csv", "-o", name) == ""
    assert Path("p.txt").read_text(encoding="utf-8").split() == expected
    assert Path("p.csv").read_text(encoding="utf-8").splitlines() == ["prediction", *expected]
    assert np.load("p.npy", allow_pickle=False).tolist() == expected
    P = peer.predict_proba(X)[:, [list(peer.classes_).index(name) for name in ("no", "être")]]
    printed = list(csv.reader(io.StringIO(trained("predict", "m.h5", "t.csv", "--proba"))))
    assert printed[0] == ["no", "être"]
    assert np.allclose(np.array(printed[1:], dtype=float), P, atol=1e-6)
    trained("predict", "m.h5", "t.csv", "--proba", "-o", "p.npy")
    assert np.load("p.npy").shape == (N, 2) and np.allclose(np.load("p.npy").sum(axis=1), 1)
    trained("predict", "m.h5", "t.csv", "-o", "nowhere/p.txt", code=2)
    assert "cannot be written" in trained.err


@pytest.mark.parametrize("loss", ["softmax", "softmax:reduced=true", "mlp:hidden=3"])
def test_probabilities_of_other_losses(loss: str, terminal: Terminal) -> None:
    terminal("pack", "sklearn:iris", "-o", "d", "--workers", 1)
    terminal("run", "lbfgs", "d", "-o", "r", "--loss", loss, "--max-iterations", 30)
    model = read_model(Path("r/model.h5"))
    rows = np.array([[5.0, 3, 1, 0], [6, 3, 5, 2]])
    P = model.probabilities(Shard(rows, np.zeros(2)))
    assert P.shape == (2, 3) and np.allclose(P.sum(axis=1), 1)
    assert np.array_equal(P.argmax(axis=1), model.predict(Shard(rows, np.zeros(2))))
    if loss == "softmax":
        z = np.exp(rows @ model.w.reshape(4, 3))
        assert np.allclose(P, z / z.sum(axis=1, keepdims=True), rtol=1e-12)


def test_probabilities_of_a_module_are_the_softmax_of_its_outputs() -> None:
    torch = pytest.importorskip("torch")
    w = RNG.standard_normal(3 * 6 + 3)
    loss = "torch:module=modules:linear,arguments=features=6;outputs=3,block=2"
    model = Model(w, loss, 0.0, False, (2.0, 5.0, 7.0), Schema(6, ()), "")
    rows = RNG.standard_normal((5, 6))
    z = rows @ w[:18].reshape(3, 6).T + w[18:]
    expected = torch.softmax(torch.tensor(z), 1).numpy()
    assert np.allclose(model.probabilities(Shard(rows, np.zeros(5))), expected, rtol=1e-9)
    two = dataclasses.replace(
        model, w=np.ones(7), classes=(0.0, 1.0),
        loss="torch:module=modules:linear,arguments=features=6;outputs=1,loss=bce",
    )  # fmt: skip
    expected = 1 / (1 + np.exp(-rows.sum(axis=1) - 1))
    assert np.allclose(two.probabilities(Shard(rows, np.zeros(5)))[:, 1], expected, rtol=1e-6)


def test_probabilities_need_a_likelihood() -> None:
    model = Model(np.ones(2), "squared", 0.0, False, None, Schema(2, ()), "")
    with pytest.raises(ConfigError, match="loss squared gives no probabilities"):
        model.probabilities(Shard(X, np.zeros(N)))
    with pytest.raises(DataError, match="expected rows with 2 features, but they have 1"):
        model.predict(Shard(X[:, :1], np.zeros(N)))
    with pytest.raises(DataError, match="the model has 3 weights, but its loss, squared, has 2"):
        dataclasses.replace(model, w=np.ones(3)).predict(Shard(X, np.zeros(N)))


# -- evaluate ---------------------------------------------------------------------------------------------------------


def test_figures_of_classes_are_those_of_scikit_learn(trained: Terminal) -> None:
    options = ["--label-column", "côté", "--weight-column", "w"]
    found = json.loads(trained("evaluate", "m.h5", "t.csv", *options, "--json"))
    peer, y = truth(), np.where(SIDE, "être", "no")
    P = peer.predict_proba(X)
    second = P[:, list(peer.classes_).index("être")]
    assert found["rows"] == N and found["classes"] == ["no", "être"]
    assert found["loss"] == pytest.approx(metrics.log_loss(y, P, sample_weight=WEIGHT, labels=peer.classes_), rel=1e-6)
    assert found["log_loss"] == pytest.approx(found["loss"], rel=1e-12)
    assert found["accuracy"] == pytest.approx(peer.score(X, y, WEIGHT), rel=1e-12)
    assert found["auc"] == pytest.approx(metrics.roc_auc_score(SIDE, second, sample_weight=WEIGHT), rel=1e-12)
    matrix = metrics.confusion_matrix(y, peer.predict(X), labels=["no", "être"], sample_weight=WEIGHT)
    assert found["confusion_matrix"] == matrix.tolist()
    text = trained("evaluate", "m.h5", "t.csv", *options).splitlines()
    assert text[0].split() == ["rows", "80"]
    assert text[-1].split() == ["être", *(f"{count:g}" for count in matrix[1])]


def test_a_packed_folder_is_read_as_its_table_whatever_it_was_packed_with(terminal: Terminal) -> None:
    """Other order of columns, other means and deviations, a category that does not occur."""
    coding = ["--categories", "onehot", "--standardize"]
    words = np.array(["u", "v", "w"])[RNG.integers(0, 3, N)]
    write_csv("t.csv", "a,c,b,y", X[:, 0], words, X[:, 1], SIDE.astype(int))
    few = np.flatnonzero(words != "w")[:20]
    write_csv("few.csv", "b,more,c,a,y", X[few, 1], few, words[few], X[few, 0], SIDE[few].astype(int))
    terminal("pack", "t.csv", "-o", "d", "--workers", 1, "--dense", *coding)
    terminal("pack", "few.csv", "-o", "few", "--workers", 3, "--sparse", *coding)
    terminal("run", "newton", "d", "-o", "r", "--intercept")
    plain, packed = (json.loads(terminal("evaluate", "r/model.h5", data, "--json")) for data in ("few.csv", "few"))
    assert packed.pop("loss") == pytest.approx(plain.pop("loss"), rel=1e-12)
    assert packed.pop("log_loss") == pytest.approx(plain.pop("log_loss"), rel=1e-12)
    assert packed == plain
    write_csv("new.csv", "a,c,b,y", [1, 2], ["u", "new"], [1, 2], [0, 1])
    terminal("pack", "new.csv", "-o", "new", "--workers", 1, *coding)
    terminal("evaluate", "r/model.h5", "new", code=2)
    assert "the feature 'c=new' does not occur in the training data" in terminal.err


def test_figures_that_cannot_be_computed_are_named(trained: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    write_csv("one.csv", "côté,a,b", ["no"] * 3, *X[:3].T.tolist())
    assert "no AUC: all rows have the same label" in trained("evaluate", "m.h5", "one.csv")
    write_csv("none.csv", "côté,a,b,w", ["no"] * 3, *X[:3].T.tolist(), [0] * 3)
    trained("evaluate", "m.h5", "none.csv", "--weight-column", "w", code=2)
    assert "the sum of the weights of the rows is 0" in trained.err
    import builtins

    real = builtins.__import__

    def without(name: str, *arguments: Any, **more: Any) -> Any:
        if name.startswith("sklearn"):
            raise ImportError(name)
        return real(name, *arguments, **more)

    monkeypatch.setattr(builtins, "__import__", without)
    found = trained("evaluate", "m.h5", "one.csv")
    assert "accuracy" in found and "need scikit-learn: pip install" in found


def test_test_rows_are_read_as_pack_reads(trained: Terminal) -> None:
    Path("t.data").write_text(Path("t.csv").read_text(encoding="utf-8").replace(",", "|")[:-1], encoding="utf-8")
    how = ["--format", "csv", "--delimiter", "|", "--weight-column", "w", "--allow-partial-last-line"]
    command = ["run", "newton", "d", "--l2", 0, "--intercept", "--test", "t.data", *how]
    trained(*command, "-o", "s")
    last = list(csv.DictReader(Path("s/history.csv").read_text().splitlines()))[-1]
    assert float(last["test_loss"]) == pytest.approx(float(last["loss"]), rel=1e-9)
    trained("run", "--config", "s/config.toml", "-o", "again")
    assert Path("again/config.toml").read_bytes() == Path("s/config.toml").read_bytes()
    trained("run", "newton", "d", "-o", "n", *how, code=2)
    assert "--format is for test data; add --test" in trained.err


# -- coefficients -----------------------------------------------------------------------------------------------------


def designs() -> dict[str, tuple[Any, Any, Any]]:
    """Labels, and variance and mean as functions of the linear predictor, of each generalised linear model."""
    counts = RNG.poisson(np.exp(0.3 * (X[:, 0] - 5))).astype(float)
    numbers = X @ [1.0, 2.0] + RNG.standard_normal(N)
    return {
        "logistic": (SIDE.astype(float), lambda z: 1 / (4 * np.cosh(z / 2) ** 2), lambda z: 1 / (1 + np.exp(-z))),
        "poisson": (counts, np.exp, np.exp),
        "squared": (numbers, np.ones_like, lambda z: z),
    }


@pytest.mark.parametrize("loss", ["logistic", "poisson", "squared"])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("standardize", [False, True])
def test_standard_errors_are_those_of_the_glm(loss: str, weighted: bool, standardize: bool, terminal: Terminal) -> None:
    """Against (A' diag(w v) A)^-1 at the optimum of iteratively reweighted least squares, on the columns as given."""
    y, variance, mean = designs()[loss]
    weight = WEIGHT if weighted else np.ones(N)
    write_csv("t.csv", "a,b,y,w", *X.T.tolist(), y.tolist(), weight.tolist())
    options = ["--label-column", "y", "--weight-column", "w"]
    scale = ["--scale", "1/4", *(["--standardize"] if standardize else [])]
    terminal("pack", "t.csv", "-o", "d", "--workers", 2, *options, *scale)
    terminal("run", "newton", "d", "-o", "r", "--loss", loss, "--l2", 0, "--intercept", "--tol", 1e-10)

    A, w = np.column_stack([X, np.ones(N)]), np.zeros(3)
    for _ in range(50):
        z = A @ w
        H = A.T @ (A * (weight * variance(z))[:, np.newaxis])
        w = w + np.linalg.solve(H, A.T @ (weight * (y - mean(z))))
    freedom = weight.sum() - 3
    dispersion = (weight * (y - A @ w) ** 2).sum() / freedom if loss == "squared" else 1.0
    errors = np.sqrt(np.diag(np.linalg.inv(H)) * dispersion)
    statistic = w / errors
    p = 2 * (t.sf(abs(statistic), freedom) if loss == "squared" else norm.sf(abs(statistic)))

    for data in (["d"], ["t.csv", *options]):
        rows = list(csv.DictReader(io.StringIO(terminal("coefficients", "r/model.h5", *data, "--csv"))))
        assert [row["name"] for row in rows] == ["a", "b", "intercept"]
        found = {name: [float(row[name]) for row in rows] for name in list(rows[0])[1:]}
        assert list(found) == ["coefficient", "std_error", "t" if loss == "squared" else "z", "p"]
        for values, expected in zip(found.values(), (w, errors, statistic, p)):
            assert np.allclose(values, expected, rtol=1e-6, atol=1e-12)
    rows = list(csv.DictReader(io.StringIO(terminal("coefficients", "r/model.h5", "--csv"))))
    assert np.allclose([float(row["coefficient"]) for row in rows], w, rtol=1e-6) and len(rows[0]) == 2


def test_standard_errors_of_softmax_are_those_of_its_hessian(terminal: Terminal) -> None:
    """Against sum_i x_i x_i' (x) (diag(p_i) - p_i p_i') + N l2, the Hessian of the penalised likelihood."""
    terminal("pack", "sklearn:iris", "-o", "d", "--workers", 1, "--partition", "blocks")
    options = ["--loss", "softmax:reduced=true", "--l2", 0.01, "--intercept", "--tol", 1e-10]
    terminal("run", "newton", "d", "-o", "r", *options)
    A = np.column_stack([load_iris().data, np.ones(150)])
    w = read_model(Path("r/model.h5")).w
    Z = np.exp(np.column_stack([A @ w.reshape(5, 2), np.zeros(150)]))
    P = (Z / Z.sum(axis=1, keepdims=True))[:, :2]
    H = sum(np.kron(np.outer(x, x), np.diag(p) - np.outer(p, p)) for x, p in zip(A, P))
    H += 150 * 0.01 * np.diag([1.0] * 8 + [0.0] * 2)
    errors = np.sqrt(np.diag(np.linalg.inv(H))).reshape(5, 2)
    rows = json.loads(terminal("coefficients", "r/model.h5", "d", "--json"))["coefficients"]
    assert np.allclose([row["std_error"] for row in rows], errors.T.ravel(), rtol=1e-6)
    assert np.allclose([row["coefficient"] for row in rows], w.reshape(5, 2).T.ravel(), rtol=1e-12)
    assert [row["class"] for row in rows] == ["0"] * 5 + ["1"] * 5


def test_many_classes_have_a_row_for_each(terminal: Terminal) -> None:
    terminal("pack", "sklearn:iris", "-o", "d", "--workers", 1)
    terminal("run", "newton", "d", "-o", "r", "--l2", 0.01, "--intercept", "--tol", 1e-10)
    found = json.loads(terminal("coefficients", "r/model.h5", "d", "--json"))
    assert [(row["name"], row["class"]) for row in found["coefficients"][4:6]] == [
        ("intercept", "0"), ("feature 1", "1")
    ]  # fmt: skip
    w = read_model(Path("r/model.h5")).w.reshape(5, 3)
    assert np.array_equal([row["coefficient"] for row in found["coefficients"]], w.T.ravel())
    assert "l2 = 0.01: the weights are shrunk" in found["notes"][0]
    # The intercepts are not regularised: only their differences are determined.
    assert [row["std_error"] is None for row in found["coefficients"]] == [False, False, False, False, True] * 3
    assert "3 coefficients are not determined" in found["notes"][1]


def test_collinear_columns_have_no_standard_errors_and_others_keep_theirs() -> None:
    y = X @ [1.0, 2.0] + RNG.standard_normal(N)
    A = np.column_stack([X, 1e9 * X[:, 1], np.zeros(N), np.ones(N)])
    w = np.linalg.lstsq(A, y)[0]
    model = Model(w, "squared", 0.0, True, None, Schema(4, ()), "")
    found = with_errors(model, Shard(A[:, :4], y))
    plain = np.column_stack([X, np.ones(N)])
    rest = y - plain @ np.linalg.lstsq(plain, y)[0]
    errors = np.sqrt(np.diag(np.linalg.inv(plain.T @ plain)) * (rest @ rest) / (N - 3))
    assert found.errors is not None
    assert np.isnan(found.errors[1:4]).all() and np.allclose(found.errors[[0, 4], 0], errors[[0, 2]], rtol=1e-6)
    assert found.freedom == N - 3 and "3 coefficients are not determined" in found.notes[0]


@pytest.mark.parametrize("size", [0.09, 0.11])
def test_weights_a_tenth_of_a_standard_error_from_the_optimum_are_refused(size: float) -> None:
    y = np.random.default_rng(7).standard_normal(N)
    w = np.linalg.lstsq(X, y)[0]
    moved = Model(w.copy(), "squared", 0.0, False, None, Schema(2, ()), "")
    for _ in range(3):  # the errors depend on the residual at the weights themselves
        rest = y - X @ moved.w
        error = np.sqrt(np.linalg.inv(X.T @ X)[0, 0] * (rest @ rest) / (N - 2))
        moved = dataclasses.replace(moved, w=w + np.array([size * error, 0.0]))
    if size > 0.1:
        with pytest.raises(DataError, match=r"changes one of them by 0\.11 standard errors"):
            with_errors(moved, Shard(X, y))
    else:
        found = with_errors(moved, Shard(X, y))
        assert found.errors is not None and found.errors[0, 0] == pytest.approx(error, rel=1e-3)


@pytest.mark.parametrize("unit", [1e-30, 1.0, 1e30])
def test_a_matrix_is_singular_in_any_units(unit: float) -> None:
    """The inverse on the range: that of the first three variables, the fourth being twice the third, the fifth 0."""
    A = np.random.default_rng(8).standard_normal((9, 3))
    A = np.column_stack([A, 2 * A[:, 2], np.zeros(9)]) * np.sqrt(unit)
    inverse, null, _ = _inverse(A.T @ A)
    assert null.shape == (5, 2)
    np.testing.assert_allclose(A @ inverse @ A.T, A[:, :3] @ np.linalg.pinv(A[:, :3]), atol=1e-9)
    assert abs(A @ null).max() <= 1e-9 * abs(A).max() * abs(null).max()


def test_what_has_no_standard_errors_is_refused() -> None:
    y = SIDE.astype(float)
    model = Model(np.ones(2), "huber", 0.0, False, None, Schema(2, ()), "")
    assert np.array_equal(coefficients(model).values, np.ones((2, 1)))
    with pytest.raises(ConfigError, match="loss huber: standard errors need a likelihood"):
        with_errors(model, Shard(X, y))
    with pytest.raises(DataError, match="the weights are not the optimum on these rows"):
        with_errors(dataclasses.replace(model, loss="squared"), Shard(X, y))
    with pytest.raises(ConfigError, match="expected a linear model"):
        coefficients(dataclasses.replace(model, loss="mlp:hidden=2", classes=(0.0, 1.0)))
    with pytest.raises(DataError, match="1 rows: expected more than weights"):
        with_errors(dataclasses.replace(model, loss="squared"), Shard(X[:1], y[:1]))


# -- strangers' files -------------------------------------------------------------------------------------------------

COLUMNS = Columns((Column("a"), Column("c", "category", ("u", "v"))))
GOOD = Model(
    np.array([1.0, -2.0, 0.5]), "logistic", 0.5, False, (0.0, 1.0),
    Schema(3, ("no", "être"), "1/2", COLUMNS, "y", (1.0, 0.0, 0.0), (2.0, 1.0, 1.0)), "ab",
)  # fmt: skip


def test_a_model_is_read_as_it_was_written(tmp_path: Path) -> None:
    write_model(tmp_path / "m.h5", GOOD)
    again = read_model(tmp_path / "m.h5")
    assert np.array_equal(again.w, GOOD.w)
    for field in dataclasses.fields(Model):
        assert field.name == "w" or getattr(again, field.name) == getattr(GOOD, field.name)


def test_info_shows_what_a_model_says(terminal: Terminal, tmp_path: Path) -> None:
    write_model(tmp_path / "m.h5", GOOD)
    shown = terminal("info", "m.h5")
    assert (
        "loss         logistic" in shown
        and "class_names  ['no', 'être']" in shown
        and "w            float64 3" in shown
    )


def schema(**changed: Any) -> dict[str, Any]:
    return {"schema": dataclasses.replace(GOOD.schema, **changed)}


HOSTILE: dict[str, tuple[dict[str, Any], str]] = {
    "nan": ({"w": np.array([1.0, np.nan, 0.0])}, "a weight is no float64, or not finite"),
    "float32": ({"w": np.zeros(3, np.float32)}, "a weight is no float64"),
    "words for w": ({"w": np.zeros(3, "S4")}, "'w' has dtype"),
    "no weights": ({"w": None}, "object 'w' doesn't exist"),
    "l2": ({"l2": -1.0}, "l2 is -1.0"),
    "l2 of words": ({"l2": "much"}, "Expected `float`, got `str` - at `$.l2`"),
    "no loss": ({"loss": None}, "Expected `str`, got `null`"),
    "classes": ({"classes": (1.0, 0.0)}, "classes are not distinct and increasing"),
    "class names": (schema(class_names=("a",)), "class_names do not fit"),
    "features": (schema(features=-3, columns=None), "features is -3"),
    "columns": (schema(columns=Columns((Column("a"),))), "columns are of 1 features, not of 3"),
    "shift": (schema(shift=(1.0,)), "shift has 1 numbers for 3 features"),
    "scale": (schema(scale="x"), "--scale x: expected a positive number"),
}


@pytest.mark.parametrize(("changed", "words"), HOSTILE.values(), ids=HOSTILE)
def test_a_sealed_model_with_a_wrong_inside_is_refused(changed: dict[str, Any], words: str, tmp_path: Path) -> None:
    content = {field.name: getattr(GOOD, field.name) for field in dataclasses.fields(Model)} | changed
    w = content.pop("w")
    with sealed_file(tmp_path / "m.h5", "mpinewton-model/2") as file:
        if w is not None:
            file["w"] = w
        write_text(file, "facts", msgspec.json.encode(content))
    with pytest.raises(DataError) as error:
        read_model(tmp_path / "m.h5")
    assert words in str(error.value)


def test_links_and_other_storage_are_not_followed(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["w"] = np.ones(3)

    def link(file: h5py.File) -> None:
        file["w"] = h5py.ExternalLink(str(tmp_path / "other.h5"), "/w")

    def soft(file: h5py.File) -> None:
        file["v"], file["w"] = np.ones(3), h5py.SoftLink("/v")

    def virtual(file: h5py.File) -> None:
        layout = h5py.VirtualLayout((3,), "f8")
        layout[:] = h5py.VirtualSource(str(tmp_path / "other.h5"), "w", (3,))
        file.create_virtual_dataset("w", layout)

    def external(file: h5py.File) -> None:
        file.create_dataset("w", (3,), "f8", external=str(tmp_path / "other.h5"))

    def compressed(file: h5py.File) -> None:
        file.create_dataset("w", data=np.ones(3), compression="gzip")

    def huge(file: h5py.File) -> None:
        file.create_dataset("w", (1 << 40,), "f8")

    def group(file: h5py.File) -> None:
        file.create_group("w")

    for trick in (link, soft, virtual, external, compressed, huge, group):
        with sealed_file(tmp_path / "m.h5", "mpinewton-model/2") as file:
            trick(file)
        with pytest.raises(DataError, match=r"'w' (is a link|has dtype)"):
            read_model(tmp_path / "m.h5")
