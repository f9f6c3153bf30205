//! Kernels of the tests' own, small and with the mistakes in reach that `mutants` makes in them. Each text is a module, behind `HEAD`.

use super::mutants::MUTANTS;

/// Says to a process inside which mutant it is to make.
pub(crate) const MUTANT: &str = "TRISCORE_TEST_MUTANT";

/// What makes a text a source for the emulated driver, and the twins of which it has built in.
const HEAD: &str = concat!(
    "// CUDA C++\n",
    include_str!("../../kernels/cuda/tensor_core.cu"),
    "typedef unsigned long long u64;\n",
    include_str!("../../kernels/cuda/hopper.cu")
);

/// The sums of rows, each by a block, in shared memory and twice over, so that what is read last must not be written anew too early.
pub(crate) const ROW_SUMS: &str = r#"
#define THREADS 128
extern "C" __global__ void __launch_bounds__(THREADS)
    row_sums(float *y, const float *x, int columns)
{
    __shared__ float partial[THREADS];
    for (int turn = 0; turn < 2; turn++) {
        float sum = 0.0f;
        for (int i = threadIdx.x; i < columns; i += THREADS)
            sum += turn == 0 ? x[blockIdx.x * columns + i] : fabsf(x[blockIdx.x * columns + i]);
        partial[threadIdx.x] = sum;
        __syncthreads(); // written
        for (int by = THREADS / 2; by > 0; by /= 2) {
            if (threadIdx.x < by)
                partial[threadIdx.x] += partial[threadIdx.x + by];
            __syncthreads(); // halved
        }
        sum = partial[0];
        if (threadIdx.x == THREADS - 1)
            y[blockIdx.x * 2 + turn] = sum;
        __syncthreads(); // read
    }
}
"#;

/// Sums, running sums and votes of warps.
pub(crate) const WARPS: &str = r#"
#define EVERY_LANE 0xffffffffu
struct Pointers {
    static const int POINTERS = 2;
    const void *at[POINTERS];
    int count;
};
extern "C" __global__ void warps(float *sums, float *running, unsigned *votes, const __grid_constant__ Pointers from)
{
    int i = blockIdx.x * blockDim.x + threadIdx.x, lane = threadIdx.x % warpSize;
    float value = i < from.count ? ((const float *)from.at[0])[i] : 0.0f, sum = value, before = value;
    if (from.at[1] && i < from.count)
        sum = value = before = value * ((const float *)from.at[1])[i];
    for (int by = warpSize / 2; by > 0; by /= 2)
        sum += __shfl_xor_sync(EVERY_LANE, sum, by);
    for (int by = 1; by < warpSize; by *= 2) {
        float other = __shfl_up_sync(EVERY_LANE, before, by);
        before += lane >= by ? other : 0.0f;
    }
    // In pairs, and by the even half alone.
    float partner = __shfl_down_sync(EVERY_LANE, value, 1, 2), first = __shfl_sync(EVERY_LANE, value, 0, 4);
    unsigned ballot = __ballot_sync(EVERY_LANE, value > 0.0f);
    bool all = __all_sync(EVERY_LANE, i < from.count), any = __any_sync(EVERY_LANE, value == first && partner > value);
    if (lane % 2 == 0)
        ballot ^= __popc(__ballot_sync(0x55555555u, value > 0.0f)) << 1;
    if (i < from.count)
        sums[i] = sum, running[i] = before;
    if (lane == 0)
        votes[i / warpSize] = (ballot & ~0xc0000000u) | (unsigned)all << 31 | (unsigned)any << 30;
}
"#;

/// A transposition by tiles.
pub(crate) const TRANSPOSE: &str = r#"
#define TILE 32
extern "C" __global__ void transpose(unsigned *to, const unsigned *from, int rows, int columns)
{
    __shared__ unsigned tile[TILE][TILE + 1];
    int row0 = blockIdx.y * TILE, column0 = blockIdx.x * TILE;
    for (int i = threadIdx.y; i < TILE; i += blockDim.y)
        if (row0 + i < rows && column0 + threadIdx.x < columns)
            tile[i][threadIdx.x] = from[(row0 + i) * columns + column0 + threadIdx.x];
    __syncthreads();
    for (int i = threadIdx.y; i < TILE; i += blockDim.y)
        if (column0 + i < columns && row0 + threadIdx.x < rows)
            to[(column0 + i) * rows + row0 + threadIdx.x] = tile[threadIdx.x][i];
}
"#;

/// What each block has, added up by the block that is done last.
pub(crate) const TOGETHER: &str = r#"
extern "C" __global__ void together(float *y, float *sums, unsigned *arrived, const float *x)
{
    __shared__ unsigned before;
    if (threadIdx.x == 0) {
        sums[blockIdx.x] = x[blockIdx.x];
        __threadfence();
        before = atomicAdd(arrived, 1u);
    }
    __syncthreads();
    if (before + 1 != gridDim.x)
        return;
    float sum = 0.0f;
    for (int i = 0; i < gridDim.x; i++)
        sum += sums[i];
    y[threadIdx.x] = sum;
}
"#;

