// An emulated cuDNN: the functions of its backend that triscore binds (src/gpu/cudnn), over the emulated driver, with the library's own numbers.
//
// It computes on the host, as work of the stream, so that a convolution is as late as a kernel is, and part of a graph where the stream is captured. It is
// strict: attributes have a type and a count, descriptors are finalised before they are used, and what does not fit is refused with the library's status
// and a line that says why, which is also its last error. A plan is held to what was promised: alignments, its workspace, memory of its device.
//
// Its heuristics propose an engine that uses tensor cores (so TF32 for floats of 32 bits) and adds two halves of each sum in a workspace, and fall back to
// one that does neither. Before both they propose one whose results are never the same, which nobody should take.

#include "cudnn/descriptors.h"
#include "cudnn/graph.h"
#include "driver.h"

#include <algorithm>

#define API extern "C" __attribute__((visibility("default")))

namespace {
enum : int { NOTE_TENSOR_CORE = 0, NOTE_NONDETERMINISTIC = 4 };
enum : int { MODE_FALLBACK = 2, MODE_A = 3 };
enum : int64_t { PLAIN = 0, TENSOR_CORES = 7, UNSTEADY = 30 };

// A convolution that is executed, and its work: it owns what it reads besides device memory.
struct Step {
    int mode;
    bool keeps_nan;
    std::vector<Tensor> b;
};
struct Job {
    Tensor x, w, y;
    std::vector<int64_t> strides, dilations, before;
    std::vector<Step> steps;
    std::map<int64_t, uint64_t> places;
    uint64_t workspace = 0, workspace_bytes = 0;
    bool is_tf32 = false;
    int device = 0;
    // Whether it runs once; as a part of a graph it may run again, and stays.
    bool is_once = true;

    explicit Job(const Descriptor &graph)
        : x(*first(graph).named(CONVOLVE_X)), w(*first(graph).named(CONVOLVE_W)), y(*first(graph).named(CONVOLVE_Y))
    {
        const Descriptor &how = *first(graph).named(CONVOLVE_CONVOLUTION);
        strides = how.list<int64_t>(CONVOLUTION_STRIDES);
        dilations = how.list<int64_t>(CONVOLUTION_DILATIONS);
        before = how.list<int64_t>(CONVOLUTION_BEFORE);
        auto &all = graph.values.at(GRAPH_OPERATIONS).named;
        for (size_t i = 1; i < all.size(); i++) {
            const Descriptor &what = *all[i]->named(OPERATION_POINTWISE);
            Step step{what.one<int>(POINTWISE_MODE), what.one<int>(POINTWISE_NAN) == 1, {}};
            if (Shared b = all[i]->named(OPERATION_B))
                step.b.emplace_back(*b);
            steps.push_back(step);
            y = Tensor(*all[i]->named(OPERATION_Y));
        }
    }
    static const Descriptor &first(const Descriptor &graph) { return *graph.values.at(GRAPH_OPERATIONS).named[0]; }

