// Streams, events, captures and graphs.

#include "driver.h"

#include <chrono>

using namespace emulator;

namespace {
// Whether so much of a stream is done. Who asks again and again waits, in a way, so each question that is answered with no does a piece of work.
Status answer(Stream *stream, uint64_t until)
{
    if (stream->done >= until)
        return SUCCESS;
    Status status = advance(stream, stream->done + 1);
    return status ? status : NOT_READY;
}
} // namespace

API cuStreamCreate(void **stream, unsigned flags)
{
    Alone alone;
    if (Status status = lost(current_device()))
        return status;
    return *stream = make_stream(current_device(), !(flags & 1)), SUCCESS;
}
API cuStreamCreateWithPriority(void **stream, unsigned flags, int) { return cuStreamCreate(stream, flags); }
API cuStreamDestroy_v2(void *stream) { Alone alone; return drop_stream(static_cast<Stream *>(stream)); }
API cuStreamSynchronize(void *handle)
{
    Alone alone;
    Stream *stream = stream_of(handle);
    return stream ? finish(stream) : INVALID_HANDLE;
}
API cuStreamQuery(void *handle)
{
    Alone alone;
    Stream *stream = stream_of(handle);
    if (Status status = good(stream))
        return status;
    if (stream->capture)
        return forbid_in_capture("cuStreamQuery");
    return answer(stream, stream->ordered);
}
API cuStreamWaitEvent(void *handle, void *event, unsigned)
{
    Alone alone;
    Stream *stream = stream_of(handle);
    return stream && event ? wait_for(stream, static_cast<Event *>(event)) : INVALID_HANDLE;
}

API cuLaunchHostFunc(void *handle, void (*function)(void *), void *of)
{
    Alone alone;
    Stream *stream = stream_of(handle);
    if (Status status = good(stream))
        return status;
    return order(stream, [=] { return function(of), SUCCESS; });
}

API cuEventCreate(void **event, unsigned) { Alone alone; return *event = new Event, SUCCESS; }
API cuEventRecord(void *event, void *handle)
{
    Alone alone;
    Stream *stream = stream_of(handle);
    return stream && event ? record(static_cast<Event *>(event), stream) : INVALID_HANDLE;
}
API cuEventSynchronize(void *handle)
{
    Alone alone;
    auto *event = static_cast<Event *>(handle);
    return event->stream ? advance(event->stream, event->after) : SUCCESS;
}
API cuEventQuery(void *handle)
{
    Alone alone;
    auto *event = static_cast<Event *>(handle);
    if (!event->stream)
        return SUCCESS;
    Status status = lost(event->stream->device);
    return status ? status : answer(event->stream, event->after);
}
API cuEventElapsedTime_v2(float *ms, void *from, void *to)
{
    Alone alone;
    auto *begin = static_cast<Event *>(from), *end = static_cast<Event *>(to);
    if (!begin->stream || !end->stream)
        return INVALID_HANDLE;
    if (!is_complete(begin) || !is_complete(end))
        return NOT_READY;
    *ms = std::chrono::duration<float, std::milli>(end->at - begin->at).count();
    return SUCCESS;
}
API cuEventElapsedTime(float *ms, void *from, void *to) { return cuEventElapsedTime_v2(ms, from, to); }
API cuEventDestroy_v2(void *handle)
{
    Alone alone;
    // Its record may still be ordered, and writes to it: it is done first.
    auto *event = static_cast<Event *>(handle);
    if (event->stream && !event->capture)
        advance(event->stream, event->after);
    delete event;
    return SUCCESS;
}

API cuStreamBeginCapture_v2(void *handle, int)
{
    Alone alone;
    Stream *stream = stream_of(handle);
    return stream ? begin_capture(stream) : INVALID_HANDLE;
}
API cuStreamEndCapture(void *handle, void **graph)
{
    Alone alone;
    Stream *stream = stream_of(handle);
    return stream ? end_capture(stream, reinterpret_cast<Graph **>(graph)) : INVALID_HANDLE;
}
API cuStreamIsCapturing(void *handle, int *status)
{
    Alone alone;
    Stream *stream = stream_of(handle);
    *status = stream && stream->capture ? stream->capture->is_valid ? 1 : 2 : 0;
    return stream ? SUCCESS : INVALID_HANDLE;
}
API cuGraphInstantiateWithFlags(void **executable, void *graph, unsigned long long)
{
    Alone alone;
    return *executable = new Graph(*static_cast<Graph *>(graph)), SUCCESS;
}
API cuGraphUpload(void *, void *) { Alone alone; return SUCCESS; }
API cuGraphLaunch(void *executable, void *handle)
{
    Alone alone;
    Stream *stream = stream_of(handle);
    if (Status status = good(stream))
        return status;
    for (const Work &work : static_cast<Graph *>(executable)->works)
        if (Status status = order(stream, work))
            return status;
    return SUCCESS;
}
API cuGraphDestroy(void *graph) { Alone alone; return delete static_cast<Graph *>(graph), SUCCESS; }
API cuGraphExecDestroy(void *graph) { Alone alone; return delete static_cast<Graph *>(graph), SUCCESS; }

