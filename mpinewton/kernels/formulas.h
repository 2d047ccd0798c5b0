/* Losses of a block of rows.
 *
 * Included once for every instruction set: LEVEL(f) names the functions and TARGET is their attribute. Every operation
 * is one of IEEE 754 in the order written, so that all instruction sets compute the same bits.
 */

/* Values v, first derivatives r and second derivatives h of k rows with logits z; v, r and h may be NULL, r and h only
 * together. `a` is the parameter of the loss, e scratch for k numbers. */
TARGET static void LEVEL(one_output)(int loss, double a, Py_ssize_t k, const double *z, const double *t, double *v,
                                     double *r, double *h, double *e)
{
    Py_ssize_t i;
    switch (loss) {
    case LOGISTIC:
        for (i = 0; i < k; i++)
            e[i] = exponential(-fabs(t[i] * z[i]));
        if (r)
            for (i = 0; i < k; i++) {
                const double d = 1.0 / (1.0 + e[i]);
                r[i] = -t[i] * ((t[i] * z[i] < 0.0 ? 1.0 : e[i]) * d);
                h[i] = e[i] * d * d;
            }
        if (v)
            for (i = 0; i < k; i++) {
                const double m = t[i] * z[i];
                v[i] = (m < 0.0 ? -m : 0.0) + log_1_plus(e[i]);
            }
        break;
    case SOFTPLUS:
        for (i = 0; i < k; i++)
            e[i] = exponential(-fabs(z[i]));
        for (i = 0; i < k; i++) {
            const double d = 1.0 / (1.0 + e[i]), u = (z[i] > 0.0 ? z[i] : 0.0) + log_1_plus(e[i]) - t[i];
            const double s = (z[i] < 0.0 ? e[i] : 1.0) * d, rest = (z[i] < 0.0 ? 1.0 : e[i]) * d;
            if (r) {
                r[i] = 2.0 * u * s;
                h[i] = 2.0 * s * (s + u * rest);
            }
            if (v)
                v[i] = u * u;
        }
        break;
    case SQUARED:
        for (i = 0; i < k; i++) {
            const double d = z[i] - t[i];
            if (r) {
                r[i] = d;
                h[i] = 1.0;
            }
            if (v)
                v[i] = 0.5 * (d * d);
        }
        break;
    case HUBER:
        for (i = 0; i < k; i++) {
            const double d = z[i] - t[i], size = fabs(d), near = size < a ? size : a;
            if (r) {
                r[i] = d < -a ? -a : d > a ? a : d;
                h[i] = size <= a ? 1.0 : 0.0;
            }
            if (v)
                v[i] = near * (size - 0.5 * near);
        }
        break;
    case POISSON: /* from a on, the second-order Taylor polynomial of exp */
        for (i = 0; i < k; i++)
            e[i] = exponential(z[i] > a ? a : z[i]);
        for (i = 0; i < k; i++) {
            const double beyond = z[i] - (z[i] > a ? a : z[i]);
            if (r) {
                r[i] = e[i] * (1.0 + beyond) - t[i];
                h[i] = e[i];
            }
            if (v)
                v[i] = e[i] * (1.0 + beyond + 0.5 * (beyond * beyond)) - t[i] * z[i];
        }
        break;
    }
}

/* The same for the softmax loss, z, r and h of shape (k, C), t the positions of the classes; h are probabilities. With
 * `reduced` the logit of class C is 0. Scratch e has (k, C) numbers. Returns 0 if a position is not that of a class. */
