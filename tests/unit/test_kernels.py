"""The compiled kernels: against numpy and scipy, the same bits on all instruction sets, errors in place of crashes."""

from __future__ import annotations

import json
import shutil
import subprocess
import sysconfig
from pathlib import Path

import numpy as np
import pytest
from fuzz_kernels import LOSSES, fuzz
from hypothesis import given, settings
from hypothesis import strategies as st
from launch import launch_serial
from scipy import sparse

from mpinewton import kernels
from mpinewton.cli import run_command_line
from mpinewton.data.pack import pack
from mpinewton.data.shard import Shard
from mpinewton.fleet.transport.session import LocalSession
from mpinewton.losses import make_loss
from mpinewton.losses.logistic import Logistic

rows = pytest.importorskip("mpinewton.kernels.rows", reason="this installation has no compiled kernels")
compiled = pytest.importorskip("mpinewton.kernels.compiled")
if kernels.NAME == "numpy":
    pytest.skip("MPINEWTON_KERNELS=numpy", allow_module_level=True)
FUZZ = Path(__file__).parents[1] / "support" / "fuzz_kernels.py"
SOURCE = Path(__file__).parents[2] / "mpinewton" / "kernels" / "rows.c"


@pytest.fixture
def level():
    before = rows.level()
    yield rows.level
    rows.level(before)


def elementary(name, x):
    out = np.empty_like(x)
    rows.elementary(name, len(x), x, out)
    return out


@pytest.mark.skipif(np.finfo(np.longdouble).nmant < 63, reason="long double has no more digits than double here")
@pytest.mark.parametrize("name, ulps", [("exp", 1.5), ("p", 2.0), ("log", 1.5)])
def test_elementary_functions_are_as_good_as_those_of_libm(name, ulps):
    rng = np.random.default_rng(0)
    x = {
        "exp": np.concatenate([rng.uniform(-708, 709, 20000), rng.uniform(-1, 1, 20000), [0.0, -708.0, 709.0]]),
        "p": np.concatenate([rng.random(20000), 10.0 ** rng.uniform(-300, 0, 20000), [0.0, 1.0]]),
        "log": np.concatenate([1 + rng.random(20000), 10.0 ** rng.uniform(0, 300, 20000), [1.0, 2.0]]),
    }[name]
    truth = {"exp": np.exp, "p": np.log1p, "log": np.log}[name](x.astype(np.longdouble))
    error = np.abs(elementary(name, x) - truth)
    bad = error > ulps * np.finfo(float).eps * np.abs(truth)
    assert not bad.any(), (x[bad][:3], float((error[bad] / np.abs(truth[bad])).max() / np.finfo(float).eps))


def test_elementary_functions_at_their_limits():
    np.testing.assert_array_equal(elementary("exp", np.array([-np.inf, -709.0, np.inf, 710.0])), [0, 0, np.inf, np.inf])
    for name in ("exp", "p", "log"):
        assert np.isnan(elementary(name, np.array([np.nan]))).all()


@pytest.mark.parametrize("named", LOSSES)
@pytest.mark.parametrize("other", kernels.LEVELS[1:])
def test_the_instruction_set_changes_no_bit(named, other, level):
    try:
        level(other)
    except ValueError as error:
        pytest.skip(str(error))
    rng = np.random.default_rng(1)
    loss, outputs, n = make_loss(named), 5 if "softmax" in named else 1, 1003
    z = rng.standard_normal((n, outputs)[: 1 + (outputs > 1)]) * 10.0 ** rng.uniform(-3, 3, (n, 1)[: 1 + (outputs > 1)])
    t = rng.integers(0, 5, n) if outputs > 1 else np.sign(rng.standard_normal(n)) + (loss.name == "poisson")
    formula = compiled.Formula(loss.kernel(t), outputs, t, rng.random(n))
    Q, Y = rng.standard_normal((2, 3, 40, 6))
    found = []
    for name in ("baseline", other):
        assert level(name) == name
        line = formula.line(z, z[::-1], np.array([0.3, 1e-9]))
        found.append([*formula.terms(z, slice(None), 2), line, *compiled.ritz(Q.copy(), Y.copy(), 2)])
    for a, b in zip(*found):
        np.testing.assert_array_equal(a, b)


@pytest.mark.slow
@given(st.integers(0, 2**20))
@settings(max_examples=40, derandomize=True, deadline=None)
def test_kernels_agree_with_their_twins_and_refuse_wrong_calls(seed):
    with np.errstate(all="ignore"):
        fuzz(seed)


def test_fuzzing_refuses_what_is_wrong():
    with np.errstate(all="ignore"):
        assert sum(fuzz(seed) for seed in range(10)) > 100


@pytest.mark.skipif(kernels.NAME == "numpy", reason="needs the compiled loops")
def test_an_order_of_sums_that_shares_memory_with_values_is_refused():
    X = sparse.csr_array(np.eye(3))
    matrix = kernels.compiled.rows.Matrix(X.indptr, X.indices, X.data, 3)
    loss = (0, 1.0, 1, np.ones(3), None, None, 1.0)
    values = np.zeros(2)  # the first value is written before the order of the second sum is read
    sums = np.zeros(3), np.ones(2), values.view(np.int64), np.zeros((2, 6))
    with pytest.raises(ValueError, match="merged: expected numbers of sums that are there"):
        kernels.compiled.rows.evaluate((matrix,) * 2, (loss,) * 2, np.zeros(3), np.zeros((2, 3)), values, None, sums)


