// The message of PaiNN (Schuett et al. 2021, eqs. 7 and 8) summed over the unordered pairs of each structure, with the
// derivatives that training on forces needs. W_ij = W_ji is stored once a pair, Y_l(-r) = (-1)^l Y_l(r).
//
// Included after <cstdint> with SCALAR (float or double) and LMAX defined, by pairs_library.cpp and by
// equimd/forces/native.cpp, which puts the kernels into compiled force graphs.
//   X (B, n, CX, F)  sender: [a | b_l, l = 1..L | U_m]        U = V * phi_vv; not in the first layer
//   W (B, P, CW, F)  filter: [W_s | W_vs of each l | W_vv of each l]   pairs p = (i < j), i outermost
//   Y (B, P, M)      harmonics of r_j - r_i; 0 beyond the cutoff, where W is 0, too
//   G (B, n, 1+M, F) message, or the derivative of a scalar with respect to it
// DOT kernels are directional derivatives along (Xd, Wd, Yd) at fixed G.
namespace equimd_pairs {
namespace {

using S = SCALAR;
constexpr int L = LMAX, M = (L + 1) * (L + 1) - 1;
#ifdef __AVX512F__
constexpr int WIDE = 64 / sizeof(S);
#else
constexpr int WIDE = 32 / sizeof(S);  // wider sums would leave the registers
#endif

template <int N>
struct Lanes {
    typedef S V __attribute__((vector_size(N * sizeof(S))));
    static inline V load(const S* p) { V x; __builtin_memcpy(&x, p, sizeof x); return x; }
    static inline void store(S* p, V x) { __builtin_memcpy(p, &x, sizeof x); }
};

// harmonics of 0 say that a pair is beyond the cutoff and contributes nothing
inline bool far(const S* y) { return y[0] == 0 && y[1] == 0 && y[2] == 0; }

inline int64_t pair_of(int64_t i, int64_t j, int64_t n) {
    int64_t a = i < j ? i : j, b = i < j ? j : i;
    return a * n - a * (a + 1) / 2 + b - a - 1;
}

// out_i = sum_j of X_j, W_ij, Y_ij
template <int N, bool VV, bool DOT>
void gather(const S* X, const S* Xd, const S* W, const S* Wd, const S* Y, const S* Yd, S* out,
            int64_t n, int64_t F, int64_t f) {
    using T = Lanes<N>; using V = typename T::V;
    constexpr int CX = 1 + L + (VV ? M : 0), CW = 1 + L + (VV ? L : 0);
    for (int64_t i = 0; i < n; i++) {
        V acc[1 + M] = {};
        for (int64_t j = 0; j < n; j++) {
            if (j == i) continue;
            const int64_t p = pair_of(i, j, n);
            const S *x = X + j * CX * F + f, *w = W + p * CW * F + f, *y = Y + p * M;
            if (far(y)) continue;
            const S *xd = DOT ? Xd + j * CX * F + f : x, *wd = DOT ? Wd + p * CW * F + f : w, *yd = DOT ? Yd + p * M : y;
            if (DOT) acc[0] += T::load(xd) * T::load(w) + T::load(x) * T::load(wd);
            else acc[0] += T::load(x) * T::load(w);
#pragma GCC unroll 4
            for (int l = 1; l <= L; l++) {
                const S sign = (l & 1) && j < i ? S(-1) : S(1);
                const V t = T::load(x + l * F) * T::load(w + l * F) * sign;
                V td = t;
                if (DOT) td = (T::load(xd + l * F) * T::load(w + l * F) + T::load(x + l * F) * T::load(wd + l * F)) * sign;
                V v = t, vd = t;
                if (VV) { v = T::load(w + (L + l) * F); vd = DOT ? T::load(wd + (L + l) * F) : v; }
#pragma GCC unroll 8
                for (int m = l * l - 1; m < (l + 1) * (l + 1) - 1; m++) {
                    if (DOT) acc[1 + m] += td * y[m] + t * yd[m];
                    else acc[1 + m] += t * y[m];
                    if (VV && DOT) acc[1 + m] += T::load(xd + (1 + L + m) * F) * v + T::load(x + (1 + L + m) * F) * vd;
                    else if (VV) acc[1 + m] += T::load(x + (1 + L + m) * F) * v;
                }
            }
        }
        for (int m = 0; m < 1 + M; m++) T::store(out + (i * (1 + M) + m) * F + f, acc[m]);
    }
}

// dX_j = sum_i of G_i, W_ij, Y_ij
template <int N, bool VV, bool DOT>
void sender(const S* G, const S* W, const S* Wd, const S* Y, const S* Yd, S* out, int64_t n, int64_t F, int64_t f) {
    using T = Lanes<N>; using V = typename T::V;
    constexpr int CX = 1 + L + (VV ? M : 0), CW = 1 + L + (VV ? L : 0);
    for (int64_t j = 0; j < n; j++) {
        V acc[1 + L + M] = {};
        for (int64_t i = 0; i < n; i++) {
            if (j == i) continue;
            const int64_t p = pair_of(i, j, n);
            const S *g = G + i * (1 + M) * F + f, *w = W + p * CW * F + f, *y = Y + p * M;
            if (far(y)) continue;
            const S *wd = DOT ? Wd + p * CW * F + f : w, *yd = DOT ? Yd + p * M : y;
            acc[0] += T::load(g) * T::load(wd);
#pragma GCC unroll 4
            for (int l = 1; l <= L; l++) {
                const S sign = (l & 1) && j < i ? S(-1) : S(1);
                V dot = {}, dotd = {}, v = {};
                if (VV) v = T::load(wd + (L + l) * F);
#pragma GCC unroll 8
                for (int m = l * l - 1; m < (l + 1) * (l + 1) - 1; m++) {
                    const V gm = T::load(g + (1 + m) * F);
                    dot += gm * y[m];
                    if (DOT) dotd += gm * yd[m];
                    if (VV) acc[1 + L + m] += gm * v;
                }
                V sum = dot * T::load(wd + l * F);
                if (DOT) sum += dotd * T::load(w + l * F);
                acc[l] += sum * sign;
            }
        }
        for (int c = 0; c < CX; c++) T::store(out + (j * CX + c) * F + f, acc[c]);
    }
}

// dW_p of G, X, Y at both ends of the pair
template <int N, bool VV, bool DOT>
void filter(const S* gi, const S* gj, const S* xi, const S* xj, const S* di, const S* dj, const S* y, const S* yd, S* out,
            int64_t F) {
    using T = Lanes<N>; using V = typename T::V;
    T::store(out, T::load(gi) * T::load(dj) + T::load(gj) * T::load(di));
#pragma GCC unroll 4
    for (int l = 1; l <= L; l++) {
        V a = {}, b = {}, ad = {}, bd = {}, v = {};
#pragma GCC unroll 8
        for (int m = l * l - 1; m < (l + 1) * (l + 1) - 1; m++) {
            const V p = T::load(gi + (1 + m) * F), q = T::load(gj + (1 + m) * F);
            a += p * y[m];
            b += q * y[m];
            if (DOT) { ad += p * yd[m]; bd += q * yd[m]; }
            if (VV) v += p * T::load(dj + (1 + L + m) * F) + q * T::load(di + (1 + L + m) * F);
        }
        const S sign = l & 1 ? S(-1) : S(1);
        V sum = a * T::load(dj + l * F) + b * T::load(di + l * F) * sign;
        if (DOT) sum += ad * T::load(xj + l * F) + bd * T::load(xi + l * F) * sign;
        T::store(out + l * F, sum);
        if (VV) T::store(out + (L + l) * F, v);
    }
}

// dY_p summed over the features of one vector: adds to sum (M vectors)
template <int N>
void harmonic(const S* gi, const S* gj, const S* xi, const S* xj, const S* w, S* out, int64_t F) {
    using T = Lanes<N>; using V = typename T::V;
    V acc[M] = {};
    int64_t f = 0;
    for (; f + N <= F; f += N)
#pragma GCC unroll 4
        for (int l = 1; l <= L; l++) {
            const S sign = l & 1 ? S(-1) : S(1);
            const V wl = T::load(w + l * F + f);
            const V b = T::load(xj + l * F + f) * wl, c = T::load(xi + l * F + f) * wl * sign;
#pragma GCC unroll 8
            for (int m = l * l - 1; m < (l + 1) * (l + 1) - 1; m++)
                acc[m] += T::load(gi + (1 + m) * F + f) * b + T::load(gj + (1 + m) * F + f) * c;
        }
    for (int m = 0; m < M; m++) {
        S sum = 0;
        for (int k = 0; k < N; k++) sum += acc[m][k];
        out[m] = sum;
    }
    for (; f < F; f++)
        for (int l = 1; l <= L; l++) {
            const S b = xj[l * F + f] * w[l * F + f], c = xi[l * F + f] * w[l * F + f] * (l & 1 ? S(-1) : S(1));
            for (int m = l * l - 1; m < (l + 1) * (l + 1) - 1; m++)
                out[m] += gi[(1 + m) * F + f] * b + gj[(1 + m) * F + f] * c;
        }
}

template <bool VV>
struct Sizes {
    static constexpr int64_t CX = 1 + L + (VV ? M : 0), CW = 1 + L + (VV ? L : 0), CG = 1 + M;
    int64_t x, w, y, g;  // numbers of one structure
    Sizes(int64_t n, int64_t F) : x(n * CX * F), w(n * (n - 1) / 2 * CW * F), y(n * (n - 1) / 2 * M), g(n * CG * F) {}
};

template <bool VV, bool DOT>
void gather_all(const S* X, const S* Xd, const S* W, const S* Wd, const S* Y, const S* Yd, S* out,
                int64_t B, int64_t n, int64_t F, int threads) {
    const Sizes<VV> z(n, F);
#pragma omp parallel for num_threads(threads) if (threads > 1)
    for (int64_t b = 0; b < B; b++) {
        const S *x = X + b * z.x, *w = W + b * z.w, *y = Y + b * z.y;
        const S *xd = DOT ? Xd + b * z.x : x, *wd = DOT ? Wd + b * z.w : w, *yd = DOT ? Yd + b * z.y : y;
        int64_t f = 0;
        for (; f + WIDE <= F; f += WIDE) gather<WIDE, VV, DOT>(x, xd, w, wd, y, yd, out + b * z.g, n, F, f);
        for (; f < F; f++) gather<1, VV, DOT>(x, xd, w, wd, y, yd, out + b * z.g, n, F, f);
    }
}

template <bool VV, bool DOT>
void sender_all(const S* G, const S* W, const S* Wd, const S* Y, const S* Yd, S* out,
                int64_t B, int64_t n, int64_t F, int threads) {
    const Sizes<VV> z(n, F);
#pragma omp parallel for num_threads(threads) if (threads > 1)
    for (int64_t b = 0; b < B; b++) {
        const S *g = G + b * z.g, *w = W + b * z.w, *y = Y + b * z.y;
        const S *wd = DOT ? Wd + b * z.w : w, *yd = DOT ? Yd + b * z.y : y;
        int64_t f = 0;
        for (; f + WIDE <= F; f += WIDE) sender<WIDE, VV, DOT>(g, w, wd, y, yd, out + b * z.x, n, F, f);
        for (; f < F; f++) sender<1, VV, DOT>(g, w, wd, y, yd, out + b * z.x, n, F, f);
    }
}

template <bool VV, bool DOT>
void filter_all(const S* G, const S* X, const S* Xd, const S* Y, const S* Yd, S* out,
                int64_t B, int64_t n, int64_t F, int threads) {
    const Sizes<VV> z(n, F);
#pragma omp parallel for num_threads(threads) if (threads > 1)
    for (int64_t b = 0; b < B; b++) {
        const S *g = G + b * z.g, *x = X + b * z.x, *xd = DOT ? Xd + b * z.x : x, *y = Y + b * z.y;
        const S* yd = DOT ? Yd + b * z.y : y;
        S* w = out + b * z.w;
        for (int64_t i = 0; i < n; i++)
            for (int64_t j = i + 1; j < n; j++, w += z.CW * F, y += M, yd += M) {
                const S *gi = g + i * z.CG * F, *gj = g + j * z.CG * F, *xi = x + i * z.CX * F, *xj = x + j * z.CX * F;
                const S *di = xd + i * z.CX * F, *dj = xd + j * z.CX * F;
                if (far(y)) {
                    for (int64_t f = 0; f < z.CW * F; f++) w[f] = 0;
                    continue;
                }
                int64_t f = 0;
                for (; f + WIDE <= F; f += WIDE)
                    filter<WIDE, VV, DOT>(gi + f, gj + f, xi + f, xj + f, di + f, dj + f, y, yd, w + f, F);
                for (; f < F; f++)
                    filter<1, VV, DOT>(gi + f, gj + f, xi + f, xj + f, di + f, dj + f, y, yd, w + f, F);
            }
    }
}

template <bool VV>
void harmonic_all(const S* G, const S* X, const S* W, S* out, int64_t B, int64_t n, int64_t F, int threads) {
    const Sizes<VV> z(n, F);
#pragma omp parallel for num_threads(threads) if (threads > 1)
    for (int64_t b = 0; b < B; b++) {
        const S *g = G + b * z.g, *x = X + b * z.x, *w = W + b * z.w;
        S* y = out + b * z.y;
        for (int64_t i = 0; i < n; i++)
            for (int64_t j = i + 1; j < n; j++, w += z.CW * F, y += M)
                harmonic<WIDE>(g + i * z.CG * F, g + j * z.CG * F, x + i * z.CX * F, x + j * z.CX * F, w, y, F);
    }
}

}  // namespace
}  // namespace equimd_pairs
