"""`check_method`: what every method of mpinewton is tested for, applied to any method."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

from mpinewton.methods.settings import make_method
from mpinewton.methods.support.method import Algorithm, Method
from mpinewton.testing import method_checks, run_checks
from mpinewton.testing.jobs import check_mpiexec
from mpinewton.testing.method_checks import Expected, takes
from mpinewton.testing.problems import ZOO, Problem, sorted_by_label
from mpinewton.testing.report import CheckFailed, Report

PREFERRED = ("logistic", "softplus", "squared", "softmax")  # losses for checks that need one problem


class Check(NamedTuple):
    """One check, ready to be made: it returns what it measured, and raises CheckFailed."""

    name: str
    where: str
    run: Callable[[], str]


def check_method(
    method: Algorithm | type[Algorithm],
    *,
    settings: dict[str, Any] | None = None,
    limit: int = 200,
    gap: float = 0.0,
    not_on: tuple[str, ...] = (),
    monotone: bool = False,
    warm_up: int = 0,
    ranks: bool = False,
) -> Report:
    """Test a method: optimum, states, needs, cost, resumption and bits, on the tiny problems of `ZOO`.

    Each problem has 120 rows and 6 features, on five workers of unequal size, one of them without rows, or on one. The
    rows are dense, or in CSR with weights. The optimum is found independently, from other formulas.

    Parameters
    ----------
    method : Method, or subclass of Method
    settings : dict, optional
        Settings of the class, nested as in `compare` files. Default: the defaults.
    limit : int
        Maximum number of iterations in which it must reach the optimum of every convex problem.
    gap : float
        For a method that does not reach the optimum exactly, the part of P(start) - P* that it may leave. Default: the
        gradient norm must fall to 1e-8.
    not_on : tuple of str
        Names of losses on which the method need not arrive.
    monotone : bool
        Test that the objective never rises, on losses that are not convex too.
    warm_up : int
        Number of iterations before the cost of an iteration is the declared one.
    ranks : bool
        Start jobs under mpiexec too, on 2, 3 and 5 ranks, and compare their bits with those of one process. The class
        must be importable, or in a file of its own.

    Returns
    -------
    Report
        The checks that were made, and the cost of an iteration. `print` shows a table.

    Raises
    ------
    CheckFailed
        If a check fails: what is wrong, where, the expected and the found value, and the likely cause.

    Examples
    --------
    >>> from mpinewton.methods.lbfgs import Lbfgs
    >>> len(check_method(Lbfgs, monotone=True).passed) > 10
    True
    """
    made = make_method(method, settings or {}) if isinstance(method, type) else method
    report = Report(f"method {getattr(made, 'name', type(made).__name__)}")
    expected = Expected(limit, gap, not_on, monotone, warm_up)
    for check in checks(made, expected):
        report.run(check.run, name=check.name, where=check.where)
    for name in expected.not_on:
        report.skip("optimum", f"not expected to arrive on {name}")
    if made.cost is None:
        report.skip("cost against the ledger", "the class declares no cost")
    if ranks:
        report.run(check_mpiexec, made, problem_for(made, "csr"), name="mpiexec", where="2, 3 and 5 ranks")
    else:
        report.skip("mpiexec", "not asked for: ranks=True")
    return report


def checks(method: Algorithm, expected: Expected, dense: bool = True) -> Iterator[Check]:
    """The checks of `check_method`, one by one.

    Parameters
    ----------
    method : Method
    expected : Expected
    dense : bool
        Whether to try dense rows on one worker, beside CSR rows with weights on five.
    """
    yield Check("settings", "", partial(method_checks.check_settings, method))
    if not isinstance(method, Method):  # a rule: what it chooses is checked by its own name
        yield Check("choice", "all problems", partial(method_checks.check_choice, method))
        return
    problem, plain = problem_for(method, "csr"), problem_for(method, "dense")
    alike = sorted_by_label(problem)
    yield Check("needs", problem.name, partial(method_checks.check_needs, method, problem))
    yield Check("states", problem.name, partial(method_checks.check_states, method, problem))
    yield Check("states", alike.name, partial(method_checks.check_states, method, alike))
    yield Check("bits", problem.name, partial(run_checks.check_bits, method, problem))
    yield Check("resumption", problem.name, partial(run_checks.check_resumption, method, problem))
    yield Check("cost", plain.name, partial(run_checks.check_cost, method, plain, expected.warm_up))
    for name, problem in ZOO.items():
        one = name.endswith("-dense")
        if (one and not dense) or not takes(method, problem) or problem.loss.name in expected.not_on:
            continue
        if problem.loss.convex:
            yield Check("optimum", name, partial(method_checks.check_optimum, method, problem, expected, one))
        elif expected.monotone:
            yield Check("descent", name, partial(method_checks.check_descent, method, problem, one))


def problem_for(method: Algorithm, storage: str) -> Problem:
    """The problem for checks that need one alone, "csr" or "dense". Raises CheckFailed if the method accepts none."""
    for name in (*(f"{loss}-{storage}" for loss in PREFERRED), *ZOO):
        if name.endswith(storage) and takes(method, ZOO[name]):
            return ZOO[name]
    raise CheckFailed(
        f"method {method.name} accepts no loss of the zoo",
        expected=f"one of {', '.join(sorted({problem.loss.name for problem in ZOO.values()}))}",
        found=f"needs = {method.needs}",
        cause="a word in `needs` that no loss provides; `mpinewton losses` lists what losses provide",
    )
