/* Compiled readers of numbers in text: LIBSVM lines, and tables of numbers.
 *
 * They accept what their twins in numpy accept, and give the same bits: the digits as an integer and a small power of
 * ten are exact, so that their quotient or product is correctly rounded; other numbers are read by Python's own
 * conversion. Anything else raises a bare ValueError, which the caller puts into words.
 */
#define Py_LIMITED_API 0x030b0000
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <float.h>
#include <math.h>
#include <stdint.h>
#include <string.h>

#if LDBL_MANT_DIG == 64 /* x86: quotients and products are correctly rounded to 64 bits */
enum { DIGITS = 19, POWER = 27 };
typedef long double Wide;
#define P(k) 1e##k##L
#else
enum { DIGITS = 15, POWER = 22 };
typedef double Wide;
#define P(k) 1e##k
#endif
/* Exact powers of ten. */
static const Wide POWERS[] = {P(0),  P(1),  P(2),  P(3),  P(4),  P(5),  P(6),  P(7),  P(8),  P(9),
                              P(10), P(11), P(12), P(13), P(14), P(15), P(16), P(17), P(18), P(19),
                              P(20), P(21), P(22),
#if LDBL_MANT_DIG == 64
                              P(23), P(24), P(25), P(26), P(27)
#endif
};

/* m 10^e, correctly rounded; 0 where that cannot be told. */
static inline int scale(uint64_t m, int e, double *out)
{
    const Wide value = e < 0 ? (Wide)m / POWERS[-e] : (Wide)m * POWERS[e];
#if LDBL_MANT_DIG == 64
    /* Rounded twice, it is wrong only where 64 bits end in the middle between two doubles. */
    uint64_t bits;
    memcpy(&bits, &value, 8);
    if ((bits & 0x7ff) == 0x400)
        return 0;
#endif
    *out = (double)value;
    return 1;
}

static inline int is_digit(char c) { return c >= '0' && c <= '9'; }

/* The finite number [+-](digits[.[digits]] | .digits)[(e|E)[+-]digits] that begins at *at, which is moved to its end;
 * 0 if there is none. The text ends with NUL. */
static int read_number(const char **at, double *out)
{
    const char *const begin = *at, *c = begin;
    const int negative = *c == '-';
    c += *c == '-' || *c == '+';
    uint64_t mantissa = 0;
    int digits = 0, kept = 0; /* digits at all, and from the first that is not 0 */
    long exponent = 0;
    for (; is_digit(*c); c++, digits++)
        if (kept || *c != '0') {
            if (kept++ < DIGITS)
                mantissa = 10 * mantissa + (uint64_t)(*c - '0');
        }
    if (*c == '.')
        for (c++; is_digit(*c); c++, digits++) {
            if ((kept || *c != '0') && kept++ < DIGITS)
                mantissa = 10 * mantissa + (uint64_t)(*c - '0');
            exponent -= kept <= DIGITS;
        }
    if (!digits)
        return 0;
    if (*c == 'e' || *c == 'E') {
        c++;
        const int down = *c == '-';
        c += *c == '-' || *c == '+';
        if (!is_digit(*c))
            return 0;
        long given = 0;
        for (; is_digit(*c); c++)
            given = given < 100000 ? 10 * given + (*c - '0') : given;
        exponent += down ? -given : given;
    }
    *at = c;
    if (kept <= DIGITS && exponent >= -POWER && exponent <= POWER && scale(mantissa, (int)exponent, out)) {
        *out = negative ? -*out : *out;
        return 1;
    }
    char *end;
    *out = PyOS_string_to_double(begin, &end, NULL);
    if (PyErr_Occurred()) {
        PyErr_Clear();
        return 0;
    }
    return end == c && isfinite(*out);
}

/* A writable array of so many items of this size; NULL with an exception otherwise. */
static void *output(PyObject *object, Py_buffer *view, const char *format, Py_ssize_t size)
{
    if (PyObject_GetBuffer(object, view, PyBUF_WRITABLE | PyBUF_C_CONTIGUOUS | PyBUF_FORMAT))
        return NULL;
    if (view->format && strcmp(view->format, format) == 0 && view->len >= size * view->itemsize)
        return view->buf;
    PyErr_Format(PyExc_ValueError, "expected an array of type %s with %zd items", format, size);
    PyBuffer_Release(view);
    return NULL;
}

static Py_ssize_t count_of(const char *text, Py_ssize_t size, char what)
{
    Py_ssize_t found = 0;
    for (Py_ssize_t i = 0; i < size; i++)
        found += text[i] == what;
    return found;
}

/* The begin of the next line, where a newline is next; NULL otherwise. */
static const char *after_newline(const char *c)
{
    c += *c == '\r' && c[1] == '\n';
    return *c == '\n' ? c + 1 : NULL;
}

/* The same, where a comment may come before the newline. */
static const char *after_comment(const char *c)
{
    if (*c == '#')
        while (*c != '\n' && *c != '\0')
            c++;
    return after_newline(c);
}

