// Products of tensors, p_k = sum of c x_i y_j over the terms (k, i, j, c) that are not zero, and their derivatives.
//
// Included after pairs.cpp, with PRODUCT, BY_X and BY_Y defined by kernels.py: NAME(TO, PAIR) adds c PAIR(., .) to a
// component of TO for every term, PAIR of (i, j), (k, j) and (k, i).
//   x, y, p, g (N, M, T), T channels; xd, yd directions, along which couple<DOT> is the derivative of the product
namespace equimd_pairs {
namespace {

template <int N>
inline void load_all(const S* from, int64_t T, typename Lanes<N>::V* to) {
#pragma GCC unroll 16
    for (int m = 0; m < M; m++) to[m] = Lanes<N>::load(from + m * T);
}

template <int N>
inline void store_all(S* to, int64_t T, const typename Lanes<N>::V* from) {
#pragma GCC unroll 16
    for (int m = 0; m < M; m++) Lanes<N>::store(to + m * T, from[m]);
}

template <int N, bool DOT>
void couple(const S* x, const S* xd, const S* y, const S* yd, S* out, int64_t T) {
    typename Lanes<N>::V a[M], b[M], ad[M] = {}, bd[M] = {}, p[M] = {};
    load_all<N>(x, T, a);
    load_all<N>(y, T, b);
    if (DOT) { load_all<N>(xd, T, ad); load_all<N>(yd, T, bd); }
#define PAIR(i, j) (DOT ? ad[i] * b[j] + a[i] * bd[j] : a[i] * b[j])
    PRODUCT(p, PAIR)
#undef PAIR
    store_all<N>(out, T, p);
}

// out (2M, T): d/dx_i = sum of c g_k y_j, then d/dy_j = sum of c g_k x_i
template <int N>
void uncouple(const S* g, const S* x, const S* y, S* out, int64_t T) {
    typename Lanes<N>::V a[M], b[M], p[M], dx[M] = {}, dy[M] = {};
    load_all<N>(x, T, a);
    load_all<N>(y, T, b);
    load_all<N>(g, T, p);
#define PAIR(k, j) p[k] * b[j]
    BY_X(dx, PAIR)
#undef PAIR
#define PAIR(k, i) p[k] * a[i]
    BY_Y(dy, PAIR)
#undef PAIR
    store_all<N>(out, T, dx);
    store_all<N>(out + M * T, T, dy);
}

template <bool DOT>
void couple_all(const S* x, const S* xd, const S* y, const S* yd, S* out, int64_t n, int64_t T, int threads) {
#pragma omp parallel for num_threads(threads) if (threads > 1)
    for (int64_t k = 0; k < n; k++) {
        int64_t f = k * M * T;
        const int64_t end = f + T;
        for (; f + WIDE <= end; f += WIDE) couple<WIDE, DOT>(x + f, xd + f, y + f, yd + f, out + f, T);
        for (; f < end; f++) couple<1, DOT>(x + f, xd + f, y + f, yd + f, out + f, T);
    }
}

void uncouple_all(const S* g, const S* x, const S* y, S* out, int64_t n, int64_t T, int threads) {
#pragma omp parallel for num_threads(threads) if (threads > 1)
    for (int64_t k = 0; k < n; k++) {
        int64_t f = k * M * T;
        const int64_t end = f + T, both = k * M * T;  // a row of out is twice as long
        for (; f + WIDE <= end; f += WIDE) uncouple<WIDE>(g + f, x + f, y + f, out + both + f, T);
        for (; f < end; f++) uncouple<1>(g + f, x + f, y + f, out + both + f, T);
    }
}

}  // namespace
}  // namespace equimd_pairs
