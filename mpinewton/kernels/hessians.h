/* Sums of the Hessians of many matrices in the order of a tree, as packed triangles. Included by rows.c alone.
 *
 * In a matrix with few rows few features have entries. Only their lines of a triangle are written and added; the others
 * are zero. Diagonals are summed apart. The bits are those of sums of whole triangles, but for the sign of a zero where
 * a product underflows. */

enum { DEEPEST = 64 }; /* most sums that wait for another: enough for 2^32 matrices */

typedef struct {
    double *H;        /* packed, without its diagonal; lines that are not there have no value */
    double *diagonal; /* p numbers, at the start of the block to free; NULL before it is allocated */
    uint8_t *there;   /* p: whether a line is there */
} Triangle;

typedef struct {
    const double *diagonal, *scales; /* p numbers that are added to every Hessian; one for every Hessian */
    const int64_t *merged;           /* how often the last two sums are added up after each Hessian */
    double *out;
    Py_ssize_t count, top; /* sums at the end, and now */
    Triangle waiting[DEEPEST], own;
} Sums;

/* Sets a triangle to zero; the first time it allocates its memory, without H if that is at `out`. 0 with an exception
 * set. */
static int make_zero(Triangle *t, Py_ssize_t p, double *out)
{
    const size_t numbers = out ? 0 : (size_t)numbers_of_hessian(p, 1), line = (size_t)p * sizeof(double);
    if (!t->diagonal) {
        t->diagonal = PyMem_Malloc(line + numbers * sizeof(double) + (size_t)p);
        if (!t->diagonal)
            return PyErr_NoMemory(), 0;
        t->H = out ? out : t->diagonal + p;
        t->there = (uint8_t *)(t->diagonal + p + numbers);
    }
    memset(t->there, 0, (size_t)p);
    memset(t->diagonal, 0, line);
    return 1;
}

/* to += scale from. */
static void add_triangle(const Triangle *to, const Triangle *from, double scale, Py_ssize_t p, const Py_ssize_t *lines)
{
    for (Py_ssize_t a = 0; a < p; a++) {
        to->diagonal[a] += scale * from->diagonal[a];
        if (!from->there[a])
            continue;
        double *restrict out = to->H + lines[a] + a;
        const double *restrict in = from->H + lines[a] + a;
        if (to->there[a])
            for (Py_ssize_t k = 1; k < p - a; k++)
                out[k] += scale * in[k];
        else
            for (Py_ssize_t k = 1; k < p - a; k++)
                out[k] = scale * in[k];
        to->there[a] = 1;
    }
}

/* Whether so many of the waiting sums can be merged after one more; 0 with an exception set. */
static int can_merge(int64_t merged, Py_ssize_t waiting)
{
    if (merged >= 0 && merged <= waiting && waiting - merged < DEEPEST)
        return 1;
    PyErr_SetString(PyExc_ValueError, "merged: expected numbers of sums that are there");
    return 0;
}

/* Takes what a sum of `hessians` Hessians is made of: (diagonal, scales, merged, out). 0 with an exception set. */
static int take_sums(Sums *s, Arrays *arrays, PyObject *object, Py_ssize_t hessians, Py_ssize_t p)
{
    PyObject *diagonal, *scales, *merged, *out;
    if (!PyArg_ParseTuple(object, "OOOO:sums", &diagonal, &scales, &merged, &out))
        return 0;
    s->diagonal = numbers(arrays, diagonal, "diagonal", "d", p, 1, 0);
    s->scales = s->diagonal ? numbers(arrays, scales, "scales", "d", hessians, 1, 0) : NULL;
    s->merged = s->scales ? numbers(arrays, merged, "merged", "q", hessians, 1, 0) : NULL;
    for (Py_ssize_t i = 0; s->merged && i < hessians; i++) {
        if (!can_merge(s->merged[i], s->count))
            return 0;
        s->count += 1 - (Py_ssize_t)s->merged[i];
    }
    s->out = s->merged ? numbers(arrays, out, "out", "d", s->count, numbers_of_hessian(p, 1), 1) : NULL;
    return s->out != NULL;
}

/* Memory for X'hX of a matrix, all zeros; NULL with an exception set. */
static double *next_hessian(Sums *s, const Matrix *m, const Py_ssize_t *lines)
{
    if (!make_zero(&s->own, m->p, NULL))
        return NULL;
    for (int64_t k = 0; k < m->starts[m->n]; k++)
        s->own.there[m->p <= 65536 ? ((uint16_t *)m->indices)[k] : ((int32_t *)m->indices)[k]] = 1;
    for (Py_ssize_t a = 0; a < m->p; a++)
        if (s->own.there[a])
            memset(s->own.H + lines[a] + a, 0, (size_t)(m->p - a) * sizeof(double));
    return s->own.H;
}

/* Adds X'hX, which is there, with the diagonal, as Hessian i. 0 with an exception set. */
static int add_hessian(Sums *s, Py_ssize_t i, Py_ssize_t p, const Py_ssize_t *lines)
{
    const int64_t merged = s->merged[i]; /* checked again: it may share memory with what is written */
    if (!can_merge(merged, s->top))
        return 0;
    if (!merged) {
        if (!make_zero(&s->waiting[s->top], p, s->top < s->count ? s->out + s->top * numbers_of_hessian(p, 1) : NULL))
            return 0;
        s->top++;
    }
    for (Py_ssize_t a = 0; a < p; a++)
        s->own.diagonal[a] = (s->own.there[a] ? s->own.H[lines[a] + a] : 0.0) + s->diagonal[a];
    if (s->scales[i])
        add_triangle(&s->waiting[s->top - 1], &s->own, s->scales[i], p, lines);
    for (int64_t more = 1; more < merged; more++, s->top--)
        add_triangle(&s->waiting[s->top - 2], &s->waiting[s->top - 1], 1.0, p, lines);
    return 1;
}

/* Writes zeros into the lines of the sums that are not there, and the diagonals; frees the memory. */
static void finish_sums(Sums *s, Py_ssize_t p, const Py_ssize_t *lines)
{
    for (Py_ssize_t j = 0; j < s->top && j < s->count; j++)
        for (Py_ssize_t a = 0; a < p; a++) {
            if (!s->waiting[j].there[a])
                memset(s->waiting[j].H + lines[a] + a, 0, (size_t)(p - a) * sizeof(double));
            s->waiting[j].H[lines[a] + a] = s->waiting[j].diagonal[a];
        }
    for (Py_ssize_t j = 0; j < DEEPEST; j++)
        PyMem_Free(s->waiting[j].diagonal);
    PyMem_Free(s->own.diagonal);
}
