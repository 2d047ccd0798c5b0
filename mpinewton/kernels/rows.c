/* Compiled loops over the rows of one shard: products with sparse rows, losses of linear models, both in one pass.
 *
 * See mpinewton/kernels/__init__.py for the Python face. Indices are copied and checked when a matrix is made, and the
 * length and type of every array at every call: nothing that Python can pass is read or written out of bounds.
 * Every operation is one of IEEE 754 in the order written (compile with -ffp-contract=off and without -ffast-math), so
 * that the instruction set, which is chosen at run time, changes no bit. No function of libm is called.
 */
#define Py_LIMITED_API 0x030b0000
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <math.h>
#include <stdint.h>
#include <string.h>

enum { ROWS = 256, NUMBERS = 2048, COLUMNS = 8 }; /* of a block: rows, numbers with several outputs, columns */
enum { WIDEST = 16, NARROW = 64 };                 /* most columns of a subspace, and of dense rows */
/* Rows are short with at most SPREAD entries each and SHORT on average; one of STORES entries is spread at a stroke. */
enum { SPREAD = 1024, SHORT = 64, STORES = 16 };
enum { LOGISTIC, SOFTMAX, SQUARED, HUBER, POISSON, SOFTPLUS, LOSSES };
static const char *const LOSS_NAMES[LOSSES] = {"logistic", "softmax", "squared", "huber", "poisson", "softplus"};

/* Prefetch distance in entries, by trial on news20 with 20 classes; numbers that fit into the cache of a core; numbers
 * of a cache line. */
enum { AHEAD = 64, CACHED = 1 << 16, LINE = 8 };

#if defined(__GNUC__)
/* With the number of columns as a constant. GCC 12 drops calls of a function that only prefetches. */
#define INLINE static inline __attribute__((always_inline))
#define PREFETCH(address) __builtin_prefetch(address)
#else
#define INLINE static inline
#define PREFETCH(address) (void)(address)
#endif

#include "elementary.h"
#include "losses.h"
#include "arrays.h"
#include "matrix.h"
#include "hessians.h"

static PyObject *matrix_type; /* the class Matrix */

/* -- methods of Matrix ---------------------------------------------------------------------------------------------- */

static PyObject *matrix_new(PyTypeObject *type, PyObject *args, PyObject *keywords)
{
    PyObject *starts, *indices, *values;
    Py_ssize_t p;
    if (keywords && PyDict_Size(keywords)) {
        PyErr_SetString(PyExc_TypeError, "Matrix takes no keyword arguments");
        return NULL;
    }
    if (!PyArg_ParseTuple(args, "OOOn:Matrix", &starts, &indices, &values, &p))
        return NULL;
    if (p < 0 || p > INT32_MAX)
        return PyErr_Format(PyExc_ValueError, "expected a number of features from 0 to %d; found %zd", INT32_MAX, p);
    Matrix *m = (Matrix *)((allocfunc)PyType_GetSlot(type, Py_tp_alloc))(type, 0);
    if (!m)
        return NULL;
    m->p = p;
    Arrays arrays = {.count = 0};
    if (!take(starts, &arrays.held[0], "starts", "qi", 0))
        goto failed;
    arrays.count++;
    if (!take(indices, &arrays.held[1], "indices", "qiH", 0))
        goto failed;
    arrays.count++;
    if (!copy_structure(m, &arrays.held[0], &arrays.held[1]))
        goto failed;
    int kind = 0;
    if (values != Py_None) {
        if (!take(values, &m->values, "values", "df", 0)) {
            m->values.obj = NULL;
            goto failed;
        }
        kind = m->values.itemsize == 4 ? 1 : 2;
        if (m->values.len / m->values.itemsize != m->starts[m->n]) {
            PyErr_SetString(PyExc_ValueError, "values: expected one for every index");
            goto failed;
        }
    }
    m->loops = LOOPS[p > 65536][kind];
    release(&arrays);
    return (PyObject *)m;
failed:
    release(&arrays);
    Py_DECREF(m);
    return NULL;
}

