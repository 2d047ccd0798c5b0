"""Random calls of the compiled kernels: right ones against numpy and scipy, wrong ones for errors in place of crashes.

`python fuzz_kernels.py EXTENSION COUNT` runs it on an extension built otherwise, for instance with sanitizers.
"""

from __future__ import annotations

import sys
from fractions import Fraction
from importlib.machinery import ExtensionFileLoader
from importlib.util import module_from_spec, spec_from_loader

import numpy as np
from scipy import sparse

from mpinewton.linalg.triangle import pack_triangle

LOSSES = ("logistic", "softmax", "softmax:reduced=true", "squared", "huber:delta=0.7", "poisson", "softplus")


def random_matrix(rng):
    """Sparse rows: few or many, short or long, with few or more than 2^16 features, with values of all kinds."""
    n, p = int(rng.choice([0, 1, 5, 255, 256, 257, 600])), int(rng.choice([1, 2, 9, 40, 9_000, 70_000]))
    entries = int(rng.integers(0, int(rng.choice([4, 80])) * n + 1))
    rows, columns = rng.integers(0, max(n, 1), entries), rng.integers(0, p, entries)
    if n and p > 40 and rng.random() < 0.5:  # one row that is much longer than the others
        rows, columns = np.append(rows, np.zeros(1500, int)), np.append(columns, np.arange(1500))
    X = sparse.coo_array((rng.standard_normal(len(rows)), (rows, columns)), (n, p)).tocsr()
    X.sum_duplicates()
    kind = rng.choice(["double", "single", "ones"])
    if kind == "ones":
        X.data[:] = 1.0
    return X.astype(np.float32 if kind == "single" else np.float64)


def close(found, truth, what):
    size = float(np.abs(truth).max(initial=0.0)) * max(1, np.size(truth)) ** 0.5
    np.testing.assert_allclose(found, truth, rtol=1e-12, atol=1e-13 * size, err_msg=what)


def check_products(rng, X):
    """Products with the rows against scipy: the bits where the order of the sums is the same."""
    from mpinewton.kernels import compiled, twins

    n, p = X.shape
    ours, theirs = compiled.SparseRows(X), twins.SparseRows(X)
    C = int(rng.choice([0, 1, 2, 3, 7, 8, 9, 10, 19]))
    columns = (C,) if C else ()
    v, r, h = rng.standard_normal((p, *columns)), rng.standard_normal((n, *columns)), rng.standard_normal(n)
    np.testing.assert_array_equal(ours.times(v), theirs.times(v))
    np.testing.assert_array_equal(ours.transpose_times(r), theirs.transpose_times(r))
    np.testing.assert_array_equal(ours.squares_transpose_times(r), theirs.squares_transpose_times(r))
    np.testing.assert_array_equal(ours.hvp(h, v), theirs.hvp(h, v))
    if p <= 40:
        H = ours.gram(h)
        np.testing.assert_array_equal(H, H.T)
        close(H, theirs.gram(h), "gram")
        np.testing.assert_array_equal(ours.gram(h, packed=True), H[np.triu_indices(p)])


def check_gram(rng):
    """X'diag(h)X of dense rows, narrow ones and others, against numpy."""
    from mpinewton.kernels import compiled

    n, p = int(rng.choice([0, 1, 3, 4, 255, 257, 600])), int(rng.choice([1, 2, 7, 8, 9, 40, 63, 64, 65]))
    X, h = rng.standard_normal((n, p)), rng.standard_normal(n) * rng.choice([0.0, 1.0], n)
    H = compiled.gram(X, h)
    np.testing.assert_array_equal(H, H.T)
    close(H, X.T @ (h[:, None] * X), "gram of dense rows")


