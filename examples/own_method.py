"""A method of your own: gradient steps of Barzilai and Borwein, safeguarded by Armijo's rule.

mpinewton run examples/own_method.py:BarzilaiBorwein FOLDER --set first=0.5
mpiexec -n 3 python examples/own_method.py
"""

from dataclasses import dataclass, replace

import mpinewton as mn


@dataclass(frozen=True, eq=False, kw_only=True)
class BarzilaiBorweinState(mn.State):
    """What is remembered from one step to the next, beside w, loss and gradient."""

    length: float  # of the next trial step, as a multiple of the gradient


@dataclass(frozen=True)
class BarzilaiBorwein(mn.Method[BarzilaiBorweinState]):
    """Barzilai and Borwein (1988), safeguarded: any smooth loss."""

    first: float = mn.setting(1.0, gt=0, help="length of the first step, as a multiple of the gradient")
    search: mn.Backtracking = mn.setting(factory=mn.Backtracking, help="line search")

    name = "barzilai-borwein"

    def start(self, fleet, w):  # on the driver
        f, g = fleet.mean(go_to, w)
        return BarzilaiBorweinState(w=w, loss=f, gradient=g, length=self.first)

    def step(self, fleet, now):  # on the driver
        p = -now.length * now.gradient
        a = self.search(fleet, now, p, last=1.0)
        if not a:
            return replace(now, trouble="the line search found no step that lowers the objective")
        f, g = fleet.mean(advance, a)
        s, y = a * p, g - now.gradient
        length = float(s @ s / (s @ y)) if s @ y > 0 else now.length
        return BarzilaiBorweinState(w=now.w + s, loss=f, gradient=g, step=a * now.length, length=length)


def go_to(worker, w):  # on every worker; the replies are averaged
    worker.move_to(w)
    return worker.value(), worker.gradient()


def advance(worker, step):  # along the direction of the line search: one float travels, not d
    worker.advance(step)
    return worker.value(), worker.gradient()


if __name__ == "__main__":
    import numpy as np
    from mpi4py import MPI

    comm = MPI.COMM_WORLD
    rng = np.random.default_rng(0)
    X = rng.standard_normal((300, 10))
    y = np.where(X[:, 0] + rng.standard_normal(300) > 0, "yes", "no")
    mine = slice(comm.rank, None, comm.size)
    for method in (BarzilaiBorwein(), "gradient-descent", "lbfgs"):
        result = mn.minimize(method, (X[mine], y[mine]), loss="logistic", comm=comm)
        if comm.rank == 0:
            print(f"{getattr(method, 'name', method)}: {result.nit} iterations, {result.message}")
