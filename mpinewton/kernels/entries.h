/* Loops over the stored entries of rows first..end-1 of a sparse matrix.
 *
 * Included once for every type of index and value: NAME(f) names the functions, INDEX is the type of an index, and
 * VALUE(k) is the value of entry k as a double. Arrays of rows start at row `first`. Sums are sequential.
 */

/* Prefetches the rows of v (p, C) for the entries that follow from..to-1 by AHEAD, as far as there are such entries. */
INLINE void NAME(prefetch)(const Matrix *m, int64_t from, int64_t to, Py_ssize_t C, const double *v)
{
    const INDEX *at = m->indices;
    const int64_t entries = m->starts[m->n], last = to + AHEAD < entries ? to + AHEAD : entries;
    for (int64_t k = from + AHEAD; k < last; k++) {
        const double *row = v + (Py_ssize_t)at[k] * C;
        for (Py_ssize_t c = 0; c < C; c += LINE)
            PREFETCH(row + c);
        PREFETCH(row + C - 1);
    }
}

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

/* The same for one column and all of these rows, those of equal length one after the other. */
static void NAME(times_by_length)(const Matrix *m, Py_ssize_t first, Py_ssize_t end, const double *v, double *out)
{
    for (Py_ssize_t i = first; i < end; i++) {
        const Py_ssize_t row = i - i % ROWS + m->by_length[i];
        NAME(times_row)(m->indices, m->values.buf, m->starts[row], m->starts[row + 1], 1, v, out + (row - first), 1);
    }
}

/* out = X v, v (p, C), out (rows, C). */
static void NAME(times)(const Matrix *m, Py_ssize_t first, Py_ssize_t end, Py_ssize_t C, const double *v, double *out)
{
    const INDEX *at = m->indices;
    const VALUES *x = m->values.buf;
    if (C == 1 && m->by_length && first % ROWS == 0 && (end % ROWS == 0 || end == m->n)) {
        NAME(times_by_length)(m, first, end, v, out);
        return;
    }
    const int wide = is_wide(m, C);
    for (Py_ssize_t i = first; i < end; i++, out += C) {
        const int64_t from = m->starts[i], to = m->starts[i + 1];
        Py_ssize_t c = 0;
        if (wide)
            NAME(prefetch)(m, from, to, C, v);
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

/* The same for one column and the first rows, which have together at most SPREAD entries: one loop goes over these.
 * Returns the number of these rows. */
static inline Py_ssize_t NAME(add_short)(const Matrix *m, Py_ssize_t first, Py_ssize_t end, int squares,
                                         const double *r, double *out)
{
    double spread[SPREAD + STORES]; /* for every entry, r of its row */
    const int64_t *starts = m->starts + first, from = starts[0];
    const INDEX *at = (const INDEX *)m->indices + from;
    const VALUES *x = m->values.buf ? (const VALUES *)m->values.buf + from : NULL;
    Py_ssize_t i = 0;
    int64_t entries = 0;
    (void)x;
    for (; i < end - first && starts[i + 1] - from <= SPREAD; i++) {
        for (int64_t k = entries; k < starts[i + 1] - from; k += STORES) /* the next row writes over what is too much */
            for (int j = 0; j < STORES; j++)
                spread[k + j] = r[i];
        entries = starts[i + 1] - from;
    }
    for (int64_t k = 0; k < entries; k++)
        out[at[k]] += (squares ? VALUE(k) * VALUE(k) : VALUE(k)) * spread[k];
    return i;
}

/* out += X'r, r (rows, C), out (p, C); with `squares`, out += X.^2'r. */
static void NAME(add)(const Matrix *m, Py_ssize_t first, Py_ssize_t end, Py_ssize_t C, int squares, const double *r,
                      double *out)
{
    const INDEX *at = m->indices;
    const VALUES *x = m->values.buf;
    if (C == 1 && m->by_length) {
        for (Py_ssize_t rows; first < end; first += rows, r += rows)
            rows = squares ? NAME(add_short)(m, first, end, 1, r, out) : NAME(add_short)(m, first, end, 0, r, out);
        return;
    }
    if (C == 1) { /* a loop of its own: it slows down inside the one for several columns */
        for (Py_ssize_t i = first; i < end; i++, r++) {
            if (squares)
                NAME(add_row)(at, x, m->starts[i], m->starts[i + 1], 1, 1, r, out, 1);
            else
                NAME(add_row)(at, x, m->starts[i], m->starts[i + 1], 1, 0, r, out, 1);
        }
        return;
    }
    const int wide = is_wide(m, C);
    for (Py_ssize_t i = first; i < end; i++, r += C) {
        const int64_t from = m->starts[i], to = m->starts[i + 1];
        Py_ssize_t c = 0;
        if (wide)
            NAME(prefetch)(m, from, to, C, out);
        for (; c + 8 <= C; c += 8)
            NAME(add_row)(at, x, from, to, C, squares, r + c, out + c, 8);
        for (; c + 6 <= C; c += 6)
            NAME(add_row)(at, x, from, to, C, squares, r + c, out + c, 6);
        for (; c + 2 <= C; c += 2)
            NAME(add_row)(at, x, from, to, C, squares, r + c, out + c, 2);
        if (c < C)
            NAME(add_row)(at, x, from, to, C, squares, r + c, out + c, 1);
    }
}

/* Upper triangle of H += X'diag(h)X, h (rows,), with the lines of H; indices increase along a row. Two entries of a row
 * are taken together with all that follow them. */
static void NAME(gram)(const Matrix *m, Py_ssize_t first, Py_ssize_t end, const double *h, double *H,
                       const Py_ssize_t *lines)
{
    const INDEX *at = m->indices;
    const VALUES *x = m->values.buf;
    (void)x;
    for (Py_ssize_t i = first; i < end; i++) {
        const double hi = h[i - first];
        const int64_t last = m->starts[i + 1];
        int64_t a = m->starts[i];
        for (; a + 1 < last; a += 2) {
            const double c = VALUE(a) * hi, d = VALUE(a + 1) * hi;
            double *row = H + lines[at[a]], *next = H + lines[at[a + 1]];
            row[at[a]] += c * VALUE(a);
            for (int64_t b = a + 1; b < last; b++) {
                const Py_ssize_t k = at[b];
                const double upper = row[k], lower = next[k];
                row[k] = upper + c * VALUE(b);
                next[k] = lower + d * VALUE(b);
            }
        }
        if (a < last)
            H[lines[at[a]] + at[a]] += VALUE(a) * hi * VALUE(a);
    }
}

static const Loops NAME(loops) = {NAME(times), NAME(add), NAME(gram)};

#undef NAME
#undef INDEX
#undef VALUES
#undef VALUE
