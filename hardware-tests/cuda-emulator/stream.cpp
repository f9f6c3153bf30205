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
Status context_error = SUCCESS;
Stream legacy;
std::set<Stream *> streams;
std::vector<std::weak_ptr<Capture>> captures;

bool is_early()
{
    const char *named = std::getenv("CUDA_EMULATOR_TIME");
    return named && std::string(named) == "early";
}
} // namespace

Status lost() { return context_error; }

Status lose(Status status, const std::string &why)
{
    if (context_error == SUCCESS) {
        say(why);
        context_error = status;
    }
    return status;
}

Stream *stream_of(void *handle)
{
    // 0, 1 and 2 are the default streams; each thread's own is not kept apart.
    if (reinterpret_cast<Address>(handle) <= 2) {
        legacy.is_blocking = true;
        return &legacy;
    }
    auto *stream = static_cast<Stream *>(handle);
    return streams.count(stream) ? stream : nullptr;
}

Status advance(Stream *stream, uint64_t until)
{
    while (stream->done < until && !stream->waiting.empty()) {
        Work work = std::move(stream->waiting.front());
        stream->waiting.pop_front();
        stream->done++;
        if (context_error == SUCCESS)
            work();
    }
    return context_error;
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

Status finish_all()
{
    advance(&legacy, legacy.ordered);
    for (Stream *stream : streams)
        advance(stream, stream->ordered);
    return context_error;
}

Status order(Stream *stream, Work work)
{
    if (context_error != SUCCESS)
        return context_error;
    if (stream->capture) {
        stream->capture->graph.works.push_back(std::move(work));
        return SUCCESS;
    }
    // The default stream waits for the blocking ones, and they for it.
    if (stream == &legacy)
        for (Stream *other : streams)
            if (other->is_blocking)
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
    if (stream->capture || stream == &legacy)
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

Stream *make_stream(bool is_blocking)
{
    auto *stream = new Stream;
    stream->is_blocking = is_blocking;
    streams.insert(stream);
    return stream;
}

Status drop_stream(Stream *stream)
{
    if (!streams.count(stream))
        return INVALID_HANDLE;
    Status status = advance(stream, stream->ordered);
    streams.erase(stream);
    delete stream;
    return status;
}
} // namespace emulator