/// What a block has, backwards, through dynamic shared memory; and whoever needs neither barrier nor shared memory.
pub(crate) const DYNAMIC: &str = r#"
template <class T> __device__ __forceinline__ T doubled(T value) { return value + value; }
extern "C" __global__ void backwards(float *y, const float *x)
{
    DYNAMIC_SHARED(memory);
    float *values = (float *)memory;
    values[threadIdx.x] = x[blockIdx.x * blockDim.x + threadIdx.x];
    __syncthreads();
    y[blockIdx.x * blockDim.x + threadIdx.x] = values[blockDim.x - 1 - threadIdx.x];
}
extern "C" __global__ void __launch_bounds__(256, 2)
doubles(float *y, const float *x, int count, int *called)
{
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < count)
        y[i] = doubled(x[i]), atomicAdd(called, 1);
}
struct __align__(16) Sized {
    static const int POINTERS = 1;
    const float *at[POINTERS];
    char tail;
};
extern "C" __global__ void takes_many(char a, double b, Sized c, short d, float4 e) {}
"#;

/// What one thread must not do; each in a kernel of its own.
pub(crate) const MISTAKES: &str = r#"
extern "C" __global__ void is_far_away(float *y, int n) { y[(long long)n << 40] = 1.0f; }
extern "C" __global__ void is_not_aligned(float *y, int n) { *(float4 *)(y + n) = make_float4(1.0f, 2.0f, 3.0f, 4.0f); }
extern "C" __global__ void is_beyond_an_array(float *y, int n)
{
    __shared__ float few[4];
    few[n + 3] = 1.0f;
    y[0] = few[0];
}
extern "C" __global__ void divides_by_zero(float *y, int n) { y[0] = 1 / (n - 1); }
extern "C" __global__ void asserts(float *y, int n) { assert(n == 2); }
extern "C" __global__ void is_behind(float *y, int n) { y[n + 15] = 1.0f; }
extern "C" __global__ void names_others(float *y, int n) { y[0] = __shfl_sync(2u, 1.0f, n); }
extern "C" __global__ void copies_beside(float *y, int n)
{
    DYNAMIC_SHARED(memory);
    copy_async_4(memory + n, y, true);
}
"#;

/// Words of the language that the others do not have: what each gives is a line of the test.
pub(crate) const WORDS: &str = r#"
__constant__ float TABLE[2] = {0.25f, 0.75f};
struct __align__(8) Pair {
    int a, b;
};
template <class T> __device__ __noinline__ T power(T x, int n) { return n == 0 ? (T)1 : x * power(x, n - 1); }
extern "C" __global__ void words(double *y, int *counter, unsigned *flags, float *sum, unsigned long long *wide, const float *__restrict__ x)
{
    int i = 0;
    y[i++] = erff(x[0]) + tanhf(x[0]);
    y[i++] = rsqrt(4.0) + rsqrtf(4.0f) + rcbrt(8.0);
    y[i++] = sinpif(0.5f) + cospi(1.0) + sinpi(-1.0);
    y[i++] = erfinv(0.5) + normcdfinv(0.975);
    y[i++] = normcdff(0.0f) + erfcx(30.0) + cyl_bessel_i0(1.0);
    y[i++] = __expf(0.0f) + __logf(1.0f) + exp10f(2.0f) + __fdividef(1.0f, 4.0f) + fmaf(2.0f, 3.0f, 4.0f) + __fmaf_rn(1.0f, 1.0f, 1.0f);
    y[i++] = __int_as_float(__float_as_int(x[0])) + __uint_as_float(__float_as_uint(0.5f));
    y[i++] = __umulhi(0x80000000u, 6u) + __popc(0xffu) + __clz(1) + __ffs(8) + __brev(1u) / 1073741824u;
    y[i++] = __dp4a(0x01ff0203, 0x02020202, 1);
    y[i++] = __dp4a(0x01ff0203u, 0x02020202u, 1u);
    y[i++] = __float2int_rn(2.5f) + __float2int_rz(-2.5f) + __float2int_rd(-2.5f) + (int)__float2uint_rn(-1.0f);
    y[i++] = min(3, 2) + max(3u, 4u) + min(1.5f, 2.5f) + max(1.0, 2.0) + min(7LL, 8LL) + max(1, 2u);
    y[i++] = __ldg(x) + TABLE[1] + power(2.0f, 3) + sizeof(Pair);
    float4 v = make_float4(1, 2, 3, 4);
    uint2 u = make_uint2(5, 6);
    int4 w = make_int4(7, 8, 9, 10);
    y[i++] = v.w + u.y + w.z + make_float2(1, 2).y + make_int2(1, 2).x + make_uint4(1, 2, 3, 4).w;
    y[i++] = atomicAdd(counter, 2) + atomicMax(counter, 9) + atomicMin(counter, 4) + atomicAdd(counter, 1);
    y[i++] = atomicAdd(flags, 5u) + atomicCAS(flags, 5u, 7u) + atomicCAS(flags, 5u, 8u) + *flags;
    y[i++] = atomicAdd(sum, 0.5f) + *sum + atomicAdd(wide, 1ull << 40) + *wide;
    y[i++] = __syncthreads_count(1) + __syncthreads_or(0) + __syncthreads_and(1);
}
"#;

