// As scatter.cu, but what is there counts, and every update does, in any order: an element becomes JOIN(element, update), in REGISTER.
//
// Each is exchanged atomically, if nobody else has changed it in between; elements of fewer than four bytes with the word that they are in, so y has whole
// words.

template <int BYTES> struct WordOf {
    typedef unsigned type;
};
template <> struct WordOf<8> {
    typedef u64 type;
};

__device__ __forceinline__ void join_at(STORED *at, REGISTER value)
{
    typedef WordOf<sizeof(STORED)>::type Word;
    union Bits {
        Word word;
        STORED element;
    };
    const unsigned bits = 8 * sizeof(STORED), beside = (u64)at % sizeof(Word);
    Word *word = (Word *)((u64)at - beside);
    unsigned shift = 8 * beside;
    Word mask = ~(Word)0 >> (8 * sizeof(Word) - bits) << shift;
    Word old = *word, expected;
    do {
        expected = old;
        Bits own, joined;
        own.word = expected >> shift;
        joined.word = 0;
        joined.element = store<STORED>(JOIN((REGISTER)load(own.element), value));
        old = atomicCAS(word, expected, (expected & ~mask) | (joined.word << shift & mask));
    } while (old != expected);
}

extern "C" __global__ void __launch_bounds__(256) scatter_joined(STORED *y, Indices indices, Places places, Axes<PICKED> axes, Updates updates, unsigned count)
{
    for (unsigned i = first_element(); i < count; i += all_threads())
        join_at(y + place(places, i) + steps(indices, axes, i, count), update(updates, i));
}
