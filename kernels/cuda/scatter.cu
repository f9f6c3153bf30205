// Elements that go where indices say: y[place of i + steps of its indices] (picked.cu) becomes update(i). Of several updates of one element any may stay.
//
// y is of STORED. The host generates `place(places, i)`, which steps along the axes of y that no index is of, `index` for PICKED axes, and
// `update(updates, i)`.
// Grid: enough threads for one visit each, or fewer, which then go on; block: any.

extern "C" __global__ void __launch_bounds__(256) scatter(STORED *y, Indices indices, Places places, Axes<PICKED> axes, Updates updates, unsigned count)
{
    for (unsigned i = first_element(); i < count; i += all_threads())
        y[place(places, i) + steps(indices, axes, i, count)] = store<STORED>(update(updates, i));
}
