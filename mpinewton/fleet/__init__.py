"""The driver calls, workers answer: logical workers, in one process or behind MPI, and the ledger of what crosses."""

from mpinewton.fleet.base import Fleet
from mpinewton.fleet.ledger import Entry, Ledger
from mpinewton.fleet.plan import Plan
from mpinewton.fleet.worker import Worker

__all__ = ["Entry", "Fleet", "Ledger", "Plan", "Worker"]
