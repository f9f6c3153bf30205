// An emulated cuBLASLt: the functions of it that triscore binds (src/gpu/cublaslt.rs), over the emulated driver, in the library's own order of
// arguments and with its own numbers (cublasLt.h).
//
// It computes on the host, as work of the stream, so that a product is as late as a kernel is, and part of a graph where the stream is captured. It is
// strict: what the library documents as wrong is refused with the library's status and a line that says why, and an algorithm is held to what it was
// asked for: the sizes, the alignments that were promised, its workspace. The first algorithm adds two halves of each sum in the workspace, the second
// needs none. NaN stays NaN in a ReLU, so that what nobody wrote is seen.
//
// Emulated is what is asked for, and nothing else of the library: columns only, floats of 32, 16 and 8 bits, sums of 32, no bias of another type than the
// result's.

#include "driver.h"
#include "numbers.h"

#include <cstdint>
#include <cstdio>
#include <cstring>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <vector>

#define API extern "C" __attribute__((visibility("default")))

namespace {
enum Status : int { SUCCESS = 0, NOT_INITIALIZED = 1, INVALID_VALUE = 7, EXECUTION_FAILED = 13, NOT_SUPPORTED = 15 };
enum Compute : int { COMPUTE_32F = 68, COMPUTE_32F_FAST_TF32 = 77 };
enum Epilogue : uint32_t { PLAIN = 1, RELU = 2, BIAS = 4 };
constexpr uint32_t REDUCTION_COMPUTE_TYPE = 2;
constexpr uint64_t MAGIC = 0x74726973636f7265;

struct Handle {
    int device;
};
struct Desc {
    int compute;
    // Of the left and of the right matrix.
    int32_t transposed[2] = {0, 0};
    uint32_t epilogue = PLAIN;
    uint64_t bias = 0;
};
struct Layout {
    int type;
    uint64_t rows, columns;
    int64_t stride;
    int32_t batch = 1;
    int64_t batch_stride = 0;

    size_t bytes() const { return ((batch - 1) * batch_stride + (columns - 1) * stride + rows) * size_of(type); }
};
struct Preference {
    uint64_t workspace = 0;
    uint32_t reduction = 7;
    // Of A, B, C and D.
    uint32_t align[4] = {256, 256, 256, 256};
};
struct Algorithm {
    uint64_t magic;
    uint32_t number, bias_align;
    uint64_t problem, workspace, align[4];
};
struct Advice {
    Algorithm algorithm;
    size_t workspace;
    int status;
    float waves;
    int reserved[4];
};
static_assert(sizeof(Algorithm) == 64 && sizeof(Advice) == 96, "as cublasLt.h has them");

Status refuse(Status status, const std::string &why)
{
    std::fprintf(stderr, "cuBLASLt emulator: %s\n", why.c_str());
    return status;
}

// What is alive, by kind, so that a handle that is none, or was destroyed, is refused.
std::mutex &one_at_a_time = *new std::mutex;
template <class T> std::map<void *, std::unique_ptr<T>> &alive()
{
    static auto &all = *new std::map<void *, std::unique_ptr<T>>;
    return all;
}
template <class T> T *object(void *at)
{
    auto found = alive<T>().find(at);
    return found == alive<T>().end() ? nullptr : found->second.get();
}
template <class T> Status create(void **at, T value)
{
    if (!at)
        return refuse(INVALID_VALUE, "no place for what is created");
    std::lock_guard<std::mutex> lock(one_at_a_time);
    auto made = std::make_unique<T>(value);
    *at = made.get();
    alive<T>()[*at] = std::move(made);
    return SUCCESS;
}
template <class T> Status destroy(void *at)
{
    std::lock_guard<std::mutex> lock(one_at_a_time);
    return alive<T>().erase(at) ? SUCCESS : refuse(INVALID_VALUE, "what is destroyed is no such object, or was destroyed before");
}
template <class T> Status set(T &to, const void *from, size_t bytes)
{
    if (!from || bytes != sizeof(T))
        return refuse(INVALID_VALUE, "an attribute of " + std::to_string(bytes) + " bytes, not " + std::to_string(sizeof(T)));
    return std::memcpy(&to, from, bytes), SUCCESS;
}

// A product, as it is described: d = epilogue(a b + c).
struct Problem {
    Desc desc;
    Layout a, b, c, d;