    std::vector<Tensor> tensors() const
    {
        std::vector<Tensor> all{x, w, y};
        for (const Step &step : steps)
            all.insert(all.end(), step.b.begin(), step.b.end());
        return all;
    }
    std::string missing() const
    {
        for (const Tensor &tensor : tensors())
            if (cuda_emulator_device_of(places.at(tensor.uid), tensor.bytes()) != device)
                return "tensor " + std::to_string(tensor.uid) + " does not lie in device memory";
        if (workspace_bytes && cuda_emulator_device_of(workspace, workspace_bytes) != device)
            return "the workspace does not lie in device memory";
        return "";
    }
    float at(const Tensor &tensor, int64_t place) const
    {
        float value = load(places.at(tensor.uid), tensor.type, place);
        return is_tf32 && tensor.type == R_32F ? as_tf32(value) : value;
    }
    // The sum over channels from one to another, for the result at these places of its axes.
    float sum(const std::vector<int64_t> &of, int64_t from, int64_t to) const
    {
        size_t axes = strides.size();
        int64_t group = of[1] / (w.lengths[0] / (x.lengths[1] / w.lengths[1])), taps = 1;
        for (size_t a = 0; a < axes; a++)
            taps *= w.lengths[2 + a];
        float value = 0;
        for (int64_t tap = 0; tap < taps; tap++) {
            int64_t in = of[0] * x.strides[0] + group * w.lengths[1] * x.strides[1], by = of[1] * w.strides[0], rest = tap;
            bool is_inside = true;
            for (size_t a = axes; a-- > 0; rest /= w.lengths[2 + a]) {
                int64_t t = rest % w.lengths[2 + a], place = of[2 + a] * strides[a] + t * dilations[a] - before[a];
                is_inside = is_inside && place >= 0 && place < x.lengths[2 + a];
                in += place * x.strides[2 + a];
                by += t * w.strides[2 + a];
            }
            for (int64_t c = from; is_inside && c < to; c++)
                value += at(x, in + c * x.strides[1]) * at(w, by + c * w.strides[1]);
        }
        return value;
    }
    void run() const
    {
        int64_t count = y.count(), channels = w.lengths[1], half = workspace_bytes ? channels / 2 : 0;
        auto *parts = reinterpret_cast<float *>(workspace);
        std::vector<int64_t> of(y.lengths.size());
        auto seek = [&](int64_t i) {
            for (size_t a = of.size(); a-- > 0; i /= y.lengths[a])
                of[a] = i % y.lengths[a];
        };
        auto place = [&](const Tensor &tensor) {
            int64_t all = 0;
            for (size_t a = 0; a < of.size(); a++)
                all += tensor.lengths[a] == 1 ? 0 : of[a] * tensor.strides[a];
            return all;
        };
        for (int64_t i = 0; workspace_bytes && i < count; i++)
            seek(i), parts[i] = sum(of, 0, half);
        for (int64_t i = 0; i < count; i++) {
            seek(i);
            float value = sum(of, half, channels) + (workspace_bytes ? parts[i] : 0);
            for (const Step &step : steps)
                if (step.mode == ADD)
                    value += load(places.at(step.b[0].uid), step.b[0].type, place(step.b[0]));
                else
                    value = value < 0 || (value != value && !step.keeps_nan) ? 0 : value;
            store(places.at(y.uid), y.type, place(y), value);
        }
    }
};

void work(void *of)
{
    auto *job = static_cast<Job *>(of);
    if (std::string why = job->missing(); !why.empty())
        cuda_emulator_lose(job->device, ("a convolution of cuDNN: " + why + " any more").c_str());
    else
        job->run();
    if (job->is_once)
        delete job;
}

// Fills descriptors that were created for it with what the library has.
Shared made(int kind)
{
    auto one = std::make_shared<Descriptor>();
    one->kind = kind;
    one->is_final = true;
    return one;
}
Shared config(const Shared &graph, int64_t index, std::vector<int> notes)
{
    Shared engine = made(ENGINE), knob = made(KNOB), all = made(CONFIG);
    engine->put<int64_t>(ENGINE_INDEX, {index});
    engine->put<int>(ENGINE_NOTES, notes);
    knob->put<int>(KNOB_TYPE, {2});
    knob->put<int64_t>(KNOB_VALUE, {index ? 5 : -1});
    all->values[CONFIG_ENGINE].named = {engine};
    all->values[CONFIG_KNOBS].named = {knob};
    all->values[HEURISTICS_GRAPH].named = {graph};
    return all;
}

Status finalise(Descriptor &of)
{
    for (const Attribute &known : ATTRIBUTES)
        if (known.kind == of.kind && known.is_needed && !of.has(known.name))
            return refuse(BAD_PARAM, "descriptor " + std::to_string(of.kind) + " is finalised without attribute " + std::to_string(known.name));
    switch (of.kind) {
    case TENSOR:
        return check_tensor(of);
    case CONVOLUTION:
        return check_convolution(of);
    case POINTWISE:
        return check_pointwise(of);
    case CONVOLVE:
        return check_convolve(of);
    case POINTWISE_OPERATION:
        return check_pointwise_operation(of);
    case GRAPH:
        return check_graph(of);
    case HEURISTICS: {
        int mode = of.one<int>(HEURISTICS_MODE);
        if (mode != MODE_A && mode != MODE_FALLBACK)
            return refuse(NOT_SUPPORTED, "heuristics of mode " + std::to_string(mode));
        Shared graph = of.named(HEURISTICS_GRAPH);
        if (Status status = check_layout(*graph))
            return status;
        auto &results = of.values[HEURISTICS_RESULTS].named;
        if (mode == MODE_A)
            results = {config(graph, UNSTEADY, {NOTE_NONDETERMINISTIC}), config(graph, TENSOR_CORES, {NOTE_TENSOR_CORE})};
        else
            results = {config(graph, PLAIN, {})};
        return SUCCESS;
    }
    case PLAN: {
        Shared config = of.named(PLAN_CONFIG);
        int64_t index = config->named(CONFIG_ENGINE)->one<int64_t>(ENGINE_INDEX);
        if (index == UNSTEADY)
            return refuse(NOT_SUPPORTED, "an engine whose results are never the same was taken");
        of.put<int64_t>(PLAN_WORKSPACE, {index == TENSOR_CORES ? Job(*config->named(HEURISTICS_GRAPH)).y.count() * 4 : 0});
        return SUCCESS;
    }
    case PACK:
        return of.list<int64_t>(PACK_UIDS).size() == of.list<uint64_t>(PACK_POINTERS).size()
                   ? SUCCESS
                   : refuse(BAD_PARAM, "a pack of " + std::to_string(of.list<int64_t>(PACK_UIDS).size()) + " tensors and another number of addresses");
    default:
        return refuse(NOT_SUPPORTED, "a descriptor that is filled and not finalised");
    }
}
} // namespace

