"""The driver calls, workers answer: logical workers, in one process or behind MPI, and the ledger of what crosses."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mpinewton.fleet.calls import batched
    from mpinewton.fleet.fleet import Fleet
    from mpinewton.fleet.ledger import Entry, Ledger
    from mpinewton.fleet.plan import Plan
    from mpinewton.fleet.problem import Problem
    from mpinewton.fleet.worker import Worker

__all__ = ["Entry", "Fleet", "Ledger", "Plan", "Problem", "Worker", "batched"]


def __getattr__(name: str) -> Any:
    # Imported when asked for: `launch` and `session` must run before numpy, which reads its number of threads once.
    homes = {"Entry": "ledger", "Ledger": "ledger", "Fleet": "fleet", "Plan": "plan", "Problem": "problem"}
    home = (homes | {"Worker": "worker", "batched": "calls"}).get(name)
    if home is None:
        raise AttributeError(f"module 'mpinewton.fleet' has no attribute {name!r}")
    return getattr(importlib.import_module(f"mpinewton.fleet.{home}"), name)
