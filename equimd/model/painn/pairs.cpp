// The message of PaiNN (Schuett et al. 2021, eqs. 7 and 8) summed over the unordered pairs of each structure, with the
// derivatives that training on forces needs. W_ij = W_ji is stored once a pair, Y_l(-r) = (-1)^l Y_l(r).
//
// Included after <cstdint> and <type_traits> with SCALAR (float or double) and LMAX defined, by equimd/model/painn/kernels.py.
//   X (B, n, F + CX T)  sender: [a | b_l, l = 1..L | U_m]        U = V * phi_vv; not in the first layer
//   W (B, P, F + CW T)  filter: [W_s | W_vs of each l | W_vv of each l]   pairs p = (i < j), i outermost
//   Y (B, P, M)         harmonics of r_j - r_i; 0 beyond the cutoff, where W is 0, too
//   G (B, n, F + M T)   message, or the derivative of a scalar with respect to it
// a, W_s and the first part of G have F channels, all else T <= F.
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
struct Width { static constexpr int value = N; };

template <int N>
struct Lanes {
    typedef S V __attribute__((vector_size(N * sizeof(S))));
    static inline V load(const S* p) { V x; __builtin_memcpy(&x, p, sizeof x); return x; }
    static inline void store(S* p, V x) { __builtin_memcpy(p, &x, sizeof x); }
};

// harmonics of 0 say that a pair is beyond the cutoff and contributes nothing
inline bool far(const S* y) { return y[0] == 0 && y[1] == 0 && y[2] == 0; }

// How the rows of X, W and G lie in memory, and numbers of one structure.
template <bool VV>
struct Rows {
    static constexpr int64_t CX = L + (VV ? M : 0), CW = L + (VV ? L : 0);
    int64_t n, F, T, x, w, g;  // n atoms; the row of an atom, of a pair, of a message
    Rows(int64_t n, int64_t F, int64_t T) : n(n), F(F), T(T), x(F + CX * T), w(F + CW * T), g(F + M * T) {}
    int64_t pairs() const { return n * (n - 1) / 2; }
    // where a row has its c-th part of T channels
    int64_t at(int64_t c) const { return F + c * T; }
};

// Calls each(f, wide, tensors) for all channels: first those that scalars and tensors have, then the scalars' own.
template <typename Each>
inline void channels(int64_t F, int64_t T, Each each) {
    using std::true_type; using std::false_type;
    int64_t f = 0;
    for (; f + WIDE <= T; f += WIDE) each(f, Width<WIDE>(), true_type());
    for (; f < T; f++) each(f, Width<1>(), true_type());
    for (; f + WIDE <= F; f += WIDE) each(f, Width<WIDE>(), false_type());
    for (; f < F; f++) each(f, Width<1>(), false_type());
}

inline int64_t pair_of(int64_t i, int64_t j, int64_t n) {
    int64_t a = i < j ? i : j, b = i < j ? j : i;
    return a * n - a * (a + 1) / 2 + b - a - 1;
}

// out_i = sum_j of X_j, W_ij, Y_ij
template <int N, bool TENSORS, bool VV, bool DOT>
void gather(const S* X, const S* Xd, const S* W, const S* Wd, const S* Y, const S* Yd, S* out, const Rows<VV>& r, int64_t f) {
    using V = typename Lanes<N>::V;
    const auto load = Lanes<N>::load;
    for (int64_t i = 0; i < r.n; i++) {
        V acc[1 + M] = {};
        for (int64_t j = 0; j < r.n; j++) {
            if (j == i) continue;
            const int64_t p = pair_of(i, j, r.n);
            const S *x = X + j * r.x + f, *w = W + p * r.w + f, *y = Y + p * M;
            if (far(y)) continue;
            const S *xd = DOT ? Xd + j * r.x + f : x, *wd = DOT ? Wd + p * r.w + f : w, *yd = DOT ? Yd + p * M : y;
            if (DOT) acc[0] += load(xd) * load(w) + load(x) * load(wd);
            else acc[0] += load(x) * load(w);
            if (!TENSORS) continue;
#pragma GCC unroll 4
            for (int l = 1; l <= L; l++) {
                const int64_t a = r.at(l - 1), own = r.at(L + l - 1);
                const S sign = (l & 1) && j < i ? S(-1) : S(1);
                const V t = load(x + a) * load(w + a) * sign;
                V td = t;
                if (DOT) td = (load(xd + a) * load(w + a) + load(x + a) * load(wd + a)) * sign;
                V v = t, vd = t;
                if (VV) { v = load(w + own); vd = DOT ? load(wd + own) : v; }
#pragma GCC unroll 8
                for (int m = l * l - 1; m < (l + 1) * (l + 1) - 1; m++) {
                    if (DOT) acc[1 + m] += td * y[m] + t * yd[m];
                    else acc[1 + m] += t * y[m];
                    if (VV && DOT) acc[1 + m] += load(xd + r.at(L + m)) * v + load(x + r.at(L + m)) * vd;
                    else if (VV) acc[1 + m] += load(x + r.at(L + m)) * v;
                }
            }
        }
        S* to = out + i * r.g + f;
        Lanes<N>::store(to, acc[0]);
        for (int m = 0; TENSORS && m < M; m++) Lanes<N>::store(to + r.at(m), acc[1 + m]);
    }
}