    uint64_t number() const
    {
        uint64_t hash = 0xcbf29ce484222325;
        auto add = [&](uint64_t value) { hash = (hash ^ value) * 0x100000001b3; };
        for (uint64_t value : {uint64_t(desc.compute), uint64_t(desc.transposed[0]), uint64_t(desc.transposed[1]), uint64_t(desc.epilogue)})
            add(value);
        for (const Layout &layout : {a, b, c, d})
            for (uint64_t value : {uint64_t(layout.type), layout.rows, layout.columns, uint64_t(layout.stride), uint64_t(layout.batch),
                                   uint64_t(layout.batch_stride)})
                add(value);
        return hash;
    }
    uint64_t depth() const { return desc.transposed[0] ? a.rows : a.columns; }
};

// As "cublasLtMatmul" has it for FP8: the first matrix transposed and the other one not, everything in pieces of 16 bytes, and no bias of 32 bits.
Status check_float8(const Problem &problem)
{
    auto &[desc, a, b, c, d] = problem;
    if (size_of(b.type) != 1 || (a.type == R_8F_E5M2 && b.type == R_8F_E5M2))
        return refuse(NOT_SUPPORTED, "types that are not multiplied with each other");
    if (!desc.transposed[0] || desc.transposed[1])
        return refuse(NOT_SUPPORTED, "floats of 8 bits whose depth does not lie together");
    for (uint64_t length : {uint64_t(a.stride), uint64_t(b.stride), uint64_t(a.batch_stride), uint64_t(b.batch_stride), d.rows, problem.depth()})
        if (length % 16)
            return refuse(NOT_SUPPORTED, "floats of 8 bits that do not lie in pieces of 16 (" + std::to_string(length) + ")");
    if ((desc.epilogue & BIAS) && d.type == R_32F)
        return refuse(NOT_SUPPORTED, "a bias of 32 bits for floats of 8");
    return SUCCESS;
}

Status check(const Problem &problem)
{
    auto &[desc, a, b, c, d] = problem;
    for (const Layout *layout : {&a, &b, &c, &d}) {
        if (layout->rows == 0 || layout->columns == 0 || layout->batch < 1 || layout->batch_stride < 0)
            return refuse(INVALID_VALUE, "a matrix without elements, or a batch that runs backwards");
        if (layout->stride < int64_t(layout->rows))
            return refuse(INVALID_VALUE, "a leading dimension of " + std::to_string(layout->stride) + " for " + std::to_string(layout->rows) + " rows");
        if (layout->batch != d.batch)
            return refuse(INVALID_VALUE, "batches that differ");
    }
    if (d.batch > 1 && d.batch_stride == 0)
        return refuse(INVALID_VALUE, "results on top of each other");
    uint64_t rows = desc.transposed[0] ? a.columns : a.rows, columns = desc.transposed[1] ? b.rows : b.columns;
    uint64_t depth = desc.transposed[1] ? b.columns : b.rows;
    if (d.rows != rows || d.columns != columns || problem.depth() != depth)
        return refuse(INVALID_VALUE, "sizes that do not fit each other");
    if (c.rows != d.rows || c.columns != d.columns || c.stride != d.stride || c.batch_stride != d.batch_stride)
        return refuse(NOT_SUPPORTED, "what is added lies otherwise than the result");
    bool is_short = a.type != R_32F, is_float8 = size_of(a.type) == 1;
    if (c.type != d.type || size_of(d.type) == 1)
        return refuse(NOT_SUPPORTED, "a result of that type");
    if (is_float8) {
        if (Status status = check_float8(problem))
            return status;
    } else if (a.type != b.type || (d.type != a.type && !(is_short && d.type == R_32F)))
        return refuse(NOT_SUPPORTED, "types that are not multiplied with each other");
    if (desc.compute == COMPUTE_32F_FAST_TF32 && is_short)
        return refuse(NOT_SUPPORTED, "TF32 of floats of fewer bits");
    if ((desc.epilogue & BIAS) && desc.bias == 0)
        return refuse(INVALID_VALUE, "an epilogue with a bias, and no bias");
    return SUCCESS;
}

// The work of a product: it owns what it reads besides device memory.
struct Job {
    Problem problem;
    uint64_t a, b, c, d, workspace, workspace_bytes;
    float alpha, beta;
    int device;
    // Whether it runs once; as a part of a graph it may run again, and stays.
    bool is_once;

