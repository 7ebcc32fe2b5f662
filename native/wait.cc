// Waiting on the calling thread: poll(2) that a worker's termination ends.
#include <errno.h>
#include <poll.h>
#include <time.h>

#include <algorithm>
#include <cmath>

#include "arguments.h"
#include "exports.h"

namespace kernelmq {

namespace {

constexpr int64_t kNanoseconds = 1000000000;
constexpr int64_t kSlice = 50 * 1000000;
// What poll() returns when JavaScript may run no more. No errno is this large.
constexpr int32_t kTerminated = -100000;

int64_t Now() {
  timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return now.tv_sec * kNanoseconds + now.tv_nsec;
}

// worker.terminate() cannot reach a thread inside a system call, but makes the
// next call into JavaScript fail.
bool MayRunJavaScript(napi_env env, napi_value noop) {
  napi_value global;
  if (napi_get_global(env, &global) == napi_ok &&
      napi_call_function(env, global, noop, 0, nullptr, nullptr) == napi_ok) {
    return true;
  }
  napi_value exception;
  napi_get_and_clear_last_exception(env, &exception);
  return false;
}

// poll(fd, events, milliseconds (Infinity: for ever), interruptible, noop): the
// events that are there, 0 after the time, -errno, or kTerminated. A signal
// ends the wait only if it is interruptible. The wait is cut into slices here,
// not in JavaScript: a signal between two slices is missed until the next one,
// so the gap has to be narrow.
napi_value Poll(napi_env env, napi_callback_info info) {
  Arguments<5> arguments(env, info);
  pollfd descriptor{arguments.Int(0), static_cast<int16_t>(arguments.Int(1, 0)),
                    0};
  const double milliseconds = arguments.Double(2, INFINITY);
  const bool interruptible = arguments.Bool(3);
  // Above a hundred years is for ever, and does not overflow.
  const bool forever = !(milliseconds < 3e12);
  const int64_t deadline =
      forever ? 0
              : Now() + static_cast<int64_t>(std::max(milliseconds, 0.0) * 1e6);
  for (;;) {
    const int64_t left = forever ? kSlice : deadline - Now();
    const int64_t slice = std::clamp<int64_t>(left, 0, kSlice);
    const timespec time{slice / kNanoseconds, slice % kNanoseconds};
    const int ready = ppoll(&descriptor, 1, &time, nullptr);
    if (ready > 0) return arguments.Return(descriptor.revents);
    if (ready == -1 && (errno != EINTR || interruptible)) {
      return arguments.Return(-errno);
    }
    if (ready == 0 && left <= kSlice && !forever) return arguments.Return(0);
    if (!MayRunJavaScript(env, arguments[4])) {
      return arguments.Return(kTerminated);
    }
  }
}

}  // namespace

bool DefineWait(Environment* environment, napi_value object) {
  return DefineFunctions(environment, object, {{"poll", Poll}});
}

}  // namespace kernelmq
