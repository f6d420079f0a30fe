// The packed product as a C function of torch's ahead-of-time interface: tensors come as handles, results are made here,
// anything but 0 is an error. equimd/forces/native.py puts this behind products.cpp into the library that torch makes of
// the graph.

AOTITorchError aoti_torch_cpu_packed_product(
    AtenTensorHandle x, AtenTensorHandle packed, int64_t offset, int64_t columns, AtenTensorHandle* out) {
    int64_t *sizes, *strides;
    int32_t dtype, stored;
    void *from, *weights, *to;
    if (aoti_torch_get_sizes(x, &sizes) || aoti_torch_get_strides(x, &strides) || aoti_torch_get_dtype(x, &dtype) ||
        aoti_torch_get_data_ptr(x, &from) || aoti_torch_get_dtype(packed, &stored) ||
        aoti_torch_get_data_ptr(packed, &weights)) return 1;
    const int64_t m = sizes[0], k = sizes[1], shape[2] = {m, columns}, steps[2] = {columns, 1};
    if (strides[1] != 1 && k > 1) return 1;
    if (aoti_torch_empty_strided(2, shape, steps, dtype, aoti_torch_device_type_cpu(), 0, out) ||
        aoti_torch_get_data_ptr(*out, &to)) return 1;
    const bool single = dtype == aoti_torch_dtype_float32(), halved = stored == aoti_torch_dtype_float32();
    using equimd_products::product;
    if (single) product((const float*)from, strides[0], (const float*)weights + offset, (float*)to, m, k, columns);
    else if (halved) product((const double*)from, strides[0], (const float*)weights + offset, (double*)to, m, k, columns);
    else product((const double*)from, strides[0], (const double*)weights + offset, (double*)to, m, k, columns);
    return 0;
}
