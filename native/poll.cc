// poll(2) on the calling thread, which a worker's termination ends.
#include <errno.h>
#include <poll.h>
#include <time.h>

#include <cmath>

#include "arguments.h"
#include "block.h"
#include "environment.h"
#include "exports.h"

namespace kernelmq {

namespace {

constexpr int64_t kSecond = 1000000000;

// poll(fd, events, milliseconds (Infinity: for ever), interruptible, noop): the
// events that are there, 0 after the time, -errno, or kTerminated. A signal
// that the loop handles ends the wait if it is interruptible.
napi_value Poll(napi_env env, napi_callback_info info) {
  Arguments<5> arguments(env, info);
  pollfd descriptor{arguments.Int(0), static_cast<int16_t>(arguments.Int(1, 0)),
                    0};
  const Deadline deadline(arguments.Double(2, INFINITY));
  const bool interruptible = arguments.Bool(3);
  for (;;) {
    const int64_t slice = deadline.Slice();
    const timespec time{slice / kSecond, slice % kSecond};
    const int ready = ppoll(&descriptor, 1, &time, nullptr);
    if (ready > 0) return arguments.Return(descriptor.revents);
    if (ready == -1 && errno != EINTR) return arguments.Return(-errno);
    // First: who only looks, again and again, would never let the listener run.
    if (deadline.Passed()) return arguments.Return(0);
    if (interruptible && SignalIsPending(arguments.environment()->loop())) {
      return arguments.Return(-EINTR);
    }
    if (!MayRunJavaScript(env, arguments[4])) {
      return arguments.Return(kTerminated);
    }
  }
}

}  // namespace

bool DefinePoll(Environment* environment, napi_value object) {
  return DefineFunctions(environment, object, {{"poll", Poll}});
}

}  // namespace kernelmq
