// Products of a few rows with weights that were packed beforehand: out (m, n) = x (m, k) packed (panels, 1 + k, width).
//
// A panel holds as many columns of the weights as fill WIDTH_BYTES, row after row, so that it streams through the
// first-level cache once for each ROWS rows of x, whose partial sums stay in registers. General libraries pack the
// weights in every call, which for the rows of one small molecule takes as long as the product itself. A panel's first
// number is how many rows of zeros its weights begin with: they are passed over, as are rows of x that are zero, those of
// pairs beyond the cutoff. Weights W may be stored in less precision than is computed in, S.
//
// Included at namespace scope after <cstdint> and <vector>: see equimd/forces/native.py.
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

// M rows of x with C vectors of columns from column c on, of which the first `left` are there
template <typename S, typename W, int M, int C>
inline void tile(const S* const* x, const W* panel, int64_t begin, int64_t k, S* const* out, int64_t c0, int64_t left) {
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
            const S scalar = x[r][p];
#pragma GCC unroll 4
            for (int c = 0; c < C; c++) sum[r][c] += w[c] * scalar;
        }
    }
#pragma GCC unroll 6
    for (int r = 0; r < M; r++) {
        if (left >= C * LANES) {
#pragma GCC unroll 4
            for (int c = 0; c < C; c++) __builtin_memcpy(out[r] + c0 + c * LANES, &sum[r][c], sizeof(V));
        } else {
            __builtin_memcpy(out[r] + c0, &sum[r][0], left * sizeof(S));
        }
    }
}

template <typename S, typename W, int M>
void rows(const S* const* x, const W* panel, int64_t k, S* const* out, int64_t c0, int64_t left) {
    constexpr int LANES = VECTOR_BYTES / sizeof(S), WIDTH = WIDTH_BYTES / sizeof(W);
    const int64_t begin = int64_t(panel[0]);
    panel += WIDTH;
    for (int64_t c = 0; c < WIDTH && c < left; c += VECTORS * LANES) {
        const int64_t here = left - c;
        if (here > 2 * LANES) tile<S, W, M, VECTORS>(x, panel + c, begin, k, out, c0 + c, here);
        else if (here > LANES) tile<S, W, M, 2>(x, panel + c, begin, k, out, c0 + c, here);
        else tile<S, W, M, 1>(x, panel + c, begin, k, out, c0 + c, here);
    }
}

template <typename S, typename W>
void product(const S* x, int64_t stride, const W* packed, S* out, int64_t m, int64_t k, int64_t n) {
    constexpr int WIDTH = WIDTH_BYTES / sizeof(W);
    std::vector<const S*> from;
    std::vector<S*> to;
    for (int64_t r = 0; r < m; r++) {
        const S* row = x + r * stride;
        int64_t p = 0;
        while (p < k && row[p] == 0) p++;
        if (p < k) {
            from.push_back(row);
            to.push_back(out + r * n);
        } else {
            __builtin_memset(out + r * n, 0, n * sizeof(S));
        }
    }
    const int64_t there = from.size(), blocks = (there + ROWS - 1) / ROWS;
    for (int64_t c = 0; c < n; c += WIDTH, packed += (1 + k) * WIDTH) {
        for (int64_t b = 0; b < blocks; b++) {  // rows shared out evenly
            const int64_t begin = there * b / blocks, count = there * (b + 1) / blocks - begin;
            const S* const* given = from.data() + begin;
            S* const* made = to.data() + begin;
            switch (count) {
                case 6: rows<S, W, 6>(given, packed, k, made, c, n - c); break;
                case 5: rows<S, W, 5>(given, packed, k, made, c, n - c); break;
                case 4: rows<S, W, 4>(given, packed, k, made, c, n - c); break;
                case 3: rows<S, W, 3>(given, packed, k, made, c, n - c); break;
                case 2: rows<S, W, 2>(given, packed, k, made, c, n - c); break;
                default: rows<S, W, 1>(given, packed, k, made, c, n - c);
            }
        }
    }
}

}  // namespace equimd_products