    std::string missing() const
    {
        auto there = [&](uint64_t at, size_t bytes) { return cuda_emulator_device_of(at, bytes) == device; };
        const char *none = !there(a, problem.a.bytes())                                     ? "a"
                           : !there(b, problem.b.bytes())                                   ? "b"
                           : beta != 0 && !there(c, problem.c.bytes())                      ? "c"
                           : !there(d, problem.d.bytes())                                   ? "d"
                           : workspace_bytes > 0 && !there(workspace, workspace_bytes)      ? "the workspace"
                           : (problem.desc.epilogue & BIAS) && !there(problem.desc.bias, problem.d.rows * size_of(problem.d.type)) ? "the bias"
                                                                                            : "";
        return *none ? std::string(none) + " does not lie in device memory" : "";
    }

    // Rows of op(matrix) one after the other, or its columns: what is summed lies together.
    std::vector<float> packed(uint64_t at, const Layout &layout, int z, bool by_columns) const
    {
        uint64_t depth = problem.depth(), count = by_columns ? layout.columns : layout.rows;
        std::vector<float> all(count * depth);
        for (uint64_t i = 0; i < count; i++)
            for (uint64_t l = 0; l < depth; l++) {
                uint64_t place = z * layout.batch_stride + (by_columns ? i * layout.stride + l : i + l * layout.stride);
                float value = load(at, layout.type, place);
                all[i * depth + l] = problem.desc.compute == COMPUTE_32F_FAST_TF32 ? as_tf32(value) : value;
            }
        return all;
    }

    void run() const
    {
        uint64_t depth = problem.depth(), rows = problem.d.rows, columns = problem.d.columns, half = workspace_bytes ? depth / 2 : 0;
        auto *parts = reinterpret_cast<float *>(workspace);
        for (int z = 0; z < problem.d.batch; z++) {
            auto left = packed(a, problem.a, z, problem.desc.transposed[0]), right = packed(b, problem.b, z, !problem.desc.transposed[1]);
            auto sum = [&](uint64_t i, uint64_t j, uint64_t from, uint64_t to) {
                float value = 0;
                for (uint64_t l = from; l < to; l++)
                    value += left[i * depth + l] * right[j * depth + l];
                return value;
            };
            for (uint64_t j = 0; workspace_bytes && j < columns; j++)
                for (uint64_t i = 0; i < rows; i++)
                    parts[j * rows + i] = sum(i, j, 0, half);
            for (uint64_t j = 0; j < columns; j++)
                for (uint64_t i = 0; i < rows; i++) {
                    float value = alpha * (sum(i, j, half, depth) + (workspace_bytes ? parts[j * rows + i] : 0));
                    uint64_t place = z * problem.d.batch_stride + j * problem.d.stride + i;
                    if (beta != 0)
                        value += beta * load(c, problem.c.type, place);
                    if (problem.desc.epilogue & BIAS)
                        value += load(problem.desc.bias, problem.d.type, i);
                    store(d, problem.d.type, place, (problem.desc.epilogue & RELU) && value < 0 ? 0 : value);
                }
        }
    }
};

void work(void *of)
{
    auto *job = static_cast<Job *>(of);
    if (std::string why = job->missing(); !why.empty())
        cuda_emulator_lose(job->device, ("a product of cuBLASLt: " + why + " any more").c_str());
    else
        job->run();
    if (job->is_once)
        delete job;
}
} // namespace

API size_t cublasLtGetVersion() { return 130000; }
API int cublasLtCreate(void **handle)
{
    int device = -1;
    if (cuCtxGetDevice(&device))
        return refuse(NOT_INITIALIZED, "no context is current");
    return create(handle, Handle{device});
}
API int cublasLtDestroy(void *handle) { return destroy<Handle>(handle); }