def check_ritz(rng):
    """Eigenpairs in a subspace, alone and in a stack, against numpy's."""
    from mpinewton.kernels import compiled, twins

    b = int(rng.choice([1, 2, 5, 6, 6, 16, 17]))
    d, r = b + int(rng.integers(0, 30)), int(rng.integers(1, b + 1))
    Q = np.linalg.qr(rng.standard_normal((3, d, b)))[0]
    D = rng.standard_normal((3, d, d)) * 10.0 ** float(rng.integers(-140, 140))
    D += np.matrix_transpose(D)
    D[1] = 0.0 if rng.random() < 0.5 else D[1, :, :1] @ np.matrix_transpose(D[1, :, :1]) / np.linalg.norm(D[1])
    Y = D @ Q
    if rng.random() < 0.2:
        Y[2, 0, 0] = rng.choice([np.nan, np.inf])
    ours, theirs = (kernel.ritz(Q.copy(), Y.copy(), r) for kernel in (compiled, twins))
    for i in range(3):
        e, V, left, squares = (part[i] for part in ours)
        close(e, theirs[0][i], "Ritz values")
        if not np.isfinite(e).all():
            continue
        for part, own in zip(ours, compiled.ritz(Q[i].copy(), Y[i].copy(), r)):
            np.testing.assert_array_equal(part[i], own)
        close(np.sort(np.abs(e))[::-1], np.abs(e), "order")
        close(V.T @ V, np.eye(b), "orthonormal")
        close(Q[i].T @ V @ np.diag(e) @ V.T @ Q[i], Q[i].T @ Y[i], "eigenvectors")
        close(left + V * np.where(np.arange(b) < r, e, 0.0), Y[i] @ (Q[i].T @ V), "what is left")
        close(np.sqrt(squares), np.linalg.norm(left, axis=0), "squares")


def check_losses(rng, X, named):
    """A loss on the rows against its formulas in numpy: in one pass, by its terms, and along a line."""
    from mpinewton.data.shard import Shard
    from mpinewton.kernels import compiled
    from mpinewton.losses import make_loss
    from mpinewton.losses.formula import RowFormula
    from mpinewton.losses.linear import LinearModel

    n, p = X.shape
    loss = make_loss(named)
    classes = {"softmax": int(rng.integers(3, 13)), "logistic": 2}.get(loss.name)
    y = rng.integers(0, classes, n).astype(float) if classes else rng.poisson(2.0, n).astype(float)
    weight = rng.random(n) if rng.random() < 0.5 else None
    model = LinearModel(loss, Shard(X, y, weight, Fraction(1)), None if classes is None else tuple(range(classes)))
    w = rng.standard_normal(model.dim)
    W = w if model.outputs == 1 else w.reshape(p, -1)
    slow = RowFormula(loss, model.t, model.row_weight)
    fast = compiled.Formula(loss.kernel(model.t), model.outputs, model.t, model.row_weight)
    z = X @ W
    order = 2 if model.outputs == 1 and p <= 40 else 1
    for found, right in zip(fast.terms(z, slice(None), order), slow.terms(z, slice(None), order)):
        if right is not None:
            close(found, right, f"terms of {named}")
    close(fast.second(z), slow.second(z), f"second of {named}")
    steps, dz = rng.standard_normal(3), X @ rng.standard_normal(W.shape)
    close(fast.line(z, dz, steps), slow.line(z, dz, steps), f"line of {named}")
    logits = np.empty_like(z)
    f, g, H = compiled.SparseRows(X).evaluate(fast, W, logits, order)
    np.testing.assert_array_equal(logits, z)
    assert f == fast.terms(z, slice(None), 0)[0]
    np.testing.assert_array_equal(g, compiled.SparseRows(X).transpose_times(fast.terms(z, slice(None), 1)[1]))
    if H is not None:
        np.testing.assert_array_equal(H, compiled.SparseRows(X).gram(fast.terms(z, slice(None), 2)[2]))
        packed = compiled.SparseRows(X).evaluate(fast, W, logits, order, packed=True)[2]
        np.testing.assert_array_equal(packed, H[np.triu_indices(p)])


