"""Settings that have an effect only with others are refused where they have none."""

from __future__ import annotations

from dataclasses import dataclass

import msgspec
import pytest

from mpinewton.errors import ConfigError
from mpinewton.settings import Configured, build, describe, setting


@dataclass(frozen=True)
class Solver(Configured):
    name = "solver"
    kind: str = setting("cg", help="the kind")
    adaptive: bool = setting(False, help="whether it adapts")
    limit: int = setting(50, help="iterations", only_if={"kind": ("cg", "lsmr")})
    rate: float = setting(0.5, help="rate", only_if={"kind": "cg", "adaptive": True})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "kind=exact,limit=9",
            "limit = 9 has no effect with kind = 'exact'; leave limit out, or set kind to cg or lsmr",
        ),
        ("rate=0.1", "rate = 0.1 has no effect with adaptive = False; leave rate out, or set adaptive to true"),
        ("kind=lsmr,adaptive=true,rate=0.1", "rate = 0.1 has no effect with kind = 'lsmr'"),
    ],
)
def test_a_setting_without_effect_is_refused(text, message):
    with pytest.raises(ConfigError, match=message):
        build(Solver, text, "solver")


@pytest.mark.parametrize("text", ["", "kind=exact", "kind=lsmr,limit=9", "adaptive=true,rate=0.1"])
def test_a_complete_list_of_settings_is_accepted_again(text):
    solver = build(Solver, text, "solver")
    assert msgspec.convert(msgspec.to_builtins(solver), Solver) == solver


def test_the_description_names_the_condition():
    assert describe(Solver)[2] == ("limit", "50", "iterations (a whole number, only with kind=cg|lsmr)")