// dX_j = sum_i of G_i, W_ij, Y_ij
template <int N, bool TENSORS, bool VV, bool DOT>
void sender(const S* G, const S* W, const S* Wd, const S* Y, const S* Yd, S* out, const Rows<VV>& r, int64_t f) {
    using V = typename Lanes<N>::V;
    const auto load = Lanes<N>::load;
    for (int64_t j = 0; j < r.n; j++) {
        V acc[1 + L + M] = {};
        for (int64_t i = 0; i < r.n; i++) {
            if (j == i) continue;
            const int64_t p = pair_of(i, j, r.n);
            const S *g = G + i * r.g + f, *w = W + p * r.w + f, *y = Y + p * M;
            if (far(y)) continue;
            const S *wd = DOT ? Wd + p * r.w + f : w, *yd = DOT ? Yd + p * M : y;
            acc[0] += load(g) * load(wd);
            if (!TENSORS) continue;
#pragma GCC unroll 4
            for (int l = 1; l <= L; l++) {
                const S sign = (l & 1) && j < i ? S(-1) : S(1);
                V dot = {}, dotd = {}, v = {};
                if (VV) v = load(wd + r.at(L + l - 1));
#pragma GCC unroll 8
                for (int m = l * l - 1; m < (l + 1) * (l + 1) - 1; m++) {
                    const V gm = load(g + r.at(m));
                    dot += gm * y[m];
                    if (DOT) dotd += gm * yd[m];
                    if (VV) acc[1 + L + m] += gm * v;
                }
                V sum = dot * load(wd + r.at(l - 1));
                if (DOT) sum += dotd * load(w + r.at(l - 1));
                acc[l] += sum * sign;
            }
        }
        S* to = out + j * r.x + f;
        Lanes<N>::store(to, acc[0]);
        for (int c = 0; TENSORS && c < r.CX; c++) Lanes<N>::store(to + r.at(c), acc[1 + c]);
    }
}

// dW_p of G, X, Y at both ends of the pair
template <int N, bool TENSORS, bool VV, bool DOT>
void filter(const S* gi, const S* gj, const S* xi, const S* xj, const S* di, const S* dj, const S* y, const S* yd, S* out,
            const Rows<VV>& r) {
    using V = typename Lanes<N>::V;
    const auto load = Lanes<N>::load;
    Lanes<N>::store(out, load(gi) * load(dj) + load(gj) * load(di));
    if (!TENSORS) return;
#pragma GCC unroll 4
    for (int l = 1; l <= L; l++) {
        const int64_t c = r.at(l - 1);
        V a = {}, b = {}, ad = {}, bd = {}, v = {};
#pragma GCC unroll 8
        for (int m = l * l - 1; m < (l + 1) * (l + 1) - 1; m++) {
            const V p = load(gi + r.at(m)), q = load(gj + r.at(m));
            a += p * y[m];
            b += q * y[m];
            if (DOT) { ad += p * yd[m]; bd += q * yd[m]; }
            if (VV) v += p * load(dj + r.at(L + m)) + q * load(di + r.at(L + m));
        }
        const S sign = l & 1 ? S(-1) : S(1);
        V sum = a * load(dj + c) + b * load(di + c) * sign;
        if (DOT) sum += ad * load(xj + c) + bd * load(xi + c) * sign;
        Lanes<N>::store(out + c, sum);
        if (VV) Lanes<N>::store(out + r.at(L + l - 1), v);
    }
}

// dY_p summed over the channels of tensors: M numbers
template <bool VV>
void harmonic(const S* gi, const S* gj, const S* xi, const S* xj, const S* w, S* out, const Rows<VV>& r) {
    using V = typename Lanes<WIDE>::V;
    const auto load = Lanes<WIDE>::load;
    V acc[M] = {};
    int64_t f = 0;
    for (; f + WIDE <= r.T; f += WIDE)
#pragma GCC unroll 4
        for (int l = 1; l <= L; l++) {
            const int64_t c = r.at(l - 1) + f;
            const S sign = l & 1 ? S(-1) : S(1);
            const V wl = load(w + c), b = load(xj + c) * wl, d = load(xi + c) * wl * sign;
#pragma GCC unroll 8
            for (int m = l * l - 1; m < (l + 1) * (l + 1) - 1; m++)
                acc[m] += load(gi + r.at(m) + f) * b + load(gj + r.at(m) + f) * d;
        }
    for (int m = 0; m < M; m++) {
        S sum = 0;
        for (int k = 0; k < WIDE; k++) sum += acc[m][k];
        out[m] = sum;
    }
    for (; f < r.T; f++)
        for (int l = 1; l <= L; l++) {
            const int64_t c = r.at(l - 1) + f;
            const S b = xj[c] * w[c], d = xi[c] * w[c] * (l & 1 ? S(-1) : S(1));
            for (int m = l * l - 1; m < (l + 1) * (l + 1) - 1; m++) out[m] += gi[r.at(m) + f] * b + gj[r.at(m) + f] * d;
        }
}

