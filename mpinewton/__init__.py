"""mpinewton: second-order distributed optimisation over MPI.

>>> import mpinewton
>>> result = mpinewton.minimize("dino", (X, y), loss="logistic", workers=4)  # doctest: +SKIP
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mpinewton import errors, estimators, testing
    from mpinewton.api import minimize, minimize_function
    from mpinewton.catalogue import losses, methods
    from mpinewton.data.pack import pack
    from mpinewton.fleet.fleet import Fleet
    from mpinewton.fleet.worker import Worker
    from mpinewton.losses.linear import LinearLoss
    from mpinewton.losses.loss import Loss
    from mpinewton.methods.support.linesearch import Backtracking
    from mpinewton.methods.support.method import Method, State
    from mpinewton.report.reading import read_run
    from mpinewton.settings import setting

__version__ = "0.1.0"
__all__ = [
    "Backtracking", "Fleet", "LinearLoss", "Loss", "Method", "State", "Worker", "__version__", "errors", "estimators",
    "losses", "methods", "minimize", "minimize_function", "pack", "read_run", "setting", "testing",
]  # fmt: skip
HOMES = {
    "minimize": "api", "minimize_function": "api",
    "Method": "methods.support.method", "State": "methods.support.method",
    "Backtracking": "methods.support.linesearch", "Fleet": "fleet.fleet", "Worker": "fleet.worker",
    "Loss": "losses.loss", "LinearLoss": "losses.linear", "setting": "settings", "pack": "data.pack",
    "read_run": "report.reading",
}  # fmt: skip
MODULES = ("errors", "estimators", "losses", "methods", "testing")  # the packages losses and methods can be called


def __getattr__(name: str) -> Any:
    # Imported when asked for: a worker under mpiexec, and `mpinewton --help`, need neither scipy.optimize nor h5py yet.
    if name in MODULES:
        return importlib.import_module(f"mpinewton.{name}")
    if name not in HOMES:
        raise AttributeError(f"module 'mpinewton' has no attribute {name!r}")
    return getattr(importlib.import_module(f"mpinewton.{HOMES[name]}"), name)


def __dir__() -> list[str]:
    return __all__
