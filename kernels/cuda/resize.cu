// Interpolation along one axis or two: each element of the result is a weighted sum of a few elements of x along each of them.
//
// Which elements those are and what they weigh is in tables that the host computes, so that the kernel knows nothing of coordinates, modes and
// edges. Along the outer axis, element o of the result has `outer_taps` of them: x steps `outer_from[o * outer_taps + t]` elements, and the element there
// counts `outer_weights[…]`; the inner axis likewise. The host generates, for element i of the result, `place(places, i)`: elements from x's start, along
// the other axes; `outer(places, i)` and `inner(places, i)`: how far along the two it is; and `result(out, value, i)`, which writes. x is of STORED; sums and
// weights are in REGISTER.
// Grid: enough threads for one visit each, or fewer, which then go on; block: any.

struct Taps {
    int outer, inner;
};

extern "C" __global__ void __launch_bounds__(256) resize(Result out, const STORED *x, const int *outer_from, const REGISTER *outer_weights, const int *inner_from, const REGISTER *inner_weights, Places places, Taps taps, unsigned count)
{
    for (unsigned i = first_element(); i < count; i += all_threads()) {
        i64 begin = place(places, i);
        i64 rows = outer(places, i) * taps.outer, columns = inner(places, i) * taps.inner;
        REGISTER sum = 0;
        for (int r = 0; r < taps.outer; r++) {
            const STORED *line = x + begin + outer_from[rows + r];
            REGISTER own = 0;
            for (int c = 0; c < taps.inner; c++)
                own += (REGISTER)load(line[inner_from[columns + c]]) * inner_weights[columns + c];
            sum += own * outer_weights[rows + r];
        }
        result(out, sum, i);
    }
}