API int cublasLtMatmulDescCreate(void **desc, int compute, int scale)
{
    if ((compute != COMPUTE_32F && compute != COMPUTE_32F_FAST_TF32) || scale != R_32F)
        return refuse(NOT_SUPPORTED, "sums that are no floats of 32 bits");
    return create(desc, Desc{compute});
}
API int cublasLtMatmulDescDestroy(void *desc) { return destroy<Desc>(desc); }
API int cublasLtMatmulDescSetAttribute(void *at, int which, const void *from, size_t bytes)
{
    std::lock_guard<std::mutex> lock(one_at_a_time);
    Desc *desc = object<Desc>(at);
    if (!desc)
        return refuse(INVALID_VALUE, "no description of a product");
    Desc changed = *desc;
    Status status = which == 3   ? set(changed.transposed[0], from, bytes)
                    : which == 4 ? set(changed.transposed[1], from, bytes)
                    : which == 7 ? set(changed.epilogue, from, bytes)
                    : which == 8 ? set(changed.bias, from, bytes)
                                 : refuse(INVALID_VALUE, "attribute " + std::to_string(which) + " of a product");
    if (status)
        return status;
    uint32_t epilogue = changed.epilogue;
    if (changed.transposed[0] >> 1 || changed.transposed[1] >> 1 || (epilogue != PLAIN && epilogue != RELU && epilogue != BIAS && epilogue != (RELU | BIAS)))
        return refuse(INVALID_VALUE, "a value that attribute " + std::to_string(which) + " of a product does not have");
    return *desc = changed, SUCCESS;
}

API int cublasLtMatrixLayoutCreate(void **layout, int type, uint64_t rows, uint64_t columns, int64_t stride)
{
    return size_of(type) ? create(layout, Layout{type, rows, columns, stride}) : refuse(NOT_SUPPORTED, "a matrix of type " + std::to_string(type));
}
API int cublasLtMatrixLayoutDestroy(void *layout) { return destroy<Layout>(layout); }
API int cublasLtMatrixLayoutSetAttribute(void *at, int which, const void *from, size_t bytes)
{
    std::lock_guard<std::mutex> lock(one_at_a_time);
    Layout *layout = object<Layout>(at);
    if (!layout)
        return refuse(INVALID_VALUE, "no layout of a matrix");
    return which == 5   ? set(layout->batch, from, bytes)
           : which == 6 ? set(layout->batch_stride, from, bytes)
                        : refuse(INVALID_VALUE, "attribute " + std::to_string(which) + " of a matrix");
}

API int cublasLtMatmulPreferenceCreate(void **preference) { return create(preference, Preference{}); }
API int cublasLtMatmulPreferenceDestroy(void *preference) { return destroy<Preference>(preference); }
API int cublasLtMatmulPreferenceSetAttribute(void *at, int which, const void *from, size_t bytes)
{
    std::lock_guard<std::mutex> lock(one_at_a_time);
    Preference *preference = object<Preference>(at);
    if (!preference)
        return refuse(INVALID_VALUE, "no preference");
    return which == 1                 ? set(preference->workspace, from, bytes)
           : which == 3               ? set(preference->reduction, from, bytes)
           : which >= 5 && which <= 8 ? set(preference->align[which - 5], from, bytes)
                                      : refuse(INVALID_VALUE, "attribute " + std::to_string(which) + " of a preference");
}

API int cublasLtMatmulAlgoGetHeuristic(void *handle, void *desc, void *a, void *b, void *c, void *d, void *preferred, int most, Advice *advice, int *count)
{
    std::lock_guard<std::mutex> lock(one_at_a_time);
    Preference *preference = object<Preference>(preferred);
    Layout *layouts[] = {object<Layout>(a), object<Layout>(b), object<Layout>(c), object<Layout>(d)};
    if (!object<Handle>(handle) || !object<Desc>(desc) || !layouts[0] || !layouts[1] || !layouts[2] || !layouts[3] || !preference || !advice || !count || most < 1)
        return refuse(INVALID_VALUE, "heuristics of what is not alive, or for nobody");
    Problem problem{*object<Desc>(desc), *layouts[0], *layouts[1], *layouts[2], *layouts[3]};
    if (Status status = check(problem))
        return status;
    for (int i = 0; i < 4; i++)
        if (uint32_t align = preference->align[i]; align < (size_of(layouts[i]->type) == 1 ? 16 : size_of(layouts[i]->type)) || (align & (align - 1)))
            return refuse(INVALID_VALUE, "an alignment of " + std::to_string(align) + " bytes");
    uint64_t parts = problem.d.rows * problem.d.columns * sizeof(float);
    bool is_split = parts <= preference->workspace && (preference->reduction & REDUCTION_COMPUTE_TYPE);
    *count = most < 2 ? most : 2;
    for (int i = 0; i < *count; i++) {
        // The address that is said is how aligned the bias will be.
        uint64_t bias = problem.desc.epilogue & BIAS ? problem.desc.bias & -problem.desc.bias : 1;
        Algorithm algorithm{MAGIC, uint32_t(i), uint32_t(bias < 256 ? bias : 256), problem.number(), i == 0 && is_split ? parts : 0, {}};
        for (int k = 0; k < 4; k++)
            algorithm.align[k] = preference->align[k];
        advice[i] = Advice{algorithm, algorithm.workspace, SUCCESS, 1, {}};
    }
    return SUCCESS;
}

