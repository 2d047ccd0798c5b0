"""NEWTON-LEARN: what NL1, NL2 and CNL share. Workers send a few coefficients of the Hessian in every round."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from mpinewton.arrays import Array, Bytes, Integers
from mpinewton.compress.bits import Bits, join_entries, pack_bits, pack_rows, unpack_rows, width_of
from mpinewton.errors import ConfigError
from mpinewton.fleet import Fleet, Problem, Worker
from mpinewton.linalg.cholesky import add_outer_products
from mpinewton.losses import Loss
from mpinewton.methods.support.known_rows import KnownRowsState, add_rows, dense_rows, first_row_numbers, gather_rows
from mpinewton.methods.support.method import Method
from mpinewton.methods.support.tasks import linear_model
from mpinewton.settings import setting

Update = tuple[Array, Bytes, NDArray[Any]]  # changes of coefficients; packed row numbers and features; row entries


@dataclass(frozen=True, eq=False, kw_only=True)
class LearningState(KnownRowsState):
    """The weights, the rows that the driver knows, and its estimate of the Hessian.

    Attributes
    ----------
    H : array, shape (d, d)
        Sum over all rows of row weight times h_ij a_ij a_ij', without l2.
    factor : array, shape (d, d), or None
        Cholesky factor of an earlier matrix, for `solve_with_stale_factor`; None where there is none.
    value : float or None
        Objective at w, where the method needs it; else None.
    """

    H: Array
    factor: Array | None
    value: float | None


L = TypeVar("L", bound=LearningState)


@dataclass(frozen=True)
class Learning(Method[L]):
    """Base of the NEWTON-LEARN methods (Islamov, Qian and Richtarik 2021): the Hessian is sum_ij h_ij(x) a_ij a_ij'.

    Workers and driver keep estimates h_ij^k. In every round worker i sends C(h_i(x^k) - h_i^k), r coefficients, or all
    where it has fewer rows, and h_i^{k+1} = h_i^k + eta C(...); with them the rows a_ij whose h_ij changed. With eta =
    1/(omega + 1), which is r p/m for choice=random and 1 for top, the coefficients sent become exactly those of x^k.
    For every allowed eta, h^k lies between past values of h(x), so the projection [.]_+ of the paper never acts. With
    choice=random the driver draws the same row numbers from the worker's seed, so they are not sent; with choice=top
    they are sent in ceil(log2 m) bits each.
    """

    r: int = setting(1, ge=1, help="number of coefficients that a worker sends in a round; at most all its rows")
    eta: float | None = setting(None, gt=0, le=1, help="learning rate of the coefficients; none: 1/(omega + 1)")
    choice: Literal["random", "top"] = setting("random", help="coefficients to send; top: the largest |h(x) - h| |a|^2")
    p: float = setting(1.0, gt=0, le=1, help="probability that a worker sends coefficients in a round")
    option: Literal[1, 2] = setting(1, help="1: rows are sent; 2: the driver knows all rows and h^0 at no charge")
    rows: Literal["sparse", "dense"] = setting(
        "sparse", only_if={"option": 1}, help="rows are sent as stored, each one once; or d floats, every time (paper)"
    )
    hessian_start: Literal["quarter", "exact"] = setting(
        "quarter", alias="h0", help="h^0; quarter: the loss's bound on h, with which H^0 majorises; exact: h(x^0)"
    )

    needs: ClassVar[tuple[str, ...]] = ("gradient", "hessian", "second_derivatives", "rows")
    rows_travel = True

    def validate_loss(self, loss: Loss) -> None:
        super().validate_loss(loss)
        if self.hessian_start == "quarter":
            self.need(loss, "hessian_bound", "hessian_start=quarter", "use hessian_start=exact")

    def validate(self, problem: Problem) -> None:
        super().validate(problem)
        most = 1.0 if self.choice == "top" else self.r * self.p / max(self.r, *problem.rows)
        if self.eta is not None and self.eta > most * (1 + 1e-12):
            raise ConfigError(
                f"{self.name}: eta = {self.eta!r}: expected at most 1/(omega + 1) = {most:.6g} for r = {self.r}, "
                f"p = {self.p:g} and {max(problem.rows)} rows on a worker; leave eta out to use this value"
            )

    # -- on the driver ------------------------------------------------------------------------------------------------

    def initial_rows(self, fleet: Fleet) -> dict[str, Any]:
        """The fields of `KnownRowsState` at the start: all rows are known with option=2, none with option=1."""
        total = int(sum(fleet.problem.rows))
        if self.option == 1:
            return {"place": np.full(total, -1), **join_entries([])._asdict()}
        with fleet.uncharged():
            return {"place": np.arange(total), **gather_rows(fleet)._asdict()}

    def setup(self, fleet: Fleet) -> AbstractContextManager[None]:
        """Context in which H^0 is sent: charged with option=1, uncharged with option=2."""
        return nullcontext() if self.option == 1 else fleet.uncharged()

    def setup_arguments(self, w: Array) -> tuple[Array, ...]:
        """What workers need for h^0: x^0 with hessian_start=exact, nothing with quarter."""
        return (w,) if self.hessian_start == "exact" else ()

    def update_hessian(self, fleet: Fleet, now: L, updates: Sequence[Update]) -> L:
        """The state with the coefficients and rows that the workers sent; `updates` holds one update per worker."""
        dim, first, top = fleet.dim, first_row_numbers(fleet), self.choice == "top"
        chosen, numbers, parts = [], [], []
        for i, (c, data, values) in enumerate(updates):
            bits, m = Bits(data), fleet.problem.rows[i]
            J = bits.take(len(c), width_of(m)) if top else draw_rows(fleet.rng_of(i), m, self.r, self.p)
            J = J[c != 0]
            chosen.append(first[i] + J)
            new = J if self.resends_rows else J[now.place[chosen[-1]] < 0]
            if len(new):
                numbers.append(first[i] + new)
                parts.append(unpack_rows(bits, values, len(new), dim))
        if not any(map(len, chosen)):
            return now
        if self.resends_rows:
            X = join_entries(parts).matrix(dim)
        else:
            now = add_rows(now, np.concatenate(numbers), join_entries(parts)) if parts else now
            X = now.select_rows(np.concatenate(chosen), dim)
        return replace(now, H=add_outer_products(now.H, X, np.concatenate([c[c != 0] for c, _, _ in updates])))

    @property
    def resends_rows(self) -> bool:
        """Whether a row is sent again with each of its coefficients."""
        return self.rows == "dense" and self.option == 1

    # -- on the workers -----------------------------------------------------------------------------------------------

    def initial_coefficients(self, worker: Worker, *w: Array) -> Array:
        """h_i^0, shape (m,), which the worker keeps in its memory; `w` as from `setup_arguments`."""
        model = linear_model(worker)
        if w:
            worker.move_to(*w)
        quarter = self.hessian_start == "quarter"
        h = model.loss.hessian_bound(model.t) if quarter else worker.point.second_derivatives()
        worker.memory |= {"h": h, "sent": np.full(worker.rows, float(self.option == 2))}
        return h

    def coefficient_update(self, worker: Worker) -> Update:
        """Changes of at most r coefficients, r floats, and the changed rows that the driver does not know yet."""
        model, h, m = linear_model(worker), worker.memory["h"], worker.rows
        now = worker.point.second_derivatives()
        change = now - h
        J = draw_rows(worker.rng(), m, self.r, self.p)
        if self.choice == "top" and len(J):
            J = np.argsort(-np.abs(change) * (model.row_weight_array * model.rows.squares), kind="stable")[: self.r]
        # The part of the difference that a message makes up for: eta (omega + 1), which is 1 by default.
        eta, random = 1.0 if self.eta is None else self.eta, self.choice == "random"
        rate = eta * max(m, self.r) / (self.r * self.p) if random else eta
        after = h.copy()
        after[J] = now[J] - (1.0 - min(1.0, rate)) * change[J]
        worker.memory["h"] = after
        c = worker.share * model.row_weight_array[J] * (after[J] - h[J])
        numbers = [(J, width_of(m))] if self.choice == "top" else []
        if self.resends_rows:
            return c, pack_bits(*numbers), dense_rows(worker, J[c != 0])
        J, sent = J[c != 0], worker.memory["sent"].copy()
        new = J[sent[J] == 0]
        sent[new] = 1
        worker.memory["sent"] = sent
        fields, values = pack_rows(model.rows.X, new)
        return c, pack_bits(*numbers, *fields), values


def draw_rows(rng: np.random.Generator, m: int, r: int, p: float) -> Integers:
    """With probability p, min(r, m) of m rows without replacement; else none. Equal rngs draw equal rows."""
    if m == 0 or rng.random() >= p:
        return np.zeros(0, np.int64)
    return rng.choice(m, min(r, m), replace=False, shuffle=False)
