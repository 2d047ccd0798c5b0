"""NEWTON-LEARN: what NL1, NL2 and CNL share, the coefficients of the Hessian learnt a few at a time."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from mpinewton.arrays import NAN, Array, Bytes
from mpinewton.compress.bits import Bits, joined_entries, pack_bits, pack_rows, unpack_rows, width_of
from mpinewton.errors import ConfigError
from mpinewton.fleet import Fleet, Problem, Worker
from mpinewton.linalg.cholesky import with_rows
from mpinewton.losses import Loss
from mpinewton.methods.support.known_rows import KnownRowsState, all_rows, first_numbers, made_dense, told
from mpinewton.methods.support.method import Method
from mpinewton.methods.support.tasks import linear_model
from mpinewton.settings import setting

Lesson = tuple[Array, Bytes, NDArray[Any]]  # changes of coefficients; numbers and rows, packed; entries of rows


def _unknown() -> Array:
    return np.zeros((0, 0))


@dataclass(frozen=True, eq=False)
class LearningState(KnownRowsState):
    """An iterate, and the curvature as far as the driver has learnt it."""

    H: Array = field(default_factory=_unknown)  # sum of what the rows count times h_ij a_ij a_ij', no ridge; (d, d)
    factor: Array = field(default_factory=_unknown)  # a Cholesky factor of an earlier H, for `solve_with_stale_factor`
    value: float = NAN  # objective at w, where a search has found it


L = TypeVar("L", bound=LearningState)


@dataclass(frozen=True)
class Learning(Method[L]):
    """The Hessian is sum_ij h_ij(x) a_ij a_ij': workers and driver keep h_ij^k, and draw a few of them nearer a round.

    Worker i sends C(h_i(x^k) - h_i^k), and h_i^{k+1} = h_i^k + eta C(...). With eta = 1/(omega + 1) the chosen
    coefficients become those of x^k to the last bit; with any allowed eta h^k stays between past h(x), so that the
    paper's [.]_+ never acts. What travels: `random` numbers and coins come from the worker's seed, which the driver
    shares, so that a choice costs nothing; `top` sends its numbers in ceil(log2 m) bits each.
    """

    r: int = setting(1, ge=1, help="coefficients a worker sends in a round")
    eta: float | None = setting(None, gt=0, le=1, help="learning rate; none: 1/(omega + 1) = r p/m if random, 1 if top")
    choice: Literal["random", "top"] = setting(
        "random", help="top: those that change the Hessian most, |h(x) - h| |a|^2"
    )
    p: float = setting(
        1.0,
        gt=0,
        le=1,
        help="chance of a message; the coin is one a worker and round, and eta C is 1/p of a whole one's",
    )
    option: Literal[1, 2] = setting(
        1,
        help='1: rows travel with their coefficients; 2: the driver is supposed to know all rows and h^0, and nothing is charged for that: as the paper has it, "if server knows a_ij"',
    )
    rows: Literal["sparse", "dense"] = setting(
        "sparse", help="sparse: as stored, each row once; dense: d floats, every time (paper)"
    )
    h0: Literal["quarter", "exact"] = setting(
        "quarter",
        help="quarter: h^0 is the loss's bound of h, 1/4 for logistic, and H^0 majorises; exact: h(x^0). h^0 = 0 would send no H^0, but its first step is |g|/l2 long, and it does not come back.",
    )

    needs: ClassVar[tuple[str, ...]] = ("gradient", "hessian", "second_derivatives")
    rows_travel = True

    def validate_loss(self, loss: Loss) -> None:
        super().validate_loss(loss)
        if self.h0 == "quarter":
            self.need(loss, "hessian_bound", "h0=quarter", "h0=exact needs none")

    def validate(self, problem: Problem) -> None:
        super().validate(problem)
        sizes = [rows for rows in problem.rows if rows] or [1]
        if self.r > min(sizes):
            raise ConfigError(
                f"{self.name}: r = {self.r}, but a worker has only {min(sizes)} rows to choose from; "
                f"r can be 1 to {min(sizes)}, or pack the data for fewer workers"
            )
        most = 1.0 if self.choice == "top" else self.r * self.p / max(sizes)
        if self.eta is not None and self.eta > most * (1 + 1e-12):
            raise ConfigError(
                f"{self.name}: eta = {self.eta!r}, but it must be at most 1/(omega + 1) = {most:.6g} for r = {self.r}, "
                f"p = {self.p:g} and {max(sizes)} rows on a worker; leave it out to have just that"
            )

    # -- on the driver ------------------------------------------------------------------------------------------------

    def informed(self, fleet: Fleet, now: L) -> L:
        """The state that knows the rows it is supposed to know: all, or none."""
        total = int(sum(fleet.problem.rows))
        now = replace(now, place=np.full(total, -1))
        if self.option == 1:
            return now
        with fleet.uncharged():
            return told(now, np.arange(total), all_rows(fleet))

    def charged(self, fleet: Fleet) -> AbstractContextManager[None]:
        """Where H^0 is sent: charged, unless the driver is supposed to know it."""
        return nullcontext() if self.option == 1 else fleet.uncharged()

    def told_first(self, w: Array) -> tuple[Array, ...]:
        """What workers must be told for h^0: x^0, or nothing where it does not matter."""
        return (w,) if self.h0 == "exact" else ()

    def learnt(self, fleet: Fleet, now: L, lessons: Sequence[Lesson]) -> L:
        """The state after the lessons: H and the rows known."""
        size, first = fleet.dim, first_numbers(fleet)
        chosen, numbers, parts = [], [], []
        for i, (c, data, values) in enumerate(lessons):
            bits, m = Bits(data), fleet.problem.rows[i]
            top = self.choice == "top"
            J = bits.take(len(c), width_of(m)) if top else drawn(fleet.rng_of(i), m, self.r, self.p)
            chosen.append(first[i] + J)
            new = J if self.repeats else J[now.place[chosen[-1]] < 0]
            if len(new):
                numbers.append(first[i] + new)
                parts.append(unpack_rows(bits, values, len(new), size))
        if not parts and not any(map(len, chosen)):
            return now
        if self.repeats:
            X = joined_entries(parts).matrix(size)
        else:
            now = told(now, np.concatenate(numbers), joined_entries(parts)) if parts else now
            X = now.known(np.concatenate(chosen), size)
        return replace(now, H=with_rows(now.H, X, np.concatenate([c for c, _, _ in lessons])))

    @property
    def repeats(self) -> bool:
        """Whether a row is sent whenever its coefficient is."""
        return self.rows == "dense" and self.option == 1

    # -- on the workers -----------------------------------------------------------------------------------------------

    def first_h(self, worker: Worker, *w: Array) -> Array:
        """h_i^0, shape (m,), which the worker keeps from here on; x^0 is told it where it matters."""
        model = linear_model(worker)
        if w:
            worker.move_to(*w)
        h = model.loss.hessian_bound(model.t) if self.h0 == "quarter" else worker.point.second_derivatives()
        worker.memory |= {"h": h, "sent": np.full(worker.rows, float(self.option == 2))}
        return h

    def lesson(self, worker: Worker) -> Lesson:
        """What the worker tells of its coefficients where it stands; r floats, and rows that are new to the driver."""
        model, h, m = linear_model(worker), worker.memory["h"], worker.rows
        now = worker.point.second_derivatives()
        change = now - h
        J = drawn(worker.rng(), m, self.r, self.p)
        if self.choice == "top" and len(J):
            J = np.argsort(-np.abs(change) * (model.row_weight_array * model.rows.squares), kind="stable")[: self.r]
        # One rate on either side of the chance: eta (omega + 1) of the difference, all of it by default.
        rate = 1.0 if self.eta is None else self.eta if self.choice == "top" else self.eta * m / (self.r * self.p)
        after = h.copy()
        after[J] = now[J] - (1.0 - min(1.0, rate)) * change[J]
        worker.memory["h"] = after
        c = worker.share * model.row_weight_array[J] * (after[J] - h[J])
        numbers = [(J, width_of(m))] if self.choice == "top" else []
        if self.repeats:
            return c, pack_bits(*numbers), made_dense(worker, J)
        sent = worker.memory["sent"].copy()
        new = J[sent[J] == 0]
        sent[new] = 1
        worker.memory["sent"] = sent
        fields, values = pack_rows(model.rows.X, new)
        return c, pack_bits(*numbers, *fields), values


def drawn(rng: np.random.Generator, m: int, r: int, p: float) -> NDArray[np.int64]:
    """r of m rows with chance p, none else: drawn alike by the worker and, from the same numbers, by the driver."""
    if m == 0 or rng.random() >= p:
        return np.zeros(0, np.int64)
    return rng.choice(m, r, replace=False, shuffle=False)
