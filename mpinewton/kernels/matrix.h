/* Sparse rows, and the loops over their entries by type of index and value. Included by rows.c alone. */

typedef struct Loops Loops;

typedef struct {
    PyObject_HEAD
    Py_ssize_t n, p;
    int64_t *starts; /* n + 1 */
    void *indices;   /* uint16 if p <= 65536, else int32 */
    uint8_t *by_length; /* n: of every block of ROWS rows, their places in it by number of entries; NULL if rows are long */
    Py_buffer values; /* held; buf is NULL if all are 1 */
    const Loops *loops;
} Matrix;

struct Loops {
    void (*times)(const Matrix *, Py_ssize_t, Py_ssize_t, Py_ssize_t, const double *, double *);
    void (*add)(const Matrix *, Py_ssize_t, Py_ssize_t, Py_ssize_t, int, const double *, double *);
    void (*gram)(const Matrix *, Py_ssize_t, Py_ssize_t, const double *, double *, const Py_ssize_t *);
};

/* Whether to prefetch the rows of a matrix (p, C): it has several columns, and is larger than the cache of a core. With
 * one column it saves nothing. */
static int is_wide(const Matrix *m, Py_ssize_t C)
{
    return C > 1 && m->p * C > CACHED;
}

#define NAME(name) name##_16_ones
#define INDEX uint16_t
#define VALUES double
#define VALUE(k) 1.0
#include "entries.h"
#define NAME(name) name##_16_single
#define INDEX uint16_t
#define VALUES float
#define VALUE(k) ((double)x[k])
#include "entries.h"
#define NAME(name) name##_16_double
#define INDEX uint16_t
#define VALUES double
#define VALUE(k) x[k]
#include "entries.h"
#define NAME(name) name##_32_ones
#define INDEX int32_t
#define VALUES double
#define VALUE(k) 1.0
#include "entries.h"
#define NAME(name) name##_32_single
#define INDEX int32_t
#define VALUES float
#define VALUE(k) ((double)x[k])
#include "entries.h"
#define NAME(name) name##_32_double
#define INDEX int32_t
#define VALUES double
#define VALUE(k) x[k]
#include "entries.h"

static const Loops *const LOOPS[2][3] = {{&loops_16_ones, &loops_16_single, &loops_16_double},
                                         {&loops_32_ones, &loops_32_single, &loops_32_double}};

/* Copies the upper triangle to the lower one, in tiles. */
static void mirror(double *H, Py_ssize_t p)
{
    const Py_ssize_t tile = 32;
    for (Py_ssize_t i0 = 0; i0 < p; i0 += tile)
        for (Py_ssize_t j0 = i0; j0 < p; j0 += tile)
            for (Py_ssize_t i = i0; i < p && i < i0 + tile; i++)
                for (Py_ssize_t j = j0 > i ? j0 : i + 1; j < p && j < j0 + tile; j++)
                    H[j * p + i] = H[i * p + j];
}

/* How many numbers a Hessian has, (p, p) or packed. */
static Py_ssize_t numbers_of_hessian(Py_ssize_t p, int packed)
{
    return packed ? (p % 2 ? (p + 1) / 2 * p : p / 2 * (p + 1)) : p * p;
}

/* Row j of a Hessian, (p, p) or packed, is where column 0 would be lines[j] numbers after its first; the caller frees
 * them. NULL with an exception set. */
static Py_ssize_t *lines_of(Py_ssize_t p, int packed)
{
    Py_ssize_t *lines = PyMem_Malloc((size_t)(p + 1) * sizeof *lines);
    if (!lines)
        return (void *)PyErr_NoMemory();
    for (Py_ssize_t j = 0; j < p; j++)
        lines[j] = j * p - (packed ? j * (j + 1) / 2 : 0);
    return lines;
}

static int64_t integer_at(const Py_buffer *buffer, char kind, Py_ssize_t k)
{
    return kind == 'q' ? ((int64_t *)buffer->buf)[k] : kind == 'i' ? ((int32_t *)buffer->buf)[k]
                                                                   : ((uint16_t *)buffer->buf)[k];
}

/* Where rows are short, a loop over each would often end in a branch that the processor does not foresee: finds an order
 * in which rows of equal length follow one another. 0 with an exception set. */
static int order_by_length(Matrix *m)
{
    int64_t longest = 0;
    for (Py_ssize_t i = 0; i < m->n; i++)
        longest = m->starts[i + 1] - m->starts[i] > longest ? m->starts[i + 1] - m->starts[i] : longest;
    if (longest > SPREAD || m->starts[m->n] > SHORT * (int64_t)m->n)
        return 1;
    m->by_length = PyMem_Malloc((size_t)m->n + 1);
    if (!m->by_length)
        return PyErr_NoMemory(), 0;
    for (Py_ssize_t first = 0; first < m->n; first += ROWS) {
        const Py_ssize_t rows = m->n - first < ROWS ? m->n - first : ROWS;
        const int64_t *starts = m->starts + first;
        int before[SPREAD + 2] = {0}; /* rows that are shorter than this */
        for (Py_ssize_t i = 0; i < rows; i++)
            before[starts[i + 1] - starts[i] + 1]++;
        for (int64_t k = 1; k <= longest; k++)
            before[k + 1] += before[k];
        for (Py_ssize_t i = 0; i < rows; i++)
            m->by_length[first + before[starts[i + 1] - starts[i]]++] = (uint8_t)i;
    }
    return 1;
}

/* Copies and checks starts and indices; 0 with an exception set. */
static int copy_structure(Matrix *m, const Py_buffer *starts, const Py_buffer *indices)
{
    const char kind = kind_of(starts), index_kind = kind_of(indices);
    const Py_ssize_t entries = indices->len / indices->itemsize;
    const int narrow = m->p <= 65536;
    if (!starts->len) {
        PyErr_SetString(PyExc_ValueError, "starts: expected at least one number");
        return 0;
    }
    m->n = starts->len / starts->itemsize - 1;
    m->starts = PyMem_Malloc((size_t)(m->n + 1) * sizeof(int64_t));
    m->indices = PyMem_Malloc((size_t)entries * (narrow ? 2 : 4) + 1);
    if (!m->starts || !m->indices) {
        PyErr_NoMemory();
        return 0;
    }
    int valid = 1;
    for (Py_ssize_t i = 0; i <= m->n; i++) {
        m->starts[i] = integer_at(starts, kind, i);
        valid &= m->starts[i] >= (i ? m->starts[i - 1] : 0) && m->starts[i] <= entries;
    }
    if (!valid || m->starts[0] != 0 || m->starts[m->n] != entries) {
        PyErr_SetString(PyExc_ValueError, "starts: expected numbers that increase from 0 to the number of entries");
        return 0;
    }
    for (Py_ssize_t i = 0; i < m->n; i++) {
        int64_t before = -1;
        for (int64_t k = m->starts[i]; k < m->starts[i + 1]; k++) {
            const int64_t j = integer_at(indices, index_kind, (Py_ssize_t)k);
            valid &= j > before && j < m->p;
            before = j;
            if (narrow)
                ((uint16_t *)m->indices)[k] = (uint16_t)j;
            else
                ((int32_t *)m->indices)[k] = (int32_t)j;
        }
    }
    if (!valid)
        PyErr_SetString(PyExc_ValueError, "indices: expected numbers below p that increase along every row");
    return valid && order_by_length(m);
}
