/* exp and log by operations of IEEE 754 alone, so that all instruction sets compute the same bits. Included by rows.c alone. */

static const double LN2_HIGH = 6.93147180369123816490e-01, LN2_LOW = 1.90821492927058770002e-10;

static inline double from_bits(uint64_t i)
{
    double d;
    memcpy(&d, &i, 8);
    return d;
}

static inline uint64_t to_bits(double d)
{
    uint64_t i;
    memcpy(&i, &d, 8);
    return i;
}

/* exp(x); 0 below -708, infinity above 709. */
static inline double exponential(double x)
{
    const double big = 6755399441055744.0; /* 1.5 2^52: adding it rounds to an integer, in the low bits of the sum */
    double k = (x < -708.0 ? -708.0 : x) * 1.44269504088896338700e+00 + big;
    const uint64_t bits = to_bits(k);
    k -= big;
    const double r = (x - k * LN2_HIGH) - k * LN2_LOW;
    double p = 1.0 / 6227020800.0;
    p = p * r + 1.0 / 479001600.0;
    p = p * r + 1.0 / 39916800.0;
    p = p * r + 1.0 / 3628800.0;
    p = p * r + 1.0 / 362880.0;
    p = p * r + 1.0 / 40320.0;
    p = p * r + 1.0 / 5040.0;
    p = p * r + 1.0 / 720.0;
    p = p * r + 1.0 / 120.0;
    p = p * r + 1.0 / 24.0;
    p = p * r + 1.0 / 6.0;
    p = p * r + 0.5;
    p = p * r + 1.0;
    p = p * r + 1.0;
    p *= from_bits((bits + 1023) << 52);
    return x < -708.0 ? 0.0 : x > 709.0 ? (double)INFINITY : p;
}

/* 2 artanh(f / (2 + f)) - 2 f / (2 + f) divided by f / (2 + f), the rest of log(1 + f), as in FDLIBM. */
static inline double log_rest(double z)
{
    double p = 1.479819860511658591e-01;
    p = p * z + 1.531383769920937332e-01;
    p = p * z + 1.818357216161805012e-01;
    p = p * z + 2.222219843214978396e-01;
    p = p * z + 2.857142874366239149e-01;
    p = p * z + 3.999999999940941908e-01;
    p = p * z + 6.666666666666735130e-01;
    return p * z;
}

/* log(1 + e), 0 <= e <= 1. */
static inline double log_1_plus(double e)
{
    const double u = 1.0 + e, lost = (e - (u - 1.0)) / u;
    const int large = u > 1.4142135623730951;
    const double f = (large ? u * 0.5 : u) - 1.0, s = f / (2.0 + f);
    return (large ? 0.6931471805599453 : 0.0) + (2.0 * s + s * log_rest(s * s)) + lost;
}

/* log(x), x >= 1 and finite; NaN for NaN. */
static inline double logarithm(double x)
{
    const uint64_t bits = to_bits(x);
    const double m = from_bits((bits & 0xfffffffffffffULL) | 0x3ff0000000000000ULL);
    const int large = m > 1.4142135623730951;
    const double k = (double)((int)(bits >> 52 & 0x7ff) - 1023 + large);
    const double f = (large ? m * 0.5 : m) - 1.0, s = f / (2.0 + f);
    return k * LN2_HIGH + (k * LN2_LOW + (2.0 * s + s * log_rest(s * s))) + (x - x);
}

/* Eigenvalues e and eigenvectors, the columns of Z, of the symmetric part of T (b, b), largest moduli first, by Jacobi's
 * rotations; T is destroyed. Returns 0, with e NaN, if T is not finite. */
static int eigenpairs(Py_ssize_t b, double *T, double *e, double *Z)
{
    double largest = 0.0, finite = 0.0;
    for (Py_ssize_t p = 0; p < b; p++)
        for (Py_ssize_t q = p; q < b; q++) {
            T[p * b + q] = T[q * b + p] = 0.5 * T[p * b + q] + 0.5 * T[q * b + p];
            Z[p * b + q] = Z[q * b + p] = p == q;
            finite += 0.0 * T[p * b + q];
            largest = fabs(T[p * b + q]) > largest ? fabs(T[p * b + q]) : largest;
        }
    int rotated = finite == 0.0;
    for (int sweep = 0; rotated && sweep < 60; sweep++) {
        rotated = 0;
        for (Py_ssize_t p = 0; p < b; p++)
            for (Py_ssize_t q = p + 1; q < b; q++) {
                const double off = T[p * b + q];
                if (fabs(off) <= 0x1p-54 * largest)
                    continue;
                const double theta = 0.5 * (T[q * b + q] - T[p * b + p]) / off, size = fabs(theta);
                const double t = (theta < 0.0 ? -1.0 : 1.0) / (size + sqrt(size * size + 1.0));
                const double c = 1.0 / sqrt(t * t + 1.0), s = t * c;
                rotated = 1;
                for (Py_ssize_t k = 0; k < b; k++) {
                    const double x = T[k * b + p], y = T[k * b + q], u = Z[k * b + p], v = Z[k * b + q];
                    T[k * b + p] = c * x - s * y;
                    T[k * b + q] = s * x + c * y;
                    Z[k * b + p] = c * u - s * v;
                    Z[k * b + q] = s * u + c * v;
                }
                for (Py_ssize_t k = 0; k < b; k++) {
                    const double x = T[p * b + k], y = T[q * b + k];
                    T[p * b + k] = c * x - s * y;
                    T[q * b + k] = s * x + c * y;
                }
                T[p * b + q] = T[q * b + p] = 0.0;
            }
    }
    for (Py_ssize_t p = 0; p < b; p++)
        e[p] = finite == 0.0 ? T[p * b + p] : finite;
    for (Py_ssize_t p = 1; p < b; p++)
        for (Py_ssize_t q = p; q && fabs(e[q]) > fabs(e[q - 1]); q--) {
            const double x = e[q];
            e[q] = e[q - 1];
            e[q - 1] = x;
            for (Py_ssize_t k = 0; k < b; k++) {
                const double z = Z[k * b + q];
                Z[k * b + q] = Z[k * b + q - 1];
                Z[k * b + q - 1] = z;
            }
        }
    return finite == 0.0;
}