static PyObject *libsvm(PyObject *module, PyObject *args)
{
    (void)module;
    const char *text;
    Py_ssize_t size, limit, row = 0, entry = 0, largest = 0;
    PyObject *objects[4];
    Py_buffer views[4];
    void *arrays[4];
    if (!PyArg_ParseTuple(args, "y#nOOOO:libsvm", &text, &size, &limit, &objects[0], &objects[1], &objects[2],
                          &objects[3]))
        return NULL;
    const Py_ssize_t rows = count_of(text, size, '\n'), entries = count_of(text, size, ':');
    const char *const formats[4] = {"l", "i", "d", "d"};
    const Py_ssize_t sizes[4] = {rows + 1, entries, entries, rows};
    int held = 0;
    for (; held < 4; held++)
        if (!(arrays[held] = output(objects[held], &views[held], formats[held], sizes[held])))
            break;
    int good = held == 4 && limit <= INT32_MAX;
    if (good) {
        int64_t *const starts = arrays[0];
        int32_t *const indices = arrays[1];
        double *const values = arrays[2], *const labels = arrays[3];
        const char *c = text, *next;
        starts[0] = 0;
        while (good && c < text + size) {
            while (*c == ' ' || *c == '\t')
                c++;
            if ((next = after_comment(c))) {
                c = next;
                continue;
            }
            good = read_number(&c, &labels[row]);
            Py_ssize_t before = 0;
            while (good) {
                const char *const gap = c;
                while (*c == ' ' || *c == '\t')
                    c++;
                if ((next = after_comment(c)))
                    break;
                Py_ssize_t index = 0;
                const char *const first = c;
                for (; is_digit(*c); c++)
                    index = index <= limit ? 10 * index + (*c - '0') : index;
                good = c > gap && first > gap && c > first && *c == ':' && index > before && index <= limit;
                if (!good)
                    break;
                c++;
                good = read_number(&c, &values[entry]);
                indices[entry++] = (int32_t)(index - 1);
                before = index;
            }
            if (good) {
                largest = before > largest ? before : largest;
                starts[++row] = entry;
                c = next;
            }
        }
    }
    while (held)
        PyBuffer_Release(&views[--held]);
    if (PyErr_Occurred())
        return NULL;
    if (!good) {
        PyErr_SetNone(PyExc_ValueError);
        return NULL;
    }
    return Py_BuildValue("nnn", row, entry, largest);
}

static PyObject *table(PyObject *module, PyObject *args)
{
    (void)module;
    const char *text;
    Py_ssize_t size, width, row = 0;
    int delimiter; /* 0: spaces and tabs */
    PyObject *used_, *out_;
    Py_buffer used = {0}, view;
    if (!PyArg_ParseTuple(args, "y#inOO:table", &text, &size, &delimiter, &width, &used_, &out_) ||
        PyObject_GetBuffer(used_, &used, PyBUF_C_CONTIGUOUS))
        return NULL;
    double *const out = output(out_, &view, "d", width > 0 ? count_of(text, size, '\n') * width : 0);
    int good = out && width > 0 && used.len == width;
    const char *c = text;
    while (good && c < text + size) {
        const char *blank = c;
        while (*blank == ' ' || *blank == '\t')
            blank++;
        if ((blank = after_newline(blank))) {
            c = blank;
            continue;
        }
        Py_ssize_t column = 0;
        for (; good && column < width; column++) {
            while (*c == ' ' || (*c == '\t' && delimiter != '\t'))
                c++;
            if (((const char *)used.buf)[column])
                good = read_number(&c, &out[row * width + column]);
            else {
                out[row * width + column] = 0.0;
                for (; *c != delimiter && *c != '\n' && *c != '\0'; c++)
                    if (*c == '"' || *c == '\r' || (!delimiter && (*c == ' ' || *c == '\t')))
                        break;
            }
            const char *const end = c;
            while (*c == ' ' || (*c == '\t' && delimiter != '\t'))
                c++;
            if (column + 1 < width && delimiter)
                good = good && *c++ == delimiter;
            else if (column + 1 < width)
                good = good && c > end;
        }
        const char *const next = after_newline(c);
        good = good && next;
        c = good ? next : c;
        row++;
    }
    PyBuffer_Release(&used);
    if (out)
        PyBuffer_Release(&view);
    if (PyErr_Occurred())
        return NULL;
    if (!good) {
        PyErr_SetNone(PyExc_ValueError);
        return NULL;
    }
    return PyLong_FromSsize_t(row);
}

static PyMethodDef FUNCTIONS[] = {
    {"libsvm", libsvm, METH_VARARGS,
     "libsvm(text, limit, starts, indices, values, labels): rows, entries and largest index of LIBSVM lines."},
    {"table", table, METH_VARARGS,
     "table(text, delimiter, width, used, out): the number of rows of numbers; 0 in columns that are not used."},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef MODULE = {PyModuleDef_HEAD_INIT, "text", "Compiled readers of numbers.", -1, FUNCTIONS,
                                    NULL, NULL, NULL, NULL};

PyMODINIT_FUNC PyInit_text(void) { return PyModule_Create(&MODULE); }