static void matrix_dealloc(PyObject *self)
{
    Matrix *m = (Matrix *)self;
    PyTypeObject *type = Py_TYPE(self);
    PyMem_Free(m->starts);
    PyMem_Free(m->indices);
    PyMem_Free(m->by_length);
    if (m->values.obj)
        PyBuffer_Release(&m->values);
    ((freefunc)PyType_GetSlot(type, Py_tp_free))(self);
    Py_DECREF(type);
}

static PyObject *finish(Arrays *arrays)
{
    release(arrays);
    if (PyErr_Occurred())
        return NULL;
    Py_RETURN_NONE;
}

static PyObject *add_all(PyObject *self, PyObject *args, int squares)
{
    Matrix *m = (Matrix *)self;
    PyObject *r_, *out_;
    Py_ssize_t C;
    if (!PyArg_ParseTuple(args, "OOn:transpose_times", &r_, &out_, &C))
        return NULL;
    if (C < 0)
        return PyErr_Format(PyExc_ValueError, "negative number of columns");
    Arrays arrays = {.count = 0};
    const double *r = numbers(&arrays, r_, "r", "d", m->n, C, 0);
    double *out = r ? numbers(&arrays, out_, "out", "d", m->p, C, 1) : NULL;
    if (out && C) {
        memset(out, 0, (size_t)(m->p * C) * sizeof(double));
        m->loops->add(m, 0, m->n, C, squares, r, out);
    }
    return finish(&arrays);
}

static PyObject *matrix_transpose_times(PyObject *self, PyObject *args)
{
    return add_all(self, args, 0);
}

static PyObject *matrix_squares_transpose_times(PyObject *self, PyObject *args)
{
    return add_all(self, args, 1);
}

/* Takes `count` Hessians, (p, p) or packed; 0 with an exception set. */
static int take_hessians(Arrays *arrays, Run *H, PyObject *object, Py_ssize_t count, Py_ssize_t p, int *packed)
{
    if (!take_run(arrays, H, object, "H", 1))
        return 0;
    const Py_ssize_t full = p > 1 << 24 ? -1 : p * p;
    *packed = H->next && (full < 0 || count > PY_SSIZE_T_MAX / (full + 1) || H->left != count * full);
    return 1;
}

static PyObject *matrix_gram(PyObject *self, PyObject *args)
{
    Matrix *m = (Matrix *)self;
    PyObject *h_, *H_;
    if (!PyArg_ParseTuple(args, "OO:gram", &h_, &H_))
        return NULL;
    Arrays arrays = {.count = 0};
    Run run;
    int packed;
    const double *h = numbers(&arrays, h_, "h", "d", m->n, 1, 0);
    if (h && take_hessians(&arrays, &run, H_, 1, m->p, &packed)) {
        const Py_ssize_t count = numbers_of_hessian(m->p, packed);
        double *H = part(&run, "H", count, 1);
        if (H && ended(&run, "H")) {
            memset(H, 0, (size_t)count * sizeof(double));
            Py_ssize_t *lines = lines_of(m->p, packed);
            if (lines)
                m->loops->gram(m, 0, m->n, h, H, lines);
            PyMem_Free(lines);
            if (!packed)
                mirror(H, m->p);
        } else if (!PyErr_Occurred())
            PyErr_SetString(PyExc_ValueError, "H: expected an array");
    }
    return finish(&arrays);
}

/* -- functions of the module ---------------------------------------------------------------------------------------- */

/* The matrix at this place of a tuple; NULL with an exception set. */
static const Matrix *matrix_at(PyObject *matrices, Py_ssize_t i, Py_ssize_t *p)
{
    PyObject *item = PyTuple_GetItem(matrices, i);
    if (!item || !PyObject_TypeCheck(item, (PyTypeObject *)matrix_type)) {
        PyErr_SetString(PyExc_TypeError, "expected a tuple of matrices");
        return NULL;
    }
    const Matrix *m = (const Matrix *)item;
    if (i && m->p != *p) {
        PyErr_SetString(PyExc_ValueError, "expected matrices with as many features");
        return NULL;
    }
    *p = m->p;
    return m;
}

