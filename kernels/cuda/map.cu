// Element by element: a chain of pointwise operators, a copy, a cast, a broadcast. The host generates `map_elements`: for VECTOR elements from
// number i on it reads the operands, computes, and writes (src/gpu/plan/text.rs).
//
// Grid: enough threads for one visit each, or as many as the device holds, which then go on; block: any.

extern "C" __global__ void __launch_bounds__(256) map(Map operands, unsigned count)
{
    for (unsigned i = first_element() * VECTOR; i < count; i += all_threads() * VECTOR)
        map_elements(operands, i);
}