def check_group(rng, X, named):
    """Several shards and their losses in one call: the bits of one after the other."""
    from mpinewton.data.shard import Shard
    from mpinewton.losses import make_loss
    from mpinewton.losses.group import LinearGroup

    n = X.shape[0]
    loss, C = make_loss(named), int(rng.integers(3, 6))
    cuts = np.sort(rng.integers(0, n + 1, int(rng.integers(1, 5))))
    y, weight = rng.integers(0, C if "softmax" in named else 2, n).astype(float), rng.random(n)
    classes = tuple(range(C)) if "softmax" in named else (0.0, 1.0) if loss.classifies else None
    models = []
    for rows in np.split(np.arange(n), cuts):
        own = None if rng.random() < 0.5 else weight[rows]
        models.append(loss.on_shard(Shard(X[rows], y[rows], own), classes))
    group, d = LinearGroup.of(models), models[0].dim
    assert group is not None
    w, v, steps = rng.standard_normal(d), rng.standard_normal(d), rng.standard_normal(3)
    points, at = [model.at(w) for model in models], group.at(w)
    if rng.random() < 0.5:
        np.testing.assert_array_equal(at.z, np.concatenate([point.z for point in points]))
    if group.sums_hessians and X.shape[1] <= 40:
        check_hessian_sums(rng, group.at(w), points)
    for question in ("gradient", "value") if rng.random() < 0.5 else ("value", "gradient"):
        np.testing.assert_array_equal(getattr(at, question)(), [getattr(point, question)() for point in points])
    np.testing.assert_array_equal(at.hvp(v), [point.hvp(v) for point in points])
    some, V = [1, 0], rng.standard_normal((2, d, int(rng.integers(1, 9))))
    np.testing.assert_array_equal(at.hvps(V, some), [points[i].hvps(own) for i, own in zip(some, V)])
    ray, rays = at.along(v), [point.along(v) for point in points]
    np.testing.assert_array_equal(ray.losses(steps), [own.losses(steps) for own in rays])
    np.testing.assert_array_equal(ray.at(0.3).gradient(), [own.at(0.3).gradient() for own in rays])
    for own, point in zip(at.share(), points):
        assert own.value() == point.value()
        np.testing.assert_array_equal(own.z, point.z)
    np.testing.assert_array_equal(group.join(points).gradient(), at.gradient())


def check_hessian_sums(rng, at, points):
    """Sums of Hessians against the sums of whole ones; after each, the last sums are added up as often as it says."""
    diagonal, scales, merged, sums = rng.random(len(at.w)), rng.random(len(points)), [], []
    scales[rng.random(len(points)) < 0.2] = 0.0
    for scale, point in zip(scales, points):
        sums.append(scale * pack_triangle(point.hessian() + np.diag(diagonal)))
        merged.append(int(rng.integers(len(sums))))
        for _ in range(merged[-1]):
            last = sums.pop()
            sums[-1] = sums[-1] + last
    np.testing.assert_array_equal(at.hessian_sums(diagonal, scales, np.array(merged)), sums)
    np.testing.assert_array_equal(at.gradient(), [point.gradient() for point in points])


def spoiled(rng, value):
    """Something else in place of an argument."""
    if isinstance(value, np.ndarray):
        flat, top = value.ravel(), np.iinfo(value.dtype).max if value.dtype.kind == "i" else np.nan
        unaligned = np.frombuffer(bytes(8 * value.size + 1), dtype=np.uint8)[1:].view(np.float64)
        return [
            np.zeros(flat.size + 1, dtype=value.dtype), flat[:-1], flat[1:], flat.astype(np.float32),
            flat.astype(np.int16), np.repeat(flat, 2)[::2], flat.astype(value.dtype.newbyteorder()), None,
            3, "text", b"bytes", unaligned, np.full_like(flat, -1), np.full_like(flat, top), value.astype(object),
        ][int(rng.integers(15))]  # fmt: skip
    if isinstance(value, tuple):
        place = int(rng.integers(len(value)))
        return (*value[:place], spoiled(rng, value[place]), *value[place + 1 :]) if rng.random() < 0.9 else value[1:]
    return [None, -1, 0, 1, 2**31 - 1, 2**31, 2**62, 2**70, 1.5, float("nan"), "text", value][int(rng.integers(12))]


