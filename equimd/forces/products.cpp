// Products of a few rows with weights that were packed beforehand: out (m, n) = x (m, k) packed (panels, 1 + k, width).
//
// A panel holds as many columns of the weights as fill WIDTH_BYTES, row after row, so that it streams through the
// first-level cache once for each ROWS rows of x, whose partial sums stay in registers. General libraries pack the
// weights in every call, which for the rows of one small molecule takes as long as the product itself. A panel's first
// number is how many rows of zeros its weights begin with: they are passed over. Weights W may be stored in less
// precision than is computed in, S.
//
// Included at namespace scope after <cstdint>: see equimd/md/native.py.
namespace equimd_products {

constexpr int WIDTH_BYTES = 256;  // of a panel's row; products.py packs to it
#if defined(__AVX512F__)
constexpr int VECTOR_BYTES = 64, VECTORS = 4;
#elif defined(__AVX__)
constexpr int VECTOR_BYTES = 32, VECTORS = 2;
#else
constexpr int VECTOR_BYTES = 16, VECTORS = 4;
#endif
constexpr int ROWS = 6;

// M rows of x with C vectors of columns, of which the first `left` columns are there
template <typename S, typename W, int M, int C>
inline void tile(const S* x, int64_t stride, const W* panel, int64_t begin, int64_t k, S* out, int64_t n, int64_t left) {
    constexpr int LANES = VECTOR_BYTES / sizeof(S), WIDTH = WIDTH_BYTES / sizeof(W);
    typedef S V __attribute__((vector_size(VECTOR_BYTES)));
    typedef W Stored __attribute__((vector_size(LANES * sizeof(W))));
    V sum[M][C] = {};
    panel += begin * WIDTH;
    for (int64_t p = begin; p < k; p++, panel += WIDTH) {
        V w[C];
#pragma GCC unroll 4
        for (int c = 0; c < C; c++) {
            Stored stored;
            __builtin_memcpy(&stored, panel + c * LANES, sizeof(Stored));
            w[c] = __builtin_convertvector(stored, V);
        }
#pragma GCC unroll 6
        for (int r = 0; r < M; r++) {
            const S scalar = x[r * stride + p];
#pragma GCC unroll 4
            for (int c = 0; c < C; c++) sum[r][c] += w[c] * scalar;
        }
    }
#pragma GCC unroll 6
    for (int r = 0; r < M; r++) {
        if (left >= C * LANES) {
#pragma GCC unroll 4
            for (int c = 0; c < C; c++) __builtin_memcpy(out + r * n + c * LANES, &sum[r][c], sizeof(V));
        } else {
            __builtin_memcpy(out + r * n, &sum[r][0], left * sizeof(S));
        }
    }
}

template <typename S, typename W, int M>
void rows(const S* x, int64_t stride, const W* panel, int64_t k, S* out, int64_t n, int64_t left) {
    constexpr int LANES = VECTOR_BYTES / sizeof(S), WIDTH = WIDTH_BYTES / sizeof(W);
    const int64_t begin = int64_t(panel[0]);
    panel += WIDTH;
    for (int64_t c = 0; c < WIDTH && c < left; c += VECTORS * LANES) {
        const int64_t here = left - c;
        if (here > 2 * LANES) tile<S, W, M, VECTORS>(x, stride, panel + c, begin, k, out + c, n, here);
        else if (here > LANES) tile<S, W, M, 2>(x, stride, panel + c, begin, k, out + c, n, here);
        else tile<S, W, M, 1>(x, stride, panel + c, begin, k, out + c, n, here);
    }
}

template <typename S, typename W>
void product(const S* x, int64_t stride, const W* packed, S* out, int64_t m, int64_t k, int64_t n) {
    constexpr int WIDTH = WIDTH_BYTES / sizeof(W);
    const int64_t blocks = (m + ROWS - 1) / ROWS;
    for (int64_t c = 0; c < n; c += WIDTH, packed += (1 + k) * WIDTH) {
        for (int64_t b = 0; b < blocks; b++) {  // rows shared out evenly
            const int64_t begin = m * b / blocks, count = m * (b + 1) / blocks - begin;
            const S* from = x + begin * stride;
            S* to = out + begin * n + c;
            switch (count) {
                case 6: rows<S, W, 6>(from, stride, packed, k, to, n, n - c); break;
                case 5: rows<S, W, 5>(from, stride, packed, k, to, n, n - c); break;
                case 4: rows<S, W, 4>(from, stride, packed, k, to, n, n - c); break;
                case 3: rows<S, W, 3>(from, stride, packed, k, to, n, n - c); break;
                case 2: rows<S, W, 2>(from, stride, packed, k, to, n, n - c); break;
                default: rows<S, W, 1>(from, stride, packed, k, to, n, n - c);
            }
        }
    }
}

}  // namespace equimd_products
