/* Loops over the stored entries of rows first..end-1 of a sparse matrix.
 *
 * Included once for every type of index and value: NAME(f) names the functions, INDEX is the type of an index, and
 * VALUE(k) is the value of entry k as a double. Arrays of rows start at row `first`. Sums are sequential.
 */

/* `columns` columns of x v, for one row x with entries from..to-1. */
static inline void NAME(times_row)(const INDEX *at, const VALUES *x, int64_t from, int64_t to, Py_ssize_t C,
                                   const double *v, double *out, int columns)
{
    double sums[COLUMNS] = {0.0};
    (void)x;
    for (int64_t k = from; k < to; k++) {
        const double *row = v + (Py_ssize_t)at[k] * C;
        for (int c = 0; c < columns; c++)
            sums[c] += VALUE(k) * row[c];
    }
    for (int c = 0; c < columns; c++)
        out[c] = sums[c];
}

/* out = X v, v (p, C), out (rows, C). */
static void NAME(times)(const Matrix *m, Py_ssize_t first, Py_ssize_t end, Py_ssize_t C, const double *v, double *out)
{
    const INDEX *at = m->indices;
    const VALUES *x = m->values.buf;
    for (Py_ssize_t i = first; i < end; i++, out += C) {
        const int64_t from = m->starts[i], to = m->starts[i + 1];
        Py_ssize_t c = 0;
        for (; c + 8 <= C; c += 8)
            NAME(times_row)(at, x, from, to, C, v + c, out + c, 8);
        for (; c + 6 <= C; c += 6)
            NAME(times_row)(at, x, from, to, C, v + c, out + c, 6);
        for (; c + 2 <= C; c += 2)
            NAME(times_row)(at, x, from, to, C, v + c, out + c, 2);
        if (c < C)
            NAME(times_row)(at, x, from, to, C, v + c, out + c, 1);
    }
}

/* out += x'r or x.^2'r for `columns` columns of r, as above. */
static inline void NAME(add_row)(const INDEX *at, const VALUES *x, int64_t from, int64_t to, Py_ssize_t C, int squares,
                                 const double *r, double *out, int columns)
{
    double part[COLUMNS];
    (void)x;
    for (int c = 0; c < columns; c++)
        part[c] = r[c];
    for (int64_t k = from; k < to; k++) {
        double *row = out + (Py_ssize_t)at[k] * C;
        for (int c = 0; c < columns; c++)
            row[c] += (squares ? VALUE(k) * VALUE(k) : VALUE(k)) * part[c];
    }
}

/* out += X'r, r (rows, C), out (p, C); with `squares`, out += X.^2'r. */
static void NAME(add)(const Matrix *m, Py_ssize_t first, Py_ssize_t end, Py_ssize_t C, int squares, const double *r,
                      double *out)
{
    const INDEX *at = m->indices;
    const VALUES *x = m->values.buf;
    for (Py_ssize_t i = first; i < end; i++, r += C) {
        const int64_t from = m->starts[i], to = m->starts[i + 1];
        Py_ssize_t c = 0;
        for (; c + 8 <= C; c += 8)
            NAME(add_row)(at, x, from, to, C, squares, r + c, out + c, 8);
        for (; c + 6 <= C; c += 6)
            NAME(add_row)(at, x, from, to, C, squares, r + c, out + c, 6);
        for (; c + 2 <= C; c += 2)
            NAME(add_row)(at, x, from, to, C, squares, r + c, out + c, 2);
        if (c < C && squares)
            NAME(add_row)(at, x, from, to, C, 1, r + c, out + c, 1);
        else if (c < C)
            NAME(add_row)(at, x, from, to, C, 0, r + c, out + c, 1);
    }
}

/* Upper triangle of H += X'diag(h)X, h (rows,), H (p, p) or, if `packed`, its upper triangle row by row; indices
 * increase along a row. */
static void NAME(gram)(const Matrix *m, Py_ssize_t first, Py_ssize_t end, const double *h, double *H, int packed)
{
    const INDEX *at = m->indices;
    const VALUES *x = m->values.buf;
    (void)x;
    for (Py_ssize_t i = first; i < end; i++) {
        const double hi = h[i - first];
        const int64_t last = m->starts[i + 1];
        for (int64_t a = m->starts[i]; a < last; a++) {
            const double c = VALUE(a) * hi;
            const Py_ssize_t j = at[a];
            double *row = H + j * m->p - (packed ? j * (j + 1) / 2 : 0);
            for (int64_t b = a; b < last; b++)
                row[at[b]] += c * VALUE(b);
        }
    }
}

static const Loops NAME(loops) = {NAME(times), NAME(add), NAME(gram)};

#undef NAME
#undef INDEX
#undef VALUES
#undef VALUE