/// A product of y[m][n] = a[m][k] * b[n][k], by tiles of 16 x 16 and two warps, in steps of 32 bytes of each row. `MMA`, `SUM` and `BY_HAND` are defined
/// before it.
pub(crate) const PRODUCT: &str = r#"
extern "C" __global__ void __launch_bounds__(64)
    product(SUM *y, const unsigned char *a, const unsigned char *b, int m, int n, int row_bytes)
{
    DYNAMIC_SHARED(memory); // Two stages of 16 rows of a, and of b.
    int lane = threadIdx.x % 32, warp = threadIdx.x / 32, g = lane / 4, t = lane % 4;
    int row0 = blockIdx.y * 16, column0 = blockIdx.x * 16;
    // Each thread copies 16 bytes of a row: the first warp those of a, the second those of b.
    int row = (warp == 0 ? row0 : column0) + lane / 2, part = lane % 2 * 16;
    bool is_row = row < (warp == 0 ? m : n);
    const unsigned char *from = (warp == 0 ? a : b) + (size_t)row * row_bytes + part;
    unsigned char *to = memory + warp * 512 + lane / 2 * 32 + part;
    SUM d[4] = {};
    copy_async_16(to, from, is_row && part < row_bytes);
    copy_async_commit();
    for (int step = 0; step * 32 < row_bytes; step++) {
        int next = (step + 1) * 32;
        copy_async_16(to + (step + 1) % 2 * 1024, from + next, is_row && next + part < row_bytes);
        copy_async_commit();
        copy_async_wait<1>();
        __syncthreads(); // copied
        const unsigned char *stage = memory + step % 2 * 1024;
        unsigned a_part[4], b_part[2];
#if BY_HAND
        for (int i = 0; i < 4; i++)
            a_part[i] = *(const unsigned *)(stage + (g + i % 2 * 8) * 32 + t * 4 + i / 2 * 16);
        for (int i = 0; i < 2; i++)
            b_part[i] = *(const unsigned *)(stage + 512 + (warp * 8 + g) * 32 + t * 4 + i * 16);
#else
        load_matrix_x4(a_part, stage + lane % 16 * 32 + lane / 16 * 16);
        load_matrix_x2(b_part, stage + 512 + (warp * 8 + lane % 8) * 32 + lane / 8 % 2 * 16);
#endif
        MMA(d, a_part, b_part);
        __syncthreads(); // used
    }
    for (int i = 0; i < 4; i++) {
        int at_row = row0 + g + i / 2 * 8, at_column = column0 + warp * 8 + t * 2 + i % 2;
        if (at_row < m && at_column < n)
            y[at_row * n + at_column] = d[i];
    }
}
"#;

/// One product of 16 x 8 x 16 elements of 16 bits, of what lies the other way round: a[k][m] and b[k][n].
pub(crate) const TRANSPOSED_PRODUCT: &str = r#"
extern "C" __global__ void transposed_product(float *y, const unsigned short *a, const unsigned *b)
{
    __shared__ __align__(16) unsigned short left[16][16], right[16][8];
    int lane = threadIdx.x;
    for (int i = lane; i < 256; i += 32)
        left[i / 16][i % 16] = a[i];
    for (int i = lane; i < 64; i += 32)
        copy_async_4(&right[i / 4][i % 4 * 2], b + i, true);
    copy_async_commit();
    copy_async_wait<0>();
    __syncthreads();
    unsigned a_part[4], b_part[2];
    float d[4] = {};
    load_matrix_x4_transposed(a_part, &left[lane % 8 + lane / 16 * 8][lane / 8 % 2 * 8]);
    load_matrix_x2_transposed(b_part, &right[lane % 16][0]);
    mma_f16(d, a_part, b_part);
    for (int i = 0; i < 4; i++)
        y[(lane / 4 + i / 2 * 8) * 8 + lane % 4 * 2 + i % 2] = d[i];
}
"#;

/// A text as a module's: with its head and definitions, and with the mutant's mistake in it where this process is to make that.
pub(crate) fn module(text: &str, definitions: &str) -> String {
    let number = std::env::var(MUTANT).ok().map(|n| n.parse::<usize>().unwrap());
    let changed = match number.map(|n| MUTANTS[n]) {
        Some((of, was, with, _)) if of == text => {
            assert_eq!(text.matches(was).count(), 1, "'{was}' comes once");
            text.replace(was, with)
        }
        _ => text.to_owned(),
    };
    format!("{HEAD}{definitions}{changed}")
}