API size_t cudnnGetVersion() { return 91900; }
API const char *cudnnGetErrorString(int status)
{
    return status == SUCCESS            ? "CUDNN_STATUS_SUCCESS"
           : status == NOT_INITIALIZED  ? "CUDNN_STATUS_NOT_INITIALIZED"
           : status == NOT_FINALIZED    ? "CUDNN_STATUS_BAD_PARAM_NOT_FINALIZED"
           : status == ATTRIBUTE_TYPE   ? "CUDNN_STATUS_BAD_PARAM_ATTRIBUTE_TYPE"
           : status == EXECUTION_FAILED ? "CUDNN_STATUS_EXECUTION_FAILED"
           : status / 1000 == 3         ? "CUDNN_STATUS_NOT_SUPPORTED"
                                        : "CUDNN_STATUS_BAD_PARAM";
}
API void cudnnGetLastErrorString(char *text, size_t most)
{
    if (text && most)
        std::snprintf(text, most, "%s", last_error.c_str());
    last_error.clear();
}
API int cudnnCreate(void **at)
{
    int device = -1;
    if (!at || cuCtxGetDevice(&device))
        return refuse(NOT_INITIALIZED, "no place for a handle, or no context is current");
    std::lock_guard<std::mutex> lock(one_at_a_time);
    auto made = std::make_unique<Handle>(Handle{device});
    *at = made.get();
    handles[*at] = std::move(made);
    return SUCCESS;
}
API int cudnnDestroy(void *at)
{
    std::lock_guard<std::mutex> lock(one_at_a_time);
    return handles.erase(at) ? SUCCESS : refuse(BAD_PARAM, "what is destroyed is no handle, or was destroyed before");
}
API int cudnnSetStream(void *at, void *stream)
{
    std::lock_guard<std::mutex> lock(one_at_a_time);
    return handle(at) ? (handle(at)->stream = stream, SUCCESS) : refuse(BAD_PARAM, "a stream for no handle");
}

