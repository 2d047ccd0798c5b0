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
enum { LOGISTIC, SOFTMAX, SQUARED, HUBER, POISSON, SOFTPLUS, LOSSES };
static const char *const LOSS_NAMES[LOSSES] = {"logistic", "softmax", "squared", "huber", "poisson", "softplus"};

#include "elementary.h"
#include "losses.h"
#include "arrays.h"
#include "matrix.h"

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

static PyObject *matrix_times(PyObject *self, PyObject *args)
{
    Matrix *m = (Matrix *)self;
    PyObject *v_, *out_;
    Py_ssize_t C;
    if (!PyArg_ParseTuple(args, "OOn:times", &v_, &out_, &C))
        return NULL;
    if (C < 0)
        return PyErr_Format(PyExc_ValueError, "negative number of columns");
    Arrays arrays = {.count = 0};
    const double *v = numbers(&arrays, v_, "v", "d", m->p, C, 0);
    double *out = v ? numbers(&arrays, out_, "out", "d", m->n, C, 1) : NULL;
    if (out && C)
        m->loops->times(m, 0, m->n, C, v, out);
    return finish(&arrays);
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

static PyObject *matrix_gram(PyObject *self, PyObject *args)
{
    Matrix *m = (Matrix *)self;
    PyObject *h_, *H_;
    if (!PyArg_ParseTuple(args, "OO:gram", &h_, &H_))
        return NULL;
    Arrays arrays = {.count = 0};
    const double *h = numbers(&arrays, h_, "h", "d", m->n, 1, 0);
    double *H = h ? numbers(&arrays, H_, "H", "d", m->p, m->p, 1) : NULL;
    if (H) {
        memset(H, 0, (size_t)(m->p * m->p) * sizeof(double));
        m->loops->gram(m, 0, m->n, h, H);
        mirror(H, m->p);
    }
    return finish(&arrays);
}

static PyObject *matrix_hvp(PyObject *self, PyObject *args)
{
    Matrix *m = (Matrix *)self;
    PyObject *h_, *v_, *out_;
    if (!PyArg_ParseTuple(args, "OOO:hvp", &h_, &v_, &out_))
        return NULL;
    Arrays arrays = {.count = 0};
    const double *h = numbers(&arrays, h_, "h", "d", m->n, 1, 0);
    const double *v = h ? numbers(&arrays, v_, "v", "d", m->p, 1, 0) : NULL;
    double *out = v ? numbers(&arrays, out_, "out", "d", m->p, 1, 1) : NULL;
    if (out && out == v)
        PyErr_SetString(PyExc_ValueError, "out must not be v");
    else if (out) {
        double z[ROWS];
        memset(out, 0, (size_t)m->p * sizeof(double));
        for (Py_ssize_t first = 0; first < m->n; first += ROWS) {
            const Py_ssize_t end = m->n - first < ROWS ? m->n : first + ROWS;
            m->loops->times(m, first, end, 1, v, z);
            for (Py_ssize_t i = 0; i < end - first; i++)
                z[i] *= h[first + i];
            m->loops->add(m, first, end, 1, 0, z, out);
        }
    }
    return finish(&arrays);
}

static PyObject *matrix_evaluate(PyObject *self, PyObject *args)
{
    Matrix *m = (Matrix *)self;
    PyObject *loss_, *w_, *z_, *g_, *H_;
    if (!PyArg_ParseTuple(args, "OOOOO:evaluate", &loss_, &w_, &z_, &g_, &H_))
        return NULL;
    Arrays arrays = {.count = 0};
    Loss q;
    double *scratch = NULL, *z = NULL, value = 0.0;
    if (!read_loss(&q, &arrays, loss_, m->n))
        goto failed;
    const Py_ssize_t C = q.outputs;
    const double *w = optional(&arrays, w_, "w", m->p, C, 0);
    if (!PyErr_Occurred())
        z = numbers(&arrays, z_, "z", "d", m->n, C, w != NULL);
    double *g = PyErr_Occurred() ? NULL : optional(&arrays, g_, "g", m->p, C, 1);
    double *H = PyErr_Occurred() ? NULL : optional(&arrays, H_, "H", m->p, m->p, 1);
    if (!PyErr_Occurred() && H && q.loss == SOFTMAX)
        PyErr_SetString(PyExc_ValueError, "softmax: no Hessian in one pass");
    if (PyErr_Occurred() || !(scratch = scratch_for(&q, 2)))
        goto failed;
    double *r = g || H ? scratch + q.block * (1 + 2 * C) : NULL, *h = r ? r + q.block * C : NULL;
    if (g)
        memset(g, 0, (size_t)(m->p * C) * sizeof(double));
    if (H)
        memset(H, 0, (size_t)(m->p * m->p) * sizeof(double));
    for (Py_ssize_t first = 0; first < m->n; first += q.block) {
        const Py_ssize_t end = m->n - first < q.block ? m->n : first + q.block;
        if (w)
            m->loops->times(m, first, end, C, w, z + first * C);
        if (!evaluate_block(&q, first, end - first, z + first * C, &value, r, h, scratch)) {
            no_class();
            goto failed;
        }
        if (g)
            m->loops->add(m, first, end, C, 0, r, g);
        if (H)
            m->loops->gram(m, first, end, h, H);
    }
    if (H)
        mirror(H, m->p);
failed:
    PyMem_Free(scratch);
    release(&arrays);
    return PyErr_Occurred() ? NULL : PyFloat_FromDouble(value);
}

/* -- functions of the module ---------------------------------------------------------------------------------------- */

static PyObject *terms(PyObject *module, PyObject *args)
{
    (void)module;
    PyObject *loss_, *z_, *r_, *h_;
    Py_ssize_t n;
    if (!PyArg_ParseTuple(args, "OnOOO:terms", &loss_, &n, &z_, &r_, &h_))
        return NULL;
    if (n < 0)
        return PyErr_Format(PyExc_ValueError, "negative number of rows");
    Arrays arrays = {.count = 0};
    Loss q;
    double *scratch = NULL, value = 0.0;
    if (!read_loss(&q, &arrays, loss_, n))
        goto failed;
    const Py_ssize_t C = q.outputs;
    const double *z = numbers(&arrays, z_, "z", "d", n, C, 0);
    double *r = z ? optional(&arrays, r_, "r", n, C, 1) : NULL;
    double *h = PyErr_Occurred() ? NULL : optional(&arrays, h_, "h", n, C, 1);
    if (PyErr_Occurred() || !(scratch = scratch_for(&q, 0)))
        goto failed;
    for (Py_ssize_t first = 0; first < n; first += q.block) {
        const Py_ssize_t k = n - first < q.block ? n - first : q.block;
        if (!evaluate_block(&q, first, k, z + first * C, &value, r ? r + first * C : NULL, h ? h + first * C : NULL,
                            scratch)) {
            no_class();
            goto failed;
        }
    }
failed:
    PyMem_Free(scratch);
    release(&arrays);
    return PyErr_Occurred() ? NULL : PyFloat_FromDouble(value);
}

static PyObject *line(PyObject *module, PyObject *args)
{
    (void)module;
    PyObject *loss_, *z_, *dz_, *steps_, *out_;
    Py_ssize_t n, count;
    if (!PyArg_ParseTuple(args, "OnOOnOO:line", &loss_, &n, &z_, &dz_, &count, &steps_, &out_))
        return NULL;
    if (n < 0 || count < 0)
        return PyErr_Format(PyExc_ValueError, "negative number of rows or steps");
    Arrays arrays = {.count = 0};
    Loss q;
    double *scratch = NULL;
    if (!read_loss(&q, &arrays, loss_, n))
        goto failed;
    const Py_ssize_t C = q.outputs;
    const double *z = numbers(&arrays, z_, "z", "d", n, C, 0);
    const double *dz = z ? numbers(&arrays, dz_, "dz", "d", n, C, 0) : NULL;
    const double *steps = dz ? numbers(&arrays, steps_, "steps", "d", count, 1, 0) : NULL;
    double *out = steps ? numbers(&arrays, out_, "out", "d", count, 1, 1) : NULL;
    if (!out || !(scratch = scratch_for(&q, 1)))
        goto failed;
    double *trial = scratch + q.block * (1 + 2 * C);
    memset(out, 0, (size_t)count * sizeof(double));
    for (Py_ssize_t first = 0; first < n; first += q.block) {
        const Py_ssize_t k = n - first < q.block ? n - first : q.block;
        for (Py_ssize_t s = 0; s < count; s++) {
            const double a = steps[s];
            for (Py_ssize_t i = 0; i < k * C; i++)
                trial[i] = z[first * C + i] + a * dz[first * C + i];
            if (!evaluate_block(&q, first, k, trial, &out[s], NULL, NULL, scratch)) {
                no_class();
                goto failed;
            }
        }
    }
failed:
    PyMem_Free(scratch);
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
    {"times", matrix_times, METH_VARARGS, "times(v, out, C): out = X v."},
    {"transpose_times", matrix_transpose_times, METH_VARARGS, "transpose_times(r, out, C): out = X'r."},
    {"squares_transpose_times", matrix_squares_transpose_times, METH_VARARGS,
     "squares_transpose_times(r, out, C): out = X.^2'r."},
    {"gram", matrix_gram, METH_VARARGS, "gram(h, H): H = X'diag(h)X."},
    {"hvp", matrix_hvp, METH_VARARGS, "hvp(h, v, out): out = X'(h X v)."},
    {"evaluate", matrix_evaluate, METH_VARARGS,
     "evaluate(loss, w, z, g, H): the sum of the values; z = X w unless w is None, g and H unless they are None."},
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
    {"terms", terms, METH_VARARGS, "terms(loss, n, z, r, h): the sum of the values; r and h unless they are None."},
    {"line", line, METH_VARARGS, "line(loss, n, z, dz, k, steps, out): the sums of the values at z + step dz."},
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
        PyModule_AddObjectRef(module, "Matrix", type)) {
        Py_XDECREF(names);
        Py_XDECREF(type);
        Py_DECREF(module);
        return NULL;
    }
    Py_DECREF(names);
    Py_DECREF(type);
    (void)(use_level("avx512") || use_level("avx2"));
    return module;
}
