// A GPU does what is ordered some time between the order and a wait for it. A test wants the worst of these times. So by default
// work is done as late as it may be, when somebody waits for it: a copy whose source was overwritten meanwhile, a stream that reads what
// another one has not been told to wait for, a result that is read without a wait: all of them see old bytes, which are poison.
// CUDA_EMULATOR_TIME=early does everything at once instead, which finds the opposite: what relies on being late.

#include "stream.h"

#include <algorithm>
#include <cstdlib>
#include <set>

namespace emulator {
namespace {
struct Context {
    Status error = SUCCESS;
    Stream legacy;
};

// Never destroyed: at the end of a process what is ordered still may have to be done.
Context &context(int device)
{
    static Context *all = new Context[MOST_DEVICES];
    all[device].legacy.device = device;
    all[device].legacy.is_blocking = true;
    return all[device];
}
std::set<Stream *> &streams = *new std::set<Stream *>;
std::vector<std::weak_ptr<Capture>> &captures = *new std::vector<std::weak_ptr<Capture>>;
thread_local int device_of_thread = -1;
} // namespace

int current_device() { return device_of_thread; }
void set_current_device(int device) { device_of_thread = device; }

bool is_early()
{
    const char *named = std::getenv("CUDA_EMULATOR_TIME");
    return named && std::string(named) == "early";
}

Status lost(int device) { return device < 0 ? INVALID_CONTEXT : context(device).error; }

Status lose(int device, Status status, const std::string &why)
{
    if (context(device).error == SUCCESS) {
        say(why);
        context(device).error = status;
    }
    return status;
}

Stream *stream_of(void *handle)
{
    // 0, 1 and 2 are the default streams; each thread's own is not kept apart.
    if (reinterpret_cast<Address>(handle) <= 2)
        return device_of_thread < 0 ? nullptr : &context(device_of_thread).legacy;
    auto *stream = static_cast<Stream *>(handle);
    return streams.count(stream) ? stream : nullptr;
}

Status advance(Stream *stream, uint64_t until)
{
    while (stream->done < until && !stream->waiting.empty()) {
        Work work = std::move(stream->waiting.front());
        stream->waiting.pop_front();
        stream->done++;
        if (lost(stream->device) == SUCCESS)
            work();
    }
    return lost(stream->device);
}

Status finish(Stream *stream)
{
    if (stream->capture) {
        stream->capture->is_valid = false;
        say("a stream that is being captured is waited for");
        return CAPTURE_UNSUPPORTED;
    }
    return advance(stream, stream->ordered);
}

Status finish_all(int device)
{
    Stream &legacy = context(device).legacy;
    advance(&legacy, legacy.ordered);
    for (Stream *stream : streams)
        if (stream->device == device)
            advance(stream, stream->ordered);
    return lost(device);
}

Status order(Stream *stream, Work work)
{
    if (Status status = lost(stream->device))
        return status;
    if (stream->capture) {
        stream->capture->graph.works.push_back(std::move(work));
        return SUCCESS;
    }
    // The default stream waits for the blocking ones, and they for it.
    Stream &legacy = context(stream->device).legacy;
    if (stream == &legacy)
        for (Stream *other : streams)
            if (other->is_blocking && other->device == stream->device)
                advance(other, other->ordered);
    if (stream != &legacy && stream->is_blocking)
        advance(&legacy, legacy.ordered);
    stream->waiting.push_back(std::move(work));
    stream->ordered++;
    return is_early() ? advance(stream, stream->ordered) : SUCCESS;
}

Status forbid_in_capture(const char *call)
{
    Status found = SUCCESS;
    for (auto &weak : captures)
        if (auto capture = weak.lock()) {
            capture->is_valid = false;
            say(std::string(call) + " during a capture");
            found = CAPTURE_UNSUPPORTED;
        }
    return found;
}

Status record(Event *event, Stream *stream)
{
    event->stream = stream;
    event->capture = stream->capture;
    if (stream->capture)
        return SUCCESS;
    Status status = order(stream, [event] {
        event->at = std::chrono::steady_clock::now();
        return SUCCESS;
    });
    event->after = stream->ordered;
    return status;
}

Status wait_for(Stream *stream, const Event *event)
{
    if (event->capture) {
        // Joined to the capture; a graph does its works in the order in which they were ordered, which is one that it may have.
        if (stream->capture && stream->capture != event->capture)
            return CAPTURE_INVALIDATED;
        stream->capture = event->capture;
        return SUCCESS;
    }
    if (stream->capture) {
        stream->capture->is_valid = false;
        say("a captured stream waits for an event from outside of the capture");
        return CAPTURE_UNSUPPORTED;
    }
    if (!event->stream)
        return SUCCESS;
    Stream *other = event->stream;
    uint64_t until = event->after;
    return order(stream, [other, until] { return advance(other, until); });
}

bool is_complete(const Event *event) { return !event->stream || event->stream->done >= event->after; }

Status begin_capture(Stream *stream)
{
    if (stream->capture || stream == &context(stream->device).legacy)
        return CAPTURE_UNSUPPORTED;
    stream->capture = std::make_shared<Capture>();
    stream->capture->origin = stream;
    captures.push_back(stream->capture);
    return SUCCESS;
}

Status end_capture(Stream *stream, Graph **graph)
{
    *graph = nullptr;
    auto capture = stream->capture;
    if (!capture)
        return INVALID_VALUE;
    for (Stream *other : streams)
        if (other->capture == capture)
            other->capture = nullptr;
    if (!capture->is_valid || capture->origin != stream)
        return CAPTURE_INVALIDATED;
    *graph = new Graph(std::move(capture->graph));
    return SUCCESS;
}

Stream *make_stream(int device, bool is_blocking)
{
    auto *stream = new Stream;
    stream->device = device;
    stream->is_blocking = is_blocking;
    streams.insert(stream);
    return stream;
}

Status drop_stream(Stream *stream)
{
    if (!streams.count(stream))
        return INVALID_HANDLE;
    Status status = advance(stream, stream->ordered);
    // Events may name it still, so it stays where it is; it is no stream any more.
    streams.erase(stream);
    return status;
}
} // namespace emulator
