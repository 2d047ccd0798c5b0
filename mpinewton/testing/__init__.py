"""Checks of methods and losses, and the zoo of tiny problems that they run on."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mpinewton.testing.methods import check_method
    from mpinewton.testing.report import CheckFailed, Report

__all__ = ["CheckFailed", "Report", "check_loss", "check_method"]


def __getattr__(name: str) -> Any:
    homes = {"check_loss": "losses", "check_method": "methods", "CheckFailed": "report", "Report": "report"}
    if name not in homes:
        raise AttributeError(f"module 'mpinewton.testing' has no attribute {name!r}")
    return getattr(importlib.import_module(f"mpinewton.testing.{homes[name]}"), name)