template <bool VV, bool DOT>
void gather_all(const S* X, const S* Xd, const S* W, const S* Wd, const S* Y, const S* Yd, S* out,
                int64_t B, int64_t n, int64_t F, int64_t T, int threads) {
    const Rows<VV> r(n, F, T);
#pragma omp parallel for num_threads(threads) if (threads > 1)
    for (int64_t b = 0; b < B; b++) {
        const S *x = X + b * n * r.x, *w = W + b * r.pairs() * r.w, *y = Y + b * r.pairs() * M;
        const S *xd = DOT ? Xd + b * n * r.x : x, *wd = DOT ? Wd + b * r.pairs() * r.w : w;
        const S* yd = DOT ? Yd + b * r.pairs() * M : y;
        channels(F, T, [&](int64_t f, auto width, auto both) {
            gather<decltype(width)::value, decltype(both)::value, VV, DOT>(x, xd, w, wd, y, yd, out + b * n * r.g, r, f);
        });
    }
}

template <bool VV, bool DOT>
void sender_all(const S* G, const S* W, const S* Wd, const S* Y, const S* Yd, S* out,
                int64_t B, int64_t n, int64_t F, int64_t T, int threads) {
    const Rows<VV> r(n, F, T);
#pragma omp parallel for num_threads(threads) if (threads > 1)
    for (int64_t b = 0; b < B; b++) {
        const S *g = G + b * n * r.g, *w = W + b * r.pairs() * r.w, *y = Y + b * r.pairs() * M;
        const S *wd = DOT ? Wd + b * r.pairs() * r.w : w, *yd = DOT ? Yd + b * r.pairs() * M : y;
        channels(F, T, [&](int64_t f, auto width, auto both) {
            sender<decltype(width)::value, decltype(both)::value, VV, DOT>(g, w, wd, y, yd, out + b * n * r.x, r, f);
        });
    }
}

template <bool VV, bool DOT>
void filter_all(const S* G, const S* X, const S* Xd, const S* Y, const S* Yd, S* out,
                int64_t B, int64_t n, int64_t F, int64_t T, int threads) {
    const Rows<VV> r(n, F, T);
#pragma omp parallel for num_threads(threads) if (threads > 1)
    for (int64_t b = 0; b < B; b++) {
        const S *g = G + b * n * r.g, *x = X + b * n * r.x, *xd = DOT ? Xd + b * n * r.x : x;
        const S *y = Y + b * r.pairs() * M, *yd = DOT ? Yd + b * r.pairs() * M : y;
        S* w = out + b * r.pairs() * r.w;
        for (int64_t i = 0; i < n; i++)
            for (int64_t j = i + 1; j < n; j++, w += r.w, y += M, yd += M) {
                const S *gi = g + i * r.g, *gj = g + j * r.g, *xi = x + i * r.x, *xj = x + j * r.x;
                const S *di = xd + i * r.x, *dj = xd + j * r.x;
                if (far(y)) {
                    for (int64_t f = 0; f < r.w; f++) w[f] = 0;
                    continue;
                }
                channels(F, T, [&](int64_t f, auto width, auto both) {
                    filter<decltype(width)::value, decltype(both)::value, VV, DOT>(
                        gi + f, gj + f, xi + f, xj + f, di + f, dj + f, y, yd, w + f, r);
                });
            }
    }
}

template <bool VV>
void harmonic_all(const S* G, const S* X, const S* W, S* out, int64_t B, int64_t n, int64_t F, int64_t T, int threads) {
    const Rows<VV> r(n, F, T);
#pragma omp parallel for num_threads(threads) if (threads > 1)
    for (int64_t b = 0; b < B; b++) {
        const S *g = G + b * n * r.g, *x = X + b * n * r.x, *w = W + b * r.pairs() * r.w;
        S* y = out + b * r.pairs() * M;
        for (int64_t i = 0; i < n; i++)
            for (int64_t j = i + 1; j < n; j++, w += r.w, y += M)
                harmonic<VV>(g + i * r.g, g + j * r.g, x + i * r.x, x + j * r.x, w, y, r);
    }
}

}  // namespace
}  // namespace equimd_pairs