def call_wrongly(rng, X):
    """Calls with one argument spoiled: an exception, or a result where the argument is allowed; never a crash."""
    from mpinewton.kernels import rows

    n, p = X.shape
    matrix = rows.Matrix(X.indptr, X.indices, X.data, p)
    C = int(rng.integers(1, 4))
    number = int(rng.integers(6))
    outputs = C if number == 1 else 1
    labels = np.zeros(n, dtype=np.int64 if number == 1 else np.float64)
    loss = (number, 1.0, outputs, labels, np.zeros(n), np.ones(n), 1.0)
    small, k = p <= 40, int(rng.integers(1, 4))
    many, losses, zs, g = (matrix,) * k, (loss,) * k, np.zeros((k, n, outputs)), np.zeros((k, p, outputs))
    merged = np.minimum(rng.integers(0, 2, k), np.arange(k))
    triangles = np.zeros((k - merged.sum(), p * (p + 1) // 2)) if small else None
    sums = np.zeros(p), np.ones(k), merged, triangles
    H = [np.zeros((k, p, p)), np.zeros((k, p * (p + 1) // 2)), sums][int(rng.integers(3))] if small else None
    calls = [
        (rows.Matrix, X.indptr, X.indices, X.data, p),
        (rows.times, many, np.zeros((p, C)), np.zeros((k, n, C)), C),
        (matrix.transpose_times, np.zeros((n, C)), np.zeros((p, C)), C),
        (matrix.squares_transpose_times, np.zeros((n, C)), np.zeros((p, C)), C),
        (rows.hvp, many, np.zeros((k, n)), np.zeros((p, C)), np.zeros((k, p, C)), C, False),
        (rows.hvp, many, np.zeros((k, n)), np.zeros((k, p, C)), np.zeros((k, p, C)), C, True),
        (matrix.gram, np.zeros(n), np.zeros((p, p) if small else p)),
        (rows.evaluate, many, losses, np.zeros((p, outputs)), zs, np.zeros(k), g, H),
        (rows.terms, losses, zs, np.zeros(k), zs.copy(), zs.copy()),
        (rows.line, losses, zs, zs.copy(), 2, np.zeros(2), np.zeros((k, 2))),
        (rows.elementary, "exp", n, np.zeros(n), np.zeros(n)),
        (rows.ritz, np.ones((k, 4, C)), np.ones((k, 4, C)), np.ones((k, C)), np.ones((k, C)), 4, C, 1),
        (rows.level, "none"),
    ]
    function, *arguments = calls[int(rng.integers(len(calls)))]
    place = int(rng.integers(len(arguments)))
    arguments[place] = spoiled(rng, arguments[place])
    try:
        made = function(*arguments)
    except (ValueError, TypeError, BufferError, OverflowError, MemoryError):
        return False
    if isinstance(made, rows.Matrix):  # whatever was accepted must be safe to use
        for width in (1, 3):
            for good in (n, p):
                try:
                    rows.times((made,), np.ones(good * width), np.empty(n * width), width)
                except ValueError:
                    continue
    return True


def fuzz(seed):
    """All of it once. Returns how many wrong calls were refused."""
    rng = np.random.default_rng(seed)
    X = random_matrix(rng)
    check_products(rng, X)
    check_gram(rng)
    check_ritz(rng)
    check_losses(rng, X, LOSSES[seed % len(LOSSES)])
    check_group(rng, X, LOSSES[seed % len(LOSSES)])
    return sum(not call_wrongly(rng, X) for _ in range(40))


if __name__ == "__main__":
    path, count = sys.argv[1], int(sys.argv[2])
    loader = ExtensionFileLoader("mpinewton.kernels.rows", path)
    extension = module_from_spec(spec_from_loader(loader.name, loader))
    loader.exec_module(extension)
    sys.modules[loader.name] = extension
    from mpinewton import kernels

    kernels.rows = extension
    np.seterr(all="ignore")
    refused = sum(fuzz(seed) for seed in range(count))
    from mpinewton.kernels import compiled

    assert compiled.rows is extension
    print(f"{count} matrices, {refused} wrong calls refused")
