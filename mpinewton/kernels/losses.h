/* Losses of a block of rows, by instruction set. Included by rows.c alone. */

typedef struct {
    void (*one_output)(int, double, Py_ssize_t, const double *, const double *, double *, double *, double *, double *);
    int (*softmax)(int, Py_ssize_t, Py_ssize_t, const double *, const int64_t *, double *, double *, double *, double *);
    double (*sum)(Py_ssize_t, const double *, const double *);
    void (*gram)(Py_ssize_t, Py_ssize_t, const double *, const double *, double *);
    void (*ritz)(Py_ssize_t, Py_ssize_t, Py_ssize_t, double *, double *, double *, double *);
} Formulas;

#define LEVEL(name) name##_baseline
#define TARGET
#include "formulas.h"
#if defined(__x86_64__) && (defined(__GNUC__) || defined(__clang__))
#define LEVEL(name) name##_avx2
#define TARGET __attribute__((target("avx2")))
#include "formulas.h"
#define LEVEL(name) name##_avx512
#define TARGET __attribute__((target("avx512f,avx512dq")))
#include "formulas.h"
#endif

static const char *level = "baseline";
static const Formulas *formulas = &formulas_baseline;

/* Use the formulas of this instruction set, where the processor has it. */
static int use_level(const char *name)
{
    if (!strcmp(name, "baseline"))
        return level = "baseline", formulas = &formulas_baseline, 1;
#if defined(__x86_64__) && (defined(__GNUC__) || defined(__clang__))
    __builtin_cpu_init();
    if (!strcmp(name, "avx2") && __builtin_cpu_supports("avx2"))
        return level = "avx2", formulas = &formulas_avx2, 1;
    if (!strcmp(name, "avx512") && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq"))
        return level = "avx512", formulas = &formulas_avx512, 1;
#endif
    return 0;
}

/* A loss with the labels of the rows, the constants added to their values, and their weights. */
typedef struct {
    int loss;
    double parameter;
    Py_ssize_t rows, outputs, block; /* rows of a block */
    const void *labels;
    const double *constants, *weights; /* or NULL */
    double scale;                      /* factor of h */
} Loss;

/* Adds the values of k rows from `first` on, with logits z, to *value; r and h are those of the rows. The scratch has
 * 2 `block` (outputs + 1) numbers. Any of value, r and h may be NULL. Returns 0 if a label is not that of a class. */
static int evaluate_block(const Loss *q, Py_ssize_t first, Py_ssize_t k, const double *z, double *value, double *r,
                          double *h, double *scratch)
{
    const Py_ssize_t C = q->outputs;
    double *v = value ? scratch : NULL, *e = scratch + q->block;
    const double *weights = q->weights ? q->weights + first : NULL;
    if (r && !h)
        h = e + q->block * C;
    else if (h && !r)
        r = e + q->block * C;
    if (q->loss == SOFTMAX) {
        const int reduced = q->parameter != 0.0;
        if (!formulas->softmax(reduced, k, C, z, (const int64_t *)q->labels + first, v, r, h, e))
            return 0;
    } else
        formulas->one_output(q->loss, q->parameter, k, z, (const double *)q->labels + first, v, r, h, e);
    if (v && q->constants)
        for (Py_ssize_t i = 0; i < k; i++)
            v[i] += q->constants[first + i];
    if (v)
        *value += formulas->sum(k, v, weights);
    if (r && weights)
        for (Py_ssize_t i = 0; i < k; i++)
            for (Py_ssize_t c = 0; c < C; c++)
                r[i * C + c] *= weights[i];
    if (h && q->loss != SOFTMAX)
        for (Py_ssize_t i = 0; i < k; i++)
            h[i] *= weights ? weights[i] * q->scale : q->scale;
    return 1;
}

/* out = the sums of the values at the logits z + step dz, for `count` steps; 0 if a label is not that of a class. */
static int losses_on_line(const Loss *q, const double *z, const double *dz, Py_ssize_t count, const double *steps,
                          double *out, double *scratch)
{
    const Py_ssize_t C = q->outputs;
    double *trial = scratch + q->block * (1 + 2 * C);
    memset(out, 0, (size_t)count * sizeof(double));
    for (Py_ssize_t first = 0; first < q->rows; first += q->block) {
        const Py_ssize_t k = q->rows - first < q->block ? q->rows - first : q->block;
        for (Py_ssize_t s = 0; s < count; s++) {
            for (Py_ssize_t i = 0; i < k * C; i++)
                trial[i] = z[first * C + i] + steps[s] * dz[first * C + i];
            if (!evaluate_block(q, first, k, trial, &out[s], NULL, NULL, scratch))
                return 0;
        }
    }
    return 1;
}
