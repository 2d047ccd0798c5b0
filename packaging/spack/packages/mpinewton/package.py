# ruff: noqa: F403, F405
# Copyright mpinewton developers. Licence: BSD-3-Clause.
"""Spack package: spack repo add packaging/spack, then spack install mpinewton."""

from spack.package import *


class Mpinewton(PythonPackage):
    """Second-order distributed optimisation over MPI: a driver, workers, and a ledger of every bit that is sent."""

    # There is no release archive yet. Install from a checkout: spack dev-build mpinewton@0.1.0
    license("BSD-3-Clause")

    version("0.1.0")

    variant("plot", default=False, description="Draw figures")
    variant("sklearn", default=False, description="Estimators for scikit-learn")

    depends_on("python@3.11:", type=("build", "run"))
    depends_on("py-setuptools@69:", type="build")
    depends_on("mpi", type="run")
    depends_on("py-click@8.1:", type=("build", "run"))
    depends_on("py-h5py@3.11:", type=("build", "run"))
    depends_on("py-mpi4py@4.0:", type=("build", "run"))
    depends_on("py-msgspec@0.19:", type=("build", "run"))
    depends_on("py-numpy@2.0:", type=("build", "run"))
    depends_on("py-scipy@1.13:", type=("build", "run"))
    depends_on("py-threadpoolctl@3.5:", type=("build", "run"))
    depends_on("py-tomli-w@1.1:", type=("build", "run"))
    depends_on("py-matplotlib@3.9:", type=("build", "run"), when="+plot")
    depends_on("py-scikit-learn@1.5:", type=("build", "run"), when="+sklearn")