API int cudnnBackendCreateDescriptor(int kind, void **at)
{
    bool is_known = std::any_of(std::begin(ATTRIBUTES), std::end(ATTRIBUTES), [&](const Attribute &known) { return known.kind == kind; });
    if (!is_known || !at)
        return refuse(NOT_SUPPORTED, "a descriptor of kind " + std::to_string(kind));
    std::lock_guard<std::mutex> lock(one_at_a_time);
    auto one = std::make_shared<Descriptor>();
    one->kind = kind;
    *at = one.get();
    descriptors[*at] = one;
    return SUCCESS;
}
API int cudnnBackendDestroyDescriptor(void *at)
{
    std::lock_guard<std::mutex> lock(one_at_a_time);
    return descriptors.erase(at) ? SUCCESS : refuse(BAD_PARAM, "what is destroyed is no descriptor, or was destroyed before");
}
API int cudnnBackendSetAttribute(void *at, int name, int type, int64_t count, const void *from)
{
    std::lock_guard<std::mutex> lock(one_at_a_time);
    Shared of = descriptor(at);
    if (!of || !from)
        return refuse(NULL_POINTER, "an attribute of no descriptor, or of nothing");
    const Attribute *known = attribute(of->kind, name);
    std::string what = "attribute " + std::to_string(name) + " of descriptor " + std::to_string(of->kind);
    if (!known || !known->is_set)
        return refuse(BAD_PARAM, what + " is not known, or not to be set");
    if (of->is_final)
        return refuse(BAD_PARAM, what + " is set after it was finalised");
    if (type != known->type)
        return refuse(ATTRIBUTE_TYPE, what + " is of type " + std::to_string(known->type) + ", not " + std::to_string(type));
    if (count < 1 || count > known->most)
        return refuse(BAD_PARAM, what + " has " + std::to_string(count) + " values");
    Values values;
    auto *bytes = static_cast<const uint8_t *>(from);
    values.bytes.assign(bytes, bytes + count * bytes_of(type));
    for (int64_t i = 0; i < count && type == T_DESCRIPTOR; i++) {
        Shared named = descriptor(static_cast<void *const *>(from)[i]);
        if (!named || !named->is_final)
            return refuse(NOT_FINALIZED, what + " is no descriptor, or not finalised");
        if (known->of >= 0 && named->kind != known->of)
            return refuse(DESCRIPTOR_TYPE, what + " is a descriptor of kind " + std::to_string(named->kind));
        values.named.push_back(named);
    }
    if (type == T_HANDLE && !handle(*static_cast<void *const *>(from)))
        return refuse(BAD_PARAM, what + " is no handle");
    return of->values[name] = values, SUCCESS;
}
API int cudnnBackendFinalize(void *at)
{
    std::lock_guard<std::mutex> lock(one_at_a_time);
    Shared of = descriptor(at);
    if (!of || of->is_final)
        return refuse(BAD_PARAM, "no descriptor is finalised, or one twice");
    if (Status status = finalise(*of))
        return status;
    return of->is_final = true, SUCCESS;
}
API int cudnnBackendGetAttribute(void *at, int name, int type, int64_t most, int64_t *count, void *into)
{
    std::lock_guard<std::mutex> lock(one_at_a_time);
    Shared of = descriptor(at);
    const Attribute *known = of ? attribute(of->kind, name) : nullptr;
    std::string what = "attribute " + std::to_string(name) + (of ? " of descriptor " + std::to_string(of->kind) : " of no descriptor");
    if (!known || known->is_set || !count || (most > 0 && !into))
        return refuse(BAD_PARAM, what + " is not to be read");
    if (!of->is_final)
        return refuse(NOT_FINALIZED, what + " is read before it is finalised");
    if (type != known->type)
        return refuse(ATTRIBUTE_TYPE, what + " is of type " + std::to_string(known->type) + ", not " + std::to_string(type));
    const Values &values = of->values[name];
    int64_t there = type == T_DESCRIPTOR ? values.named.size() : values.bytes.size() / bytes_of(type);
    *count = most == 0 ? there : std::min(most, there);
    for (int64_t i = 0; i < *count && most > 0 && type == T_DESCRIPTOR; i++) {
        Shared filled = descriptor(static_cast<void **>(into)[i]);
        if (!filled || filled->is_final || filled->kind != known->of)
            return refuse(BAD_PARAM, what + " is read into what is no new descriptor of kind " + std::to_string(known->of));
        *filled = *values.named[i];
    }
    if (type != T_DESCRIPTOR && most > 0)
        std::memcpy(into, values.bytes.data(), *count * bytes_of(type));
    return SUCCESS;
}