def test_a_loss_with_a_formula_of_its_own_does_not_take_the_compiled_one():
    class Doubled(Logistic):
        name = "doubled"

        def values(self, z, t):
            return 2.0 * super().values(z, t)

        def derivatives(self, z, t):
            return 2.0 * super().derivatives(z, t)

    class Renamed(Logistic):
        name = "renamed"

    rng = np.random.default_rng(0)
    X, y, w = rng.standard_normal((30, 4)), np.sign(rng.standard_normal(30)), rng.standard_normal(4)
    models = [loss().on_shard(Shard(X, y), (-1.0, 1.0)) for loss in (Logistic, Renamed, Doubled)]
    assert [model.formula.compiled for model in models] == [True, True, False]
    plain, renamed, doubled = (model.at(w) for model in models)
    assert renamed.value() == plain.value()
    assert doubled.value() == pytest.approx(2.0 * plain.value(), rel=1e-14)
    np.testing.assert_allclose(doubled.gradient(), 2.0 * plain.gradient(), rtol=1e-13)


@pytest.mark.parametrize("storage", ["csr", "full csr", "dense", "dense32"])
@pytest.mark.parametrize("named", ["logistic", "softmax", "squared"])
def test_bits_depend_neither_on_the_order_of_the_questions_nor_on_known_logits(storage, named):
    rng = np.random.default_rng(2)
    X = rng.standard_normal((3000, 60)) * (rng.random((3000, 60)) < (0.1 if storage == "csr" else 1.0))
    X = sparse.csr_array(X) if "csr" in storage else X.astype(np.float32 if "32" in storage else np.float64)
    y = rng.integers(0, 3 if named == "softmax" else 2, 3000).astype(float)
    classes = None if named == "squared" else tuple(range(3 if named == "softmax" else 2))
    model = make_loss(named).on_shard(Shard(X, y, rng.random(3000)), classes)
    w = rng.standard_normal(model.dim)
    questions, found = ("value", "gradient", "hessian"), []
    for order in (questions, questions[::-1], ("gradient", "value", "hessian")):
        for kept in ({}, {"z": model.logits(w)}):
            point = model.at(w, **kept)
            answers = {question: getattr(point, question)() for question in order}
            found.append([answers[question] for question in questions])
    for other in found[1:]:
        for a, b in zip(found[0], other):
            np.testing.assert_array_equal(a, b)


@pytest.mark.slow
def test_a_run_that_goes_on_with_other_loops_says_so(tmp_path):
    data, out = tmp_path / "data", tmp_path / "run"
    run = ["-m", "mpinewton", "run", "newton", str(data), "--loss", "squared", "--tol", "0", "-o", str(out)]
    pack("sklearn:diabetes", data, 2)
    assert run_command_line(LocalSession(), [*run[2:], "--max-iterations", "1"]) == 0
    assert json.loads((out / "result.json").read_text())["arithmetic"].endswith("rows compiled")
    again = launch_serial([*run, "--max-iterations", "2"], env={"MPINEWTON_KERNELS": "numpy"})
    assert again.returncode == 0, str(again)
    assert "loops over rows compiled, now numpy" in again.stdout
    assert json.loads((out / "env.json").read_text())["ranks"][0]["rows"] == "numpy"


def test_an_unknown_choice_is_refused():
    ended = launch_serial(["-m", "mpinewton", "doctor"], env={"MPINEWTON_KERNELS": "fast"})
    assert ended.returncode == 2
    assert "MPINEWTON_KERNELS = 'fast': choose from: numpy, baseline" in ended.stderr


@pytest.mark.slow
def test_sanitizers_find_nothing(tmp_path):
    compiler = shutil.which("gcc")
    if compiler is None:
        pytest.skip("no gcc")
    asan = subprocess.run([compiler, "-print-file-name=libasan.so"], capture_output=True, text=True).stdout.strip()
    if not Path(asan).is_absolute():
        pytest.skip("gcc has no libasan")
    built = tmp_path / "rows.abi3.so"
    flags = ["-O0", "-g", "-std=c11", "-fPIC", "-shared", "-ffp-contract=off", "-fsanitize=address,undefined"]
    include = f"-I{sysconfig.get_paths()['include']}"
    command = [compiler, *flags, "-fno-sanitize-recover=all", include, str(SOURCE), "-o", str(built)]
    build = subprocess.run(command, capture_output=True, text=True)
    if "Python.h" in build.stderr:
        pytest.skip("no headers of Python")
    assert build.returncode == 0, build.stderr
    finished = launch_serial(
        [FUZZ, built, "60"], env={"LD_PRELOAD": asan, "ASAN_OPTIONS": "detect_leaks=0:allocator_may_return_null=1"}
    )
    assert finished.returncode == 0, str(finished)
    assert "60 matrices" in finished.stdout
