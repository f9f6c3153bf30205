// Elements that indices pick: y[i] = data[place of i + steps of its indices] (picked.cu).
//
// Only bits move: UNIT is an unsigned integer of an element's size, or as much as 16 bytes where neighbours are picked together. The host generates
// `place(places, i)`, in units, which steps along the axes of data that nobody picks from, and `index` for PICKED axes.
// Grid: enough threads for one visit each, or fewer, which then go on; block: any.

extern "C" __global__ void __launch_bounds__(256) gather(UNIT *y, const UNIT *data, Indices indices, Places places, Axes<PICKED> axes, unsigned count)
{
    for (unsigned i = first_element(); i < count; i += all_threads())
        y[i] = data[place(places, i) + steps(indices, axes, i, count)];
}