static PyObject *times(PyObject *module, PyObject *args)
{
    (void)module;
    PyObject *matrices, *v_, *out_;
    Py_ssize_t C, p = 0;
    if (!PyArg_ParseTuple(args, "O!OOn:times", &PyTuple_Type, &matrices, &v_, &out_, &C))
        return NULL;
    if (C < 0)
        return PyErr_Format(PyExc_ValueError, "negative number of columns");
    Arrays arrays = {.count = 0};
    Run out;
    const double *v = NULL;
    if (!take_run(&arrays, &out, out_, "out", 1))
        return finish(&arrays);
    for (Py_ssize_t i = 0; i < PyTuple_Size(matrices); i++) {
        const Matrix *m = matrix_at(matrices, i, &p);
        if (!m || !(v = i ? v : numbers(&arrays, v_, "v", "d", p, C, 0)))
            return finish(&arrays);
        double *to = part(&out, "out", m->n, C);
        if (to && C)
            m->loops->times(m, 0, m->n, C, v, to);
        if (PyErr_Occurred())
            return finish(&arrays);
    }
    ended(&out, "out");
    return finish(&arrays);
}

static PyObject *hvp(PyObject *module, PyObject *args)
{
    (void)module;
    PyObject *matrices, *h_, *v_, *out_;
    Py_ssize_t C, p = 0;
    int each;
    if (!PyArg_ParseTuple(args, "O!OOOnp:hvp", &PyTuple_Type, &matrices, &h_, &v_, &out_, &C, &each))
        return NULL;
    if (C < 1)
        return PyErr_Format(PyExc_ValueError, "expected at least one column");
    Arrays arrays = {.count = 0};
    Run h, v, out;
    const Py_ssize_t block = C > 2 * ROWS ? 1 : C > 1 ? 2 * ROWS / C : ROWS, k = PyTuple_Size(matrices);
    if (!take_run(&arrays, &h, h_, "h", 0) || !take_run(&arrays, &v, v_, "v", 0) ||
        !take_run(&arrays, &out, out_, "out", 1))
        return finish(&arrays);
    const double *vi = v.next, *to = out.next;
    if (vi && to && to < vi + v.left && vi < to + out.left)
        return PyErr_SetString(PyExc_ValueError, "out must not be v"), finish(&arrays);
    double *z = NULL;
    for (Py_ssize_t i = 0; i < k && !PyErr_Occurred(); i++) {
        const Matrix *m = matrix_at(matrices, i, &p);
        const double *hi = m ? part(&h, "h", m->n, 1) : NULL;
        double *sum = hi ? part(&out, "out", p, C) : NULL;
        if (sum && (each || !i))
            vi = part(&v, "v", p, C);
        if (!PyErr_Occurred() && !(sum && vi))
            PyErr_SetString(PyExc_ValueError, "h, v, out: expected arrays");
        if (!PyErr_Occurred() && !z && !(z = PyMem_Calloc((size_t)block * (size_t)C, sizeof(double))))
            PyErr_NoMemory();
        if (PyErr_Occurred())
            break;
        memset(sum, 0, (size_t)(p * C) * sizeof(double));
        for (Py_ssize_t first = 0; first < m->n; first += block) {
            const Py_ssize_t end = m->n - first < block ? m->n : first + block;
            m->loops->times(m, first, end, C, vi, z);
            for (Py_ssize_t row = 0; row < end - first; row++)
                for (Py_ssize_t c = 0; c < C; c++)
                    z[row * C + c] *= hi[first + row];
            m->loops->add(m, first, end, C, 0, z, sum);
        }
    }
    PyMem_Free(z);
    if (!PyErr_Occurred())
        (void)(ended(&h, "h") && ended(&v, "v") && ended(&out, "out"));
    return finish(&arrays);
}

/* The loss of one matrix in one pass over its rows, with X'hX added to H, which has these lines. 0 with an exception
 * set. */