API int cudnnBackendExecute(void *handle_at, void *plan_at, void *pack_at)
{
    std::unique_lock<std::mutex> lock(one_at_a_time);
    Handle *by = handle(handle_at);
    Shared plan = descriptor(plan_at), pack = descriptor(pack_at);
    if (!by || !plan || !pack || plan->kind != PLAN || pack->kind != PACK || !plan->is_final || !pack->is_final)
        return refuse(NOT_FINALIZED, "what is executed is not alive, or not finalised");
    Handle *planned = handle(plan->one<void *>(PLAN_HANDLE));
    int current = -1;
    if (!planned || planned->device != by->device || cuCtxGetDevice(&current) || current != by->device)
        return refuse(BAD_PARAM, "a plan for another device, or of a handle that is gone, or another context is current than the handle's");
    Shared config = plan->named(PLAN_CONFIG);
    auto job = std::make_unique<Job>(*config->named(HEURISTICS_GRAPH));
    auto uids = pack->list<int64_t>(PACK_UIDS);
    auto pointers = pack->list<uint64_t>(PACK_POINTERS);
    auto tensors = job->tensors();
    for (size_t i = 0; i < uids.size(); i++) {
        auto known = std::find_if(tensors.begin(), tensors.end(), [&](const Tensor &tensor) { return tensor.uid == uids[i]; });
        if (known == tensors.end() || !job->places.emplace(uids[i], pointers[i]).second)
            return refuse(DUPLICATED_ENTRIES, "tensor " + std::to_string(uids[i]) + " is in the pack twice, or not in the graph");
        if (!pointers[i] || pointers[i] % known->align)
            return refuse(MISALIGNED_POINTER, "tensor " + std::to_string(uids[i]) + " is not aligned to the " + std::to_string(known->align) + " bytes that were promised");
    }
    for (const Tensor &tensor : tensors)
        if (!job->places.count(tensor.uid))
            return refuse(BAD_PARAM, "tensor " + std::to_string(tensor.uid) + " is not in the pack");
    job->workspace = pack->one<uint64_t>(PACK_WORKSPACE);
    job->workspace_bytes = plan->one<int64_t>(PLAN_WORKSPACE);
    if (job->workspace_bytes && (!job->workspace || job->workspace % 16))
        return refuse(SIZE_INSUFFICIENT, "no workspace, or one that is not aligned");
    int64_t index = config->named(CONFIG_ENGINE)->one<int64_t>(ENGINE_INDEX);
    job->is_tf32 = index == TENSOR_CORES;
    job->device = by->device;
    uint64_t result = job->places.at(job->y.uid);
    if (result == job->places.at(job->x.uid) || result == job->places.at(job->w.uid))
        return refuse(BAD_PARAM, "the result is written over what is convolved");
    if (std::string why = job->missing(); !why.empty())
        return refuse(BAD_PARAM, why);
    int capturing = 0;
    if (cuStreamIsCapturing(by->stream, &capturing))
        return refuse(BAD_PARAM, "no stream");
    job->is_once = capturing == 0;
    // What loads a plan's code for the first time a capture forbids.
    if (capturing && !plan->is_loaded)
        return refuse(EXECUTION_FAILED, "a plan whose code is loaded during a capture");
    plan->is_loaded = true;
    void *stream = by->stream;
    lock.unlock();
    Job *given = job.release();
    return cuLaunchHostFunc(stream, work, given) ? (delete given, EXECUTION_FAILED) : SUCCESS;
}
