// The operators of pairs.py and coupling.py in a compiled graph of forces, as C functions of torch's ahead-of-time
// interface: tensors come as handles, results are made here, anything but 0 is an error. They follow the kernels in the
// library that torch makes of the graph, which takes no derivatives along directions.
namespace {

using equimd_pairs::S;
constexpr int64_t L = equimd_pairs::L, M = equimd_pairs::M;

// the data and the sizes of a tensor whose last index runs fastest
bool dense(AtenTensorHandle tensor, S*& data, int64_t*& sizes) {
    int64_t *strides, dimensions, step = 1;
    void* place;
    if (aoti_torch_get_sizes(tensor, &sizes) || aoti_torch_get_strides(tensor, &strides) ||
        aoti_torch_get_dim(tensor, &dimensions) || aoti_torch_get_data_ptr(tensor, &place)) return false;
    data = (S*)place;
    for (int64_t k = dimensions - 1; k >= 0; step *= sizes[k--])
        if (sizes[k] != 1 && strides[k] != step) return false;
    return true;
}

// a new tensor (a, b, c) of the precision of another
S* made(AtenTensorHandle like, int64_t a, int64_t b, int64_t c, AtenTensorHandle* out) {
    const int64_t sizes[3] = {a, b, c}, strides[3] = {b * c, c, 1};
    int32_t dtype;
    void* place;
    if (aoti_torch_get_dtype(like, &dtype) ||
        aoti_torch_empty_strided(3, sizes, strides, dtype, aoti_torch_device_type_cpu(), 0, out) ||
        aoti_torch_get_data_ptr(*out, &place)) return nullptr;
    return (S*)place;
}

}  // namespace

AOTITorchError aoti_torch_cpu_gather(AtenTensorHandle x, AtenTensorHandle* xd, AtenTensorHandle w, AtenTensorHandle* wd,
                                     AtenTensorHandle y, AtenTensorHandle* yd, int64_t F, int64_t T, AtenTensorHandle* out) {
    S *xs, *ws, *ys;
    int64_t *xn, *wn, *yn;
    if (xd || wd || yd || !dense(x, xs, xn) || !dense(w, ws, wn) || !dense(y, ys, yn)) return 1;
    S* to = made(x, xn[0], xn[1], F + M * T, out);
    if (!to) return 1;
    auto run = xn[2] > F + L * T ? equimd_pairs::gather_all<true, false> : equimd_pairs::gather_all<false, false>;
    run(xs, nullptr, ws, nullptr, ys, nullptr, to, xn[0], xn[1], F, T, 1);
    return 0;
}

AOTITorchError aoti_torch_cpu_sender(AtenTensorHandle g, AtenTensorHandle w, AtenTensorHandle* wd, AtenTensorHandle y,
                                     AtenTensorHandle* yd, int64_t F, int64_t T, AtenTensorHandle* out) {
    S *gs, *ws, *ys;
    int64_t *gn, *wn, *yn;
    if (wd || yd || !dense(g, gs, gn) || !dense(w, ws, wn) || !dense(y, ys, yn)) return 1;
    const bool vv = wn[2] > F + L * T;
    S* to = made(g, gn[0], gn[1], F + (L + (vv ? M : 0)) * T, out);
    if (!to) return 1;
    auto run = vv ? equimd_pairs::sender_all<true, false> : equimd_pairs::sender_all<false, false>;
    run(gs, ws, nullptr, ys, nullptr, to, gn[0], gn[1], F, T, 1);
    return 0;
}

AOTITorchError aoti_torch_cpu_filter(AtenTensorHandle g, AtenTensorHandle x, AtenTensorHandle* xd, AtenTensorHandle y,
                                     AtenTensorHandle* yd, int64_t F, int64_t T, AtenTensorHandle* out) {
    S *gs, *xs, *ys;
    int64_t *gn, *xn, *yn;
    if (xd || yd || !dense(g, gs, gn) || !dense(x, xs, xn) || !dense(y, ys, yn)) return 1;
    const bool vv = xn[2] > F + L * T;
    S* to = made(g, yn[0], yn[1], F + (L + (vv ? L : 0)) * T, out);
    if (!to) return 1;
    auto run = vv ? equimd_pairs::filter_all<true, false> : equimd_pairs::filter_all<false, false>;
    run(gs, xs, nullptr, ys, nullptr, to, gn[0], gn[1], F, T, 1);
    return 0;
}

AOTITorchError aoti_torch_cpu_harmonic(
    AtenTensorHandle g, AtenTensorHandle x, AtenTensorHandle w, int64_t F, int64_t T, AtenTensorHandle* out) {
    S *gs, *xs, *ws;
    int64_t *gn, *xn, *wn;
    if (!dense(g, gs, gn) || !dense(x, xs, xn) || !dense(w, ws, wn)) return 1;
    S* to = made(g, wn[0], wn[1], M, out);
    if (!to) return 1;
    (xn[2] > F + L * T ? equimd_pairs::harmonic_all<true> : equimd_pairs::harmonic_all<false>)(
        gs, xs, ws, to, gn[0], gn[1], F, T, 1);
    return 0;
}

AOTITorchError aoti_torch_cpu_couple(
    AtenTensorHandle x, AtenTensorHandle* xd, AtenTensorHandle y, AtenTensorHandle* yd, AtenTensorHandle* out) {
    S *xs, *ys;
    int64_t *xn, *yn;
    if (xd || yd || !dense(x, xs, xn) || !dense(y, ys, yn)) return 1;
    S* to = made(x, xn[0], M, xn[2], out);
    if (!to) return 1;
    equimd_pairs::couple_all<false>(xs, xs, ys, ys, to, xn[0], xn[2], 1);
    return 0;
}

AOTITorchError aoti_torch_cpu_uncouple(AtenTensorHandle g, AtenTensorHandle x, AtenTensorHandle y, AtenTensorHandle* out) {
    S *gs, *xs, *ys;
    int64_t *gn, *xn, *yn;
    if (!dense(g, gs, gn) || !dense(x, xs, xn) || !dense(y, ys, yn)) return 1;
    S* to = made(g, gn[0], 2 * M, gn[2], out);
    if (!to) return 1;
    equimd_pairs::uncouple_all(gs, xs, ys, to, gn[0], gn[2], 1);
    return 0;
}