static int evaluate_rows(const Matrix *m, const Loss *q, const double *w, double *z, double *f, double *g, double *H,
                         const Py_ssize_t *lines)
{
    const Py_ssize_t C = q->outputs;
    double *scratch = scratch_for(q, 2), value = 0.0;
    if (!scratch)
        return 0;
    double *r = g || H ? scratch + q->block * (1 + 2 * C) : NULL, *h = r ? r + q->block * C : NULL;
    if (g)
        memset(g, 0, (size_t)(m->p * C) * sizeof(double));
    int valid = 1;
    for (Py_ssize_t first = 0; valid && first < m->n; first += q->block) {
        const Py_ssize_t end = m->n - first < q->block ? m->n : first + q->block;
        if (w)
            m->loops->times(m, first, end, C, w, z + first * C);
        valid = evaluate_block(q, first, end - first, z + first * C, &value, r, h, scratch);
        if (valid && g)
            m->loops->add(m, first, end, C, 0, r, g);
        if (valid && H)
            m->loops->gram(m, first, end, h, H, lines);
    }
    *f = value;
    PyMem_Free(scratch);
    return valid || no_class();
}

static PyObject *evaluate(PyObject *module, PyObject *args)
{
    (void)module;
    PyObject *matrices, *losses, *w_, *z_, *f_, *g_, *H_;
    if (!PyArg_ParseTuple(args, "O!O!OOOOO:evaluate", &PyTuple_Type, &matrices, &PyTuple_Type, &losses, &w_, &z_, &f_,
                          &g_, &H_))
        return NULL;
    Arrays arrays = {.count = 0}, own = {.count = 0};
    const Py_ssize_t count = PyTuple_Size(matrices);
    const int summed = PyTuple_Check(H_), hessians = H_ != Py_None;
    Py_ssize_t p = 0, C = 0, *lines = NULL;
    Run z, f, g, H = {NULL, 0};
    Sums sums = {.count = 0};
    const double *w = NULL;
    int packed = 1;
    if (PyTuple_Size(losses) != count)
        PyErr_SetString(PyExc_ValueError, "expected one loss for every matrix");
    if (PyErr_Occurred() || !take_run(&arrays, &z, z_, "z", w_ != Py_None) || !take_run(&arrays, &f, f_, "f", 1) ||
        !take_run(&arrays, &g, g_, "g", 1))
        return finish(&arrays);
    for (Py_ssize_t i = 0; i < count && !PyErr_Occurred(); i++) {
        Loss q;
        const Matrix *m = matrix_at(matrices, i, &p);
        if (m && read_loss(&q, &own, PyTuple_GetItem(losses, i))) {
            if (q.rows != m->n || (i && q.outputs != C))
                PyErr_SetString(PyExc_ValueError, "expected a loss of as many rows as its matrix, and equal outputs");
            C = q.outputs;
            if (!i && !PyErr_Occurred() && (summed ? take_sums(&sums, &arrays, H_, count, p)
                                                   : take_hessians(&arrays, &H, H_, count, p, &packed)))
                w = optional(&arrays, w_, "w", p, C, 0);
            if (!PyErr_Occurred() && hessians && q.loss == SOFTMAX)
                PyErr_SetString(PyExc_ValueError, "softmax: no Hessian in one pass");
            double *zi = PyErr_Occurred() ? NULL : part(&z, "z", m->n, C), *fi = zi ? part(&f, "f", 1, 1) : NULL;
            double *gi = fi ? part(&g, "g", p, C) : NULL, *Hi = NULL;
            if (!fi && !PyErr_Occurred())
                PyErr_SetString(PyExc_ValueError, "z, f: expected arrays");
            if (hessians && !summed && !PyErr_Occurred() && (Hi = part(&H, "H", numbers_of_hessian(p, packed), 1)))
                memset(Hi, 0, (size_t)numbers_of_hessian(p, packed) * sizeof(double));
            if (hessians && !lines && !PyErr_Occurred())
                lines = lines_of(p, packed);
            if (summed && !PyErr_Occurred())
                Hi = next_hessian(&sums, m, lines);
            if (!PyErr_Occurred() && evaluate_rows(m, &q, w, zi, fi, gi, Hi, lines) && Hi) {
                if (summed)
                    (void)add_hessian(&sums, i, p, lines);
                else if (!packed)
                    mirror(Hi, p);
            }
        }
        release(&own);
    }
    if (count && !PyErr_Occurred())
        (void)(ended(&z, "z") && ended(&f, "f") && ended(&g, "g") && ended(&H, "H"));
    finish_sums(&sums, p, lines);
    PyMem_Free(lines);
    return finish(&arrays);
}

