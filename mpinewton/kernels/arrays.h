/* Arrays and losses that Python passes: type, length and alignment are checked. Included by rows.c alone. */

/* The arrays of one call, released together. */
typedef struct {
    Py_buffer held[12];
    int count;
} Arrays;

static void release(Arrays *arrays)
{
    while (arrays->count)
        PyBuffer_Release(&arrays->held[--arrays->count]);
}

/* The kind of the numbers in a buffer as the letter of its format: d, f, i, q (64 bits), H; 0 for all others. */
static char kind_of(const Py_buffer *buffer)
{
    const char *format = buffer->format ? buffer->format : "B";
    if (*format == '@' || *format == '=')
        format++;
    if (!*format || format[1])
        return 0;
    const char kind = *format == 'l' ? (sizeof(long) == 8 ? 'q' : 'i') : *format;
    const Py_ssize_t size = kind == 'd' || kind == 'q' ? 8 : kind == 'f' || kind == 'i' ? 4 : kind == 'H' ? 2 : 0;
    return size && buffer->itemsize == size && (uintptr_t)buffer->buf % (size_t)size == 0 ? kind : 0;
}

/* Takes the buffer of `object`, whose numbers must be of one of `kinds`; ValueError, and 0, if they are not. */
static int take(PyObject *object, Py_buffer *buffer, const char *name, const char *kinds, int writable)
{
    const int flags = PyBUF_C_CONTIGUOUS | PyBUF_FORMAT | (writable ? PyBUF_WRITABLE : 0);
    if (PyObject_GetBuffer(object, buffer, flags))
        return 0;
    const char kind = kind_of(buffer);
    if (kind && strchr(kinds, kind))
        return 1;
    PyErr_Format(PyExc_ValueError, "%s: unexpected type of numbers, '%s'", name, buffer->format ? buffer->format : "?");
    PyBuffer_Release(buffer);
    return 0;
}

/* The numbers of an array of known length; NULL with an exception set. */
static void *numbers(Arrays *arrays, PyObject *object, const char *name, const char *kind, Py_ssize_t rows,
                     Py_ssize_t columns, int writable)
{
    Py_buffer *buffer = &arrays->held[arrays->count];
    if (columns && rows > PY_SSIZE_T_MAX / 8 / columns)
        return PyErr_Format(PyExc_ValueError, "%s: too many numbers", name);
    if (!take(object, buffer, name, kind, writable))
        return NULL;
    arrays->count++;
    if (buffer->len / buffer->itemsize == rows * columns)
        return buffer->buf;
    return PyErr_Format(PyExc_ValueError, "%s: expected %zd numbers; found %zd", name, rows * columns,
                        buffer->len / buffer->itemsize);
}

/* A run of numbers that the items of a call share, one part after the other. */
typedef struct {
    double *next; /* NULL: not asked for */
    Py_ssize_t left;
} Run;

/* Takes an array of any length, or none; 0 with an exception set. */
static int take_run(Arrays *arrays, Run *run, PyObject *object, const char *name, int writable)
{
    Py_buffer *buffer = &arrays->held[arrays->count];
    *run = (Run){NULL, 0};
    if (object == Py_None)
        return 1;
    if (!take(object, buffer, name, "d", writable))
        return 0;
    arrays->count++;
    *run = (Run){buffer->buf, buffer->len / buffer->itemsize};
    return 1;
}

/* The next rows * columns numbers of a run; NULL, with an exception set, where there are not so many. */
static double *part(Run *run, const char *name, Py_ssize_t rows, Py_ssize_t columns)
{
    if (!run->next)
        return NULL;
    if (columns && rows > run->left / columns) {
        PyErr_Format(PyExc_ValueError, "%s: expected more numbers", name);
        return NULL;
    }
    double *numbers = run->next;
    run->next += rows * columns;
    run->left -= rows * columns;
    return numbers;
}

/* Whether all numbers of a run have been taken; else an exception is set. */
static int ended(const Run *run, const char *name)
{
    if (run->left)
        PyErr_Format(PyExc_ValueError, "%s: expected %zd numbers less", name, run->left);
    return !run->left;
}

static void *optional(Arrays *arrays, PyObject *object, const char *name, Py_ssize_t rows, Py_ssize_t columns,
                      int writable)
{
    return object == Py_None ? NULL : numbers(arrays, object, name, "d", rows, columns, writable);
}

/* A loss from (number, parameter, outputs, labels, constants, weights, scale); 0 with an exception set. */
static int read_loss(Loss *q, Arrays *arrays, PyObject *object)
{
    PyObject *labels, *constants, *weights;
    if (!PyTuple_Check(object)) {
        PyErr_SetString(PyExc_TypeError, "expected the loss as a tuple");
        return 0;
    }
    if (!PyArg_ParseTuple(object, "idnOOOd:loss", &q->loss, &q->parameter, &q->outputs, &labels, &constants, &weights,
                          &q->scale))
        return 0;
    if (q->loss < 0 || q->loss >= LOSSES || q->outputs < 1 || q->outputs > INT32_MAX ||
        (q->loss != SOFTMAX && q->outputs != 1)) {
        PyErr_SetString(PyExc_ValueError, "there is no such loss with so many outputs");
        return 0;
    }
    q->block = q->outputs == 1 ? ROWS : q->outputs >= NUMBERS ? 1 : NUMBERS / q->outputs;
    q->block = q->block > ROWS ? ROWS : q->block;
    Py_buffer *buffer = &arrays->held[arrays->count];
    if (!take(labels, buffer, "labels", q->loss == SOFTMAX ? "q" : "d", 0))
        return 0;
    arrays->count++;
    q->labels = buffer->buf;
    q->rows = buffer->len / buffer->itemsize;
    q->constants = optional(arrays, constants, "constants", q->rows, 1, 0);
    if (!PyErr_Occurred())
        q->weights = optional(arrays, weights, "weights", q->rows, 1, 0);
    return !PyErr_Occurred();
}

static double *scratch_for(const Loss *q, Py_ssize_t more)
{
    double *scratch = PyMem_Malloc((size_t)(q->block * (1 + 2 * q->outputs + more * q->outputs)) * sizeof(double));
    if (!scratch)
        PyErr_NoMemory();
    return scratch;
}

static PyObject *no_class(void)
{
    PyErr_SetString(PyExc_ValueError, "a label is not the position of a class");
    return NULL;
}
