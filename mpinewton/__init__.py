"""mpinewton: second-order distributed optimisation over MPI."""

__version__ = "0.1.0"