static PyObject *terms(PyObject *module, PyObject *args)
{
    (void)module;
    PyObject *losses, *z_, *f_, *r_, *h_;
    if (!PyArg_ParseTuple(args, "O!OOOO:terms", &PyTuple_Type, &losses, &z_, &f_, &r_, &h_))
        return NULL;
    Arrays arrays = {.count = 0}, own = {.count = 0};
    Run z, f, r, h;
    if (!take_run(&arrays, &z, z_, "z", 0) || !take_run(&arrays, &f, f_, "f", 1) ||
        !take_run(&arrays, &r, r_, "r", 1) || !take_run(&arrays, &h, h_, "h", 1))
        return finish(&arrays);
    for (Py_ssize_t i = 0; i < PyTuple_Size(losses) && !PyErr_Occurred(); i++) {
        Loss q;
        if (read_loss(&q, &own, PyTuple_GetItem(losses, i))) {
            const Py_ssize_t C = q.outputs;
            const double *zi = part(&z, "z", q.rows, C);
            double *fi = zi ? part(&f, "f", 1, 1) : NULL, *ri = zi ? part(&r, "r", q.rows, C) : NULL;
            double *hi = PyErr_Occurred() ? NULL : part(&h, "h", q.rows, C);
            if (!zi && !PyErr_Occurred())
                PyErr_SetString(PyExc_ValueError, "z: expected an array");
            double *scratch = PyErr_Occurred() ? NULL : scratch_for(&q, 0), value = 0.0;
            for (Py_ssize_t first = 0; scratch && !PyErr_Occurred() && first < q.rows; first += q.block) {
                const Py_ssize_t k = q.rows - first < q.block ? q.rows - first : q.block;
                if (!evaluate_block(&q, first, k, zi + first * C, fi ? &value : NULL, ri ? ri + first * C : NULL,
                                    hi ? hi + first * C : NULL, scratch))
                    no_class();
            }
            if (fi)
                *fi = value;
            PyMem_Free(scratch);
        }
        release(&own);
    }
    if (!PyErr_Occurred())
        (void)(ended(&z, "z") && ended(&f, "f") && ended(&r, "r") && ended(&h, "h"));
    return finish(&arrays);
}

static PyObject *line(PyObject *module, PyObject *args)
{
    (void)module;
    PyObject *losses, *z_, *dz_, *steps_, *out_;
    Py_ssize_t count;
    if (!PyArg_ParseTuple(args, "O!OOnOO:line", &PyTuple_Type, &losses, &z_, &dz_, &count, &steps_, &out_))
        return NULL;
    if (count < 0)
        return PyErr_Format(PyExc_ValueError, "negative number of steps");
    Arrays arrays = {.count = 0}, own = {.count = 0};
    Run z, dz, out;
    const double *steps = numbers(&arrays, steps_, "steps", "d", count, 1, 0);
    if (!steps || !take_run(&arrays, &z, z_, "z", 0) || !take_run(&arrays, &dz, dz_, "dz", 0) ||
        !take_run(&arrays, &out, out_, "out", 1))
        return finish(&arrays);
    for (Py_ssize_t i = 0; i < PyTuple_Size(losses) && !PyErr_Occurred(); i++) {
        Loss q;
        if (read_loss(&q, &own, PyTuple_GetItem(losses, i))) {
            const double *zi = part(&z, "z", q.rows, q.outputs), *dzi = zi ? part(&dz, "dz", q.rows, q.outputs) : NULL;
            double *to = dzi ? part(&out, "out", count, 1) : NULL;
            if (!to && !PyErr_Occurred())
                PyErr_SetString(PyExc_ValueError, "z, dz, out: expected arrays");
            double *scratch = to ? scratch_for(&q, 1) : NULL;
            if (scratch && !losses_on_line(&q, zi, dzi, count, steps, to, scratch))
                no_class();
            PyMem_Free(scratch);
        }
        release(&own);
    }
    if (!PyErr_Occurred())
        (void)(ended(&z, "z") && ended(&dz, "dz") && ended(&out, "out"));
    return finish(&arrays);
}

