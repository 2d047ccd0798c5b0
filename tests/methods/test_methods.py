"""Every method, check by check as `check_method` makes them, on every problem of the zoo that it accepts."""

from __future__ import annotations

from functools import partial

import pytest
from variants import SLOW, VARIANTS, Variant, marks

from mpinewton.methods import METHODS
from mpinewton.methods.settings import make_method, parse_settings
from mpinewton.testing.methods import Check, checks, problem_for
from mpinewton.testing.run_checks import check_bits, check_cost

# What `check_method` tests, check by check; costs have a test of their own. One variant of each method: on every loss,
# in CSR on five workers, and on these two, dense on one. The other variants: on a few, and one number of ranks.
# Storage, weights and workers are crossed in the tests of rows and fleets; a softmax without its last column is
# another loss, but no other task for a method that takes softmax.
DENSE = ("logistic-dense", "softmax-dense")
FEW = ("logistic-csr", "poisson-csr", "softplus-csr")
REDUCED = ("newton", "lbfgs", "newton-cg", "auto")


def checks_of(variant: str, v: Variant) -> list[Check]:
    """The checks of a variant."""
    whole = variant == v.method
    found = checks(v.made(), v.expected, dense=whole)

    def kept(check: Check) -> bool:
        if check.name == "cost" or (check.where.endswith("sorted by label") and not whole):
            return False
        chosen = check.where in DENSE or check.where.endswith("-csr") if whole else check.where in FEW
        if check.where == "softmax-reduced-csr":
            chosen = variant in REDUCED
        return chosen or check.name not in ("optimum", "descent")

    def shortened(check: Check) -> Check:
        few = check.name == "bits" and (not whole or v.method in SLOW)
        return check._replace(run=partial(check_bits, v.made(), problem_for(v.made(), "csr"), (5,))) if few else check

    return [shortened(check) for check in found if kept(check)]


CHECKS = {variant: checks_of(variant, v) for variant, v in VARIANTS.items()}


def test_every_method_is_tried():
    for name in METHODS:
        assert VARIANTS[name].method == name, "a variant has the name of the method"
        made = {"choice"} if name == "auto" else {"needs", "states", "resumption", "bits", "optimum"}
        assert {check.name for check in CHECKS[name]} >= {"settings", *made}


def cases():
    for variant, found in CHECKS.items():
        for check in found:
            slow = marks(variant) or ([pytest.mark.slow] if check.where == "softmax-reduced-csr" else [])
            where = check.where.replace(", ", "-").replace(" ", "-")
            yield pytest.param(check, id=f"{variant}-{check.name}-{where}", marks=slow)


@pytest.mark.parametrize("check", list(cases()))
def test_method(check):
    check.run()


@pytest.mark.parametrize("name", [name for name in METHODS if name != "auto"])
def test_costs_are_what_the_docstring_says(name):
    method = make_method(name, {})
    assert method.cost is not None
    assert check_cost(method, problem_for(method, "dense"), VARIANTS[name].warm_up).endswith("as declared")


def test_the_word_none_switches_a_part_off_wherever_it_is_written():
    for settings in ({"search": None}, {"search": "none"}, parse_settings(["search=none"])):
        assert make_method("newton", settings).search is None
