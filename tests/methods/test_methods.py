"""Every method, check by check as `check_method` makes them, on every problem of the zoo that it accepts."""

from __future__ import annotations

import pytest
from variants import CHECKS, VARIANTS, marks

from mpinewton.methods import METHODS
from mpinewton.methods.settings import make_method, parse_settings
from mpinewton.testing.methods import problem_for
from mpinewton.testing.run_checks import check_cost


def test_every_method_is_tried():
    for name in METHODS:
        assert VARIANTS[name].method == name, "a variant has the name of the method"
        made = {"choice"} if name == "auto" else {"needs", "states", "resumption", "bits", "optimum"}
        assert {check.name for check in CHECKS[name]} >= {"settings", *made}


def cases():
    for variant, checks in CHECKS.items():
        for check in checks:
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