static PyObject *gram(PyObject *module, PyObject *args)
{
    (void)module;
    PyObject *x_, *h_, *H_;
    Py_ssize_t n, p;
    if (!PyArg_ParseTuple(args, "OOOnn:gram", &x_, &h_, &H_, &n, &p))
        return NULL;
    if (n < 0 || p < 1 || p > NARROW)
        return PyErr_Format(PyExc_ValueError, "expected rows with 1 to %d features", NARROW);
    Arrays arrays = {.count = 0};
    const double *x = numbers(&arrays, x_, "X", "d", n, p, 0);
    const double *h = x ? numbers(&arrays, h_, "h", "d", n, 1, 0) : NULL;
    double *H = h ? numbers(&arrays, H_, "H", "d", p, p, 1) : NULL;
    if (H) {
        formulas->gram(n, p, x, h, H);
        mirror(H, p);
    }
    return finish(&arrays);
}

static PyObject *ritz(PyObject *module, PyObject *args)
{
    (void)module;
    PyObject *Q_, *Y_, *e_, *squares_;
    Py_ssize_t d, b, r;
    if (!PyArg_ParseTuple(args, "OOOOnnn:ritz", &Q_, &Y_, &e_, &squares_, &d, &b, &r))
        return NULL;
    if (r < 1 || r > b || b > WIDEST || b > d)
        return PyErr_Format(PyExc_ValueError, "expected 1 <= r <= b <= d and b <= %d", WIDEST);
    Arrays arrays = {.count = 0};
    Run Q, Y, e, squares;
    int taken = take_run(&arrays, &Q, Q_, "Q", 1) && take_run(&arrays, &Y, Y_, "Y", 1) &&
                take_run(&arrays, &e, e_, "e", 1) && take_run(&arrays, &squares, squares_, "squares", 1);
    while (taken && Q.left) {
        double *q = part(&Q, "Q", d, b), *y = q ? part(&Y, "Y", d, b) : NULL, *ei = y ? part(&e, "e", b, 1) : NULL;
        double *square = ei ? part(&squares, "squares", b, 1) : NULL;
        if (!square && !PyErr_Occurred())
            PyErr_SetString(PyExc_ValueError, "Q, Y, e, squares: expected arrays");
        if (!square)
            break;
        formulas->ritz(d, b, r, q, y, ei, square);
    }
    if (taken && !PyErr_Occurred())
        (void)(ended(&Y, "Y") && ended(&e, "e") && ended(&squares, "squares"));
    return finish(&arrays);
}

static PyObject *elementary(PyObject *module, PyObject *args)
{
    (void)module;
    const char *name;
    PyObject *x_, *out_;
    Py_ssize_t n;
    if (!PyArg_ParseTuple(args, "snOO:elementary", &name, &n, &x_, &out_))
        return NULL;
    if (n < 0)
        return PyErr_Format(PyExc_ValueError, "negative number of numbers");
    Arrays arrays = {.count = 0};
    const double *x = numbers(&arrays, x_, "x", "d", n, 1, 0);
    double *out = x ? numbers(&arrays, out_, "out", "d", n, 1, 1) : NULL;
    if (out)
        for (Py_ssize_t i = 0; i < n; i++)
            out[i] = *name == 'e' ? exponential(x[i]) : *name == 'p' ? log_1_plus(x[i]) : logarithm(x[i]);
    return finish(&arrays);
}

