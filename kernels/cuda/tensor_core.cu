// What only inline PTX can say: tensor cores, matrices from shared memory into their registers, asynchronous copies; sm_80 and later.
//
// Nothing else of the kernels is in PTX, so that the emulated driver (hardware-tests/cuda-emulator) can run all of the rest as it is: for this file
// it has a twin with the same functions, words/tensor_core.h. Which lane holds which element is as the PTX ISA has it ("Warp Level Matrix
// Multiply-Accumulate Instructions"). There are no headers to include: 16-bit floats are bits in an `unsigned`, two of them, the first one below.
//
// With lane = 4 * g + t, per register of 32 bits (E elements: 2 of 16 bits, 1 tf32, 4 bytes; a is 16 x 8E, b 8E x 8, d 16 x 8):
//   a[0], a[1]: row g and row g + 8, columns E * t to E * t + E - 1; a[2], a[3]: the same rows, 4E columns further on
//   b[0]: column g, rows E * t to E * t + E - 1; b[1]: 4E rows further on
//   d[0], d[1]: row g, columns 2t and 2t + 1; d[2], d[3]: row g + 8
// All 32 lanes of a warp must take part in a product and in a load_matrix.

// Whether there are products of floats of 8 bits: from sm_89 on.
#if defined(CUDA_EMULATOR) || __CUDA_ARCH__ >= 890
#define HAS_FLOAT8 1
#else
#define HAS_FLOAT8 0
#endif

#ifndef CUDA_EMULATOR

// The dynamic shared memory of a block: bytes that the launch says the number of.
#define DYNAMIC_SHARED(name) extern __shared__ __align__(128) unsigned char name[]

// d += a * b.
#define MMA_INTO(result, type, instruction, kind)                                                                                             \
    __device__ __forceinline__ void kind(type (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2])                                       \
    {                                                                                                                                        \
        asm volatile("mma.sync.aligned." instruction " {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"                      \
                     : "+" result(d[0]), "+" result(d[1]), "+" result(d[2]), "+" result(d[3])                                                \
                     : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));                                                    \
    }
MMA_INTO("f", float, "m16n8k16.row.col.f32.f16.f16.f32", mma_f16)
MMA_INTO("f", float, "m16n8k16.row.col.f32.bf16.bf16.f32", mma_bf16)
// The elements are the bits of floats, of which the product takes the upper 19.
MMA_INTO("f", float, "m16n8k8.row.col.f32.tf32.tf32.f32", mma_tf32)
MMA_INTO("r", int, "m16n8k32.row.col.s32.s8.s8.s32", mma_s8)
MMA_INTO("r", int, "m16n8k32.row.col.s32.u8.s8.s32", mma_u8s8)
MMA_INTO("r", int, "m16n8k32.row.col.s32.s8.u8.s32", mma_s8u8)
MMA_INTO("r", int, "m16n8k32.row.col.s32.u8.u8.s32", mma_u8)
#if HAS_FLOAT8
// Some GPUs keep fewer bits of such a sum than a float has: 13 of its fraction.
MMA_INTO("f", float, "m16n8k32.row.col.f32.e4m3.e4m3.f32", mma_e4m3)
MMA_INTO("f", float, "m16n8k32.row.col.f32.e5m2.e5m2.f32", mma_e5m2)
MMA_INTO("f", float, "m16n8k32.row.col.f32.e4m3.e5m2.f32", mma_e4m3e5m2)
MMA_INTO("f", float, "m16n8k32.row.col.f32.e5m2.e4m3.f32", mma_e5m2e4m3)
#endif
#undef MMA_INTO

// Matrices of 8 rows of 16 bytes each. Lane 8 * i + n names row n of matrix i by its address, a multiple of 16; r[i] then has the two elements of
// 16 bits that a fragment wants of matrix i: row g, columns 2t and 2t + 1; transposed: rows 2t and 2t + 1 of column g.
__device__ __forceinline__ void load_matrix_x4(unsigned (&r)[4], const void *shared_row)
{
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"((unsigned)__cvta_generic_to_shared(shared_row))
                 : "memory");
}

__device__ __forceinline__ void load_matrix_x4_transposed(unsigned (&r)[4], const void *shared_row)
{
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"((unsigned)__cvta_generic_to_shared(shared_row))
                 : "memory");
}

// Two matrices: lanes 0 to 15 name their rows.
__device__ __forceinline__ void load_matrix_x2(unsigned (&r)[2], const void *shared_row)
{
    asm volatile("ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%0, %1}, [%2];"
                 : "=r"(r[0]), "=r"(r[1])
                 : "r"((unsigned)__cvta_generic_to_shared(shared_row))
                 : "memory");
}

__device__ __forceinline__ void load_matrix_x2_transposed(unsigned (&r)[2], const void *shared_row)
{
    asm volatile("ldmatrix.sync.aligned.m8n8.x2.trans.shared.b16 {%0, %1}, [%2];"
                 : "=r"(r[0]), "=r"(r[1])
                 : "r"((unsigned)__cvta_generic_to_shared(shared_row))
                 : "memory");
}

// A copy into shared memory that goes on by itself, from and to multiples of its size; zeros where nothing is there, and nothing is read then.
__device__ __forceinline__ void copy_async_16(void *shared, const void *global, bool is_there)
{
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"((unsigned)__cvta_generic_to_shared(shared)), "l"(global),
                 "r"(is_there ? 16 : 0)
                 : "memory");
}

__device__ __forceinline__ void copy_async_4(void *shared, const void *global, bool is_there)
{
    asm volatile("cp.async.ca.shared.global [%0], [%1], 4, %2;" ::"r"((unsigned)__cvta_generic_to_shared(shared)), "l"(global),
                 "r"(is_there ? 4 : 0)
                 : "memory");
}

// Ends a group of this thread's copies.
__device__ __forceinline__ void copy_async_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }

// Waits until all of this thread's groups but the N newest are done. What other threads copied is there after a barrier.
template <int N> __device__ __forceinline__ void copy_async_wait() { asm volatile("cp.async.wait_group %0;" ::"n"(N) : "memory"); }

#endif