TARGET static int LEVEL(softmax)(int reduced, Py_ssize_t k, Py_ssize_t C, const double *z, const int64_t *t, double *v,
                                 double *r, double *h, double *e)
{
    double sum[ROWS], top[ROWS];
    for (Py_ssize_t i = 0; i < k; i++) {
        top[i] = reduced ? 0.0 : z[i * C];
        for (Py_ssize_t c = 0; c < C; c++)
            top[i] = z[i * C + c] > top[i] ? z[i * C + c] : top[i];
        for (Py_ssize_t c = 0; c < C; c++)
            e[i * C + c] = z[i * C + c] - top[i];
    }
    for (Py_ssize_t i = 0; i < k * C; i++)
        e[i] = exponential(e[i]);
    for (Py_ssize_t i = 0; i < k; i++) {
        sum[i] = 0.0;
        for (Py_ssize_t c = 0; c < C; c++)
            sum[i] += e[i * C + c];
        if (reduced)
            sum[i] += exponential(-top[i]);
    }
    for (Py_ssize_t i = 0; i < k; i++) {
        const int64_t y = t[i];
        if (y < 0 || y >= C + reduced)
            return 0;
        if (v)
            v[i] = logarithm(sum[i]) - ((y < C ? z[i * C + y] : 0.0) - top[i]);
        if (r) {
            for (Py_ssize_t c = 0; c < C; c++)
                r[i * C + c] = h[i * C + c] = e[i * C + c] / sum[i];
            if (y < C)
                r[i * C + y] -= 1.0;
        }
    }
    return 1;
}

/* Weighted sum of k values, in eight lanes; w may be NULL. */
TARGET static double LEVEL(sum)(Py_ssize_t k, const double *v, const double *w)
{
    double lane[8] = {0.0};
    Py_ssize_t i = 0;
    for (; i + 8 <= k; i += 8)
        for (int j = 0; j < 8; j++)
            lane[j] += w ? w[i + j] * v[i + j] : v[i + j];
    for (int j = 0; i < k; i++, j++)
        lane[j] += w ? w[i] * v[i] : v[i];
    return ((lane[0] + lane[1]) + (lane[2] + lane[3])) + ((lane[4] + lane[5]) + (lane[6] + lane[7]));
}

/* Upper triangle of H = X'diag(h)X for dense rows, X (n, p), h (n,), H (p, p): the sum over blocks of rows. Four
 * rows are added at a time, to the columns from the last multiple of eight before the diagonal on. */
TARGET static void LEVEL(gram)(Py_ssize_t n, Py_ssize_t p, const double *x, const double *h, double *H)
{
    const Py_ssize_t width = (p + 7) / 8 * 8;
    double sums[NARROW * NARROW], row[4][NARROW] = {{0.0}};
    memset(H, 0, (size_t)(p * p) * sizeof(double));
    for (Py_ssize_t first = 0; first < n; first += ROWS) {
        memset(sums, 0, (size_t)(p * width) * sizeof(double));
        for (Py_ssize_t i = first; i < n && i < first + ROWS; i += 4) {
            double weight[4];
            for (int k = 0; k < 4; k++) {
                weight[k] = i + k < n ? h[i + k] : 0.0;
                for (Py_ssize_t j = 0; j < p; j++)
                    row[k][j] = i + k < n ? x[(i + k) * p + j] : 0.0;
            }
            for (Py_ssize_t j = 0; j < p; j++) {
                const double a = weight[0] * row[0][j], b = weight[1] * row[1][j];
                const double c = weight[2] * row[2][j], d = weight[3] * row[3][j];
                double *line = sums + j * width;
                for (Py_ssize_t k = j / 8 * 8; k < width; k += 8)
                    for (Py_ssize_t l = k; l < k + 8; l++)
                        line[l] = (((line[l] + a * row[0][l]) + b * row[1][l]) + c * row[2][l]) + d * row[3][l];
            }
        }
        for (Py_ssize_t j = 0; j < p; j++)
            for (Py_ssize_t k = j; k < p; k++)
                H[j * p + k] += sums[j * width + k];
    }
}

#include "subspace.h"

static const Formulas LEVEL(formulas) = {LEVEL(one_output), LEVEL(softmax), LEVEL(sum), LEVEL(gram), LEVEL(ritz)};

#undef LEVEL
#undef TARGET
