// Streams, events and graphs: what was ordered, in which order, and when it is done.
#pragma once

#include "memory.h"

#include <chrono>
#include <deque>
#include <functional>
#include <memory>
#include <string>
#include <vector>

namespace emulator {
// Something that a stream does. What it returns stays the context's error.
using Work = std::function<Status()>;

struct Graph {
    std::vector<Work> works;
};

struct Capture {
    Graph graph;
    struct Stream *origin;
    bool is_valid = true;
};

struct Stream {
    int device;
    std::deque<Work> waiting;
    // How much was ordered and how much is done, since the stream was made.
    uint64_t ordered = 0, done = 0;
    bool is_blocking = false;
    std::shared_ptr<Capture> capture;
};

struct Event {
    Stream *stream = nullptr;
    uint64_t after = 0;
    std::shared_ptr<Capture> capture;
    std::chrono::steady_clock::time_point at;
};

// The device whose context is this OS thread's; -1 for none.
int current_device();
void set_current_device(int device);
// The compute capability that devices claim: 90 for 9.0.
int capability();
// The error that a device's context is lost with; SUCCESS while it is not. Of no device: that there is no context.
Status lost(int device);
Status lose(int device, Status status, const std::string &why);
// Work is done when it is ordered, not when it is waited for (CUDA_EMULATOR_TIME=early).
bool is_early();

// The stream of a handle; the current device's default one for 0, 1 and 2; null for what is none.
Stream *stream_of(void *handle);
// Orders work: now or later it is done, or becomes part of a graph.
Status order(Stream *stream, Work work);
// Does what was ordered on a stream, up to that number of works.
Status advance(Stream *stream, uint64_t until);
Status finish(Stream *stream);
// Does all that was ordered on a device.
Status finish_all(int device);
// For calls that a capture on this thread forbids: spoils it, and says so.
Status forbid_in_capture(const char *call);

Status record(Event *event, Stream *stream);
Status wait_for(Stream *stream, const Event *event);
bool is_complete(const Event *event);

Status begin_capture(Stream *stream);
Status end_capture(Stream *stream, Graph **graph);

Stream *make_stream(int device, bool is_blocking);
Status drop_stream(Stream *stream);
} // namespace emulator