static PyObject *set_level(PyObject *module, PyObject *args)
{
    (void)module;
    const char *name = NULL;
    if (!PyArg_ParseTuple(args, "|z:level", &name))
        return NULL;
    if (name && !use_level(name))
        return PyErr_Format(PyExc_ValueError, "this processor or build does not have the instruction set %s", name);
    return PyUnicode_FromString(level);
}

static PyMethodDef MATRIX_METHODS[] = {
    {"transpose_times", matrix_transpose_times, METH_VARARGS, "transpose_times(r, out, C): out = X'r."},
    {"squares_transpose_times", matrix_squares_transpose_times, METH_VARARGS,
     "squares_transpose_times(r, out, C): out = X.^2'r."},
    {"gram", matrix_gram, METH_VARARGS, "gram(h, H): H = X'diag(h)X, (p, p) or its packed upper triangle."},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot MATRIX_SLOTS[] = {
    {Py_tp_new, matrix_new},
    {Py_tp_dealloc, matrix_dealloc},
    {Py_tp_methods, MATRIX_METHODS},
    {Py_tp_doc, "Matrix(starts, indices, values, p): sparse rows; values None if all are 1."},
    {0, NULL},
};

static PyType_Spec MATRIX_SPEC = {"mpinewton.kernels.rows.Matrix", sizeof(Matrix), 0, Py_TPFLAGS_DEFAULT, MATRIX_SLOTS};

static PyMethodDef FUNCTIONS[] = {
    {"times", times, METH_VARARGS, "times(matrices, v, out, C): out = X v for every matrix."},
    {"hvp", hvp, METH_VARARGS, "hvp(matrices, h, v, out, C, each): out = X'(h X v) for every matrix, with its own v or the same."},
    {"evaluate", evaluate, METH_VARARGS,
     "evaluate(matrices, losses, w, z, f, g, H): the sums of the values and their derivatives; z = X w unless w is None.\n"
     "H: the Hessians, or (diagonal, scales, merged, out) for sums of scale (Hessian + diagonal)."},
    {"terms", terms, METH_VARARGS, "terms(losses, z, f, r, h): what is not None of the sums of the values, r and h."},
    {"line", line, METH_VARARGS, "line(losses, z, dz, k, steps, out): the sums of the values at z + step dz."},
    {"gram", gram, METH_VARARGS, "gram(X, h, H, n, p): H = X'diag(h)X for dense rows (n, p)."},
    {"ritz", ritz, METH_VARARGS, "ritz(Q, Y, e, squares, d, b, r): eigenpairs in the span of Q, from Y = D Q, in place."},
    {"elementary", elementary, METH_VARARGS, "elementary(name, n, x, out): exp, p (log1p on [0, 1]) or log (from 1)."},
    {"level", set_level, METH_VARARGS, "level([name]): the instruction set in use, after a change to this one."},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef MODULE = {PyModuleDef_HEAD_INIT, "rows", "Compiled loops over rows.", -1, FUNCTIONS,
                                    NULL, NULL, NULL, NULL};

PyMODINIT_FUNC PyInit_rows(void)
{
    PyObject *module = PyModule_Create(&MODULE);
    if (!module)
        return NULL;
    PyObject *names = PyTuple_New(LOSSES), *type = PyType_FromSpec(&MATRIX_SPEC);
    for (int i = 0; names && i < LOSSES; i++)
        PyTuple_SetItem(names, i, PyUnicode_FromString(LOSS_NAMES[i]));
    if (!names || !type || PyModule_AddObjectRef(module, "LOSSES", names) ||
        PyModule_AddObjectRef(module, "Matrix", type) || PyModule_AddIntConstant(module, "NARROW", NARROW)) {
        Py_XDECREF(names);
        Py_XDECREF(type);
        Py_DECREF(module);
        return NULL;
    }
    Py_DECREF(names);
    matrix_type = type;
    (void)(use_level("avx512") || use_level("avx2"));
    return module;
}