API int cublasLtMatmul(void *handle_at, void *desc_at, const float *alpha, const void *a, void *a_at, const void *b, void *b_at, const float *beta,
                       const void *c, void *c_at, void *d, void *d_at, const Algorithm *algorithm, void *workspace, size_t workspace_bytes, void *stream)
{
    std::unique_lock<std::mutex> lock(one_at_a_time);
    Handle *handle = object<Handle>(handle_at);
    Desc *desc = object<Desc>(desc_at);
    Layout *layouts[] = {object<Layout>(a_at), object<Layout>(b_at), object<Layout>(c_at), object<Layout>(d_at)};
    if (!handle || !desc || !layouts[0] || !layouts[1] || !layouts[2] || !layouts[3] || !alpha || !beta || !algorithm)
        return refuse(INVALID_VALUE, "a product of what is not alive");
    Problem problem{*desc, *layouts[0], *layouts[1], *layouts[2], *layouts[3]};
    int device = handle->device, current = -1;
    lock.unlock();
    if (Status status = check(problem))
        return status;
    if (cuCtxGetDevice(&current) || current != device)
        return refuse(INVALID_VALUE, "another context is current than the handle's");
    if (algorithm->magic != MAGIC || algorithm->problem != problem.number())
        return refuse(NOT_SUPPORTED, "an algorithm for another product");
    if (workspace_bytes < algorithm->workspace || (algorithm->workspace && (!workspace || reinterpret_cast<uint64_t>(workspace) % 16)))
        return refuse(INVALID_VALUE, "a workspace of " + std::to_string(workspace_bytes) + " bytes, not " + std::to_string(algorithm->workspace) + ", or not aligned");
    auto address = [](const void *at) { return reinterpret_cast<uint64_t>(at); };
    uint64_t places[] = {address(a), address(b), address(c), address(d)};
    for (int i = 0; i < 4; i++)
        if ((i != 2 || *beta != 0) && places[i] % algorithm->align[i])
            return refuse(INVALID_VALUE, std::string("matrix ") + "abcd"[i] + " is not aligned to the " + std::to_string(algorithm->align[i]) + " bytes that were promised");
    if ((problem.desc.epilogue & BIAS) && problem.desc.bias % algorithm->bias_align)
        return refuse(INVALID_VALUE, "the bias is not aligned to the " + std::to_string(algorithm->bias_align) + " bytes that were promised");
    if (places[3] == places[0] || places[3] == places[1])
        return refuse(INVALID_VALUE, "the result is written over what is multiplied");
    auto job = std::make_unique<Job>(Job{problem, places[0], places[1], places[2], places[3], address(workspace), algorithm->workspace, *alpha, *beta, device, true});
    if (std::string why = job->missing(); !why.empty())
        return refuse(INVALID_VALUE, why);
    int capturing = 0;
    if (cuStreamIsCapturing(stream, &capturing))
        return refuse(INVALID_VALUE, "no stream");
    job->is_once = capturing == 0;
    lock.lock();
    // What loads it for the first time a capture forbids.
    static auto &loaded = *new std::set<std::pair<uint64_t, uint64_t>>;
    std::pair<uint64_t, uint64_t> code{algorithm->problem, algorithm->number};
    if (capturing && !loaded.count(code))
        return refuse(EXECUTION_FAILED, "an algorithm whose code is loaded during a capture");
    loaded.insert(code);
    lock.unlock();
    Job *given = job.release();
    return cuLaunchHostFunc(stream, work, given) ? (delete given, EXECUTION_FAILED) : SUCCESS;
}
