// The kernels of pairs.cpp and coupling.cpp as functions of a library. Directions Xd ... are null or all there.
using namespace equimd_pairs;

extern "C" {

void gather(const S* X, const S* Xd, const S* W, const S* Wd, const S* Y, const S* Yd, S* out,
            int64_t B, int64_t n, int64_t F, int64_t T, int64_t vv, int64_t threads) {
    if (Xd) (vv ? gather_all<true, true> : gather_all<false, true>)(X, Xd, W, Wd, Y, Yd, out, B, n, F, T, int(threads));
    else (vv ? gather_all<true, false> : gather_all<false, false>)(X, Xd, W, Wd, Y, Yd, out, B, n, F, T, int(threads));
}

void sender(const S* G, const S* W, const S* Wd, const S* Y, const S* Yd, S* out,
            int64_t B, int64_t n, int64_t F, int64_t T, int64_t vv, int64_t threads) {
    if (Wd) (vv ? sender_all<true, true> : sender_all<false, true>)(G, W, Wd, Y, Yd, out, B, n, F, T, int(threads));
    else (vv ? sender_all<true, false> : sender_all<false, false>)(G, W, Wd, Y, Yd, out, B, n, F, T, int(threads));
}

void filter(const S* G, const S* X, const S* Xd, const S* Y, const S* Yd, S* out,
            int64_t B, int64_t n, int64_t F, int64_t T, int64_t vv, int64_t threads) {
    if (Xd) (vv ? filter_all<true, true> : filter_all<false, true>)(G, X, Xd, Y, Yd, out, B, n, F, T, int(threads));
    else (vv ? filter_all<true, false> : filter_all<false, false>)(G, X, Xd, Y, Yd, out, B, n, F, T, int(threads));
}

void harmonic(const S* G, const S* X, const S* W, S* out, int64_t B, int64_t n, int64_t F, int64_t T, int64_t vv, int64_t threads) {
    (vv ? harmonic_all<true> : harmonic_all<false>)(G, X, W, out, B, n, F, T, int(threads));
}

void couple(const S* x, const S* xd, const S* y, const S* yd, S* out, int64_t n, int64_t T, int64_t threads) {
    if (xd) couple_all<true>(x, xd, y, yd, out, n, T, int(threads));
    else couple_all<false>(x, x, y, y, out, n, T, int(threads));
}

void uncouple(const S* g, const S* x, const S* y, S* out, int64_t n, int64_t T, int64_t threads) {
    uncouple_all(g, x, y, out, n, T, int(threads));
}

}  // extern "C"
