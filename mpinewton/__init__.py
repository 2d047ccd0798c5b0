"""mpinewton: second-order distributed optimisation over MPI.

>>> import mpinewton
>>> result = mpinewton.minimize("dino", (X, y), loss="logistic", workers=4)  # doctest: +SKIP
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mpinewton.api import minimize

__version__ = "0.1.0"
__all__ = ["__version__", "minimize"]


def __getattr__(name: str) -> Any:
    # Imported when asked for: a worker under mpiexec, and `mpinewton --help`, need neither scipy.optimize nor h5py yet.
    if name == "minimize":
        from mpinewton.api import minimize

        return minimize
    raise AttributeError(f"module 'mpinewton' has no attribute {name!r}")
