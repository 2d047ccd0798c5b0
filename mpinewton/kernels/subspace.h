/* The Rayleigh-Ritz method on blocks of columns, row by row (d, b). Included by formulas.h for every instruction set. */

/* The eigenpairs of D in the span of Q, whose columns are orthonormal, largest moduli first, from Y = D Q. Q becomes the
 * vectors V; Y becomes D V, less V e in the first r columns; `squares` are those of its columns. e is NaN, and Q and Y
 * as before, where Q'DQ is not finite. */
TARGET INLINE void LEVEL(pairs)(Py_ssize_t d, const Py_ssize_t b, Py_ssize_t r, double *Q, double *Y, double *e,
                                       double *squares)
{
    double T[WIDEST * WIDEST] = {0.0}, Z[WIDEST * WIDEST];
    for (Py_ssize_t i = 0; i < d; i++)
        for (Py_ssize_t a = 0; a < b; a++)
            for (Py_ssize_t c = 0; c < b; c++)
                T[a * b + c] += Q[i * b + a] * Y[i * b + c];
    if (!eigenpairs(b, T, e, Z))
        return;
    for (Py_ssize_t c = 0; c < b; c++)
        squares[c] = 0.0;
    for (Py_ssize_t i = 0; i < d; i++) {
        double q[WIDEST] = {0.0}, y[WIDEST] = {0.0};
        for (Py_ssize_t a = 0; a < b; a++)
            for (Py_ssize_t c = 0; c < b; c++) {
                q[c] += Q[i * b + a] * Z[a * b + c];
                y[c] += Y[i * b + a] * Z[a * b + c];
            }
        for (Py_ssize_t c = 0; c < r; c++)
            y[c] -= q[c] * e[c];
        for (Py_ssize_t c = 0; c < b; c++) {
            Q[i * b + c] = q[c];
            Y[i * b + c] = y[c];
            squares[c] += y[c] * y[c];
        }
    }
}

TARGET static void LEVEL(ritz)(Py_ssize_t d, Py_ssize_t b, Py_ssize_t r, double *Q, double *Y, double *e, double *squares)
{
    if (b == 6)
        LEVEL(pairs)(d, 6, r, Q, Y, e, squares);
    else
        LEVEL(pairs)(d, b, r, Q, Y, e, squares);
}
