#include "block.h"

#include <poll.h>
#include <time.h>

#include <algorithm>

namespace kernelmq {

namespace {

constexpr int64_t kSlice = 50 * 1000000;

}  // namespace

int64_t Now() {
  timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return now.tv_sec * INT64_C(1000000000) + now.tv_nsec;
}

// Above a hundred years is for ever, and does not overflow.
Deadline::Deadline(double milliseconds)
    : end_(milliseconds < 3e12
               ? Now() + static_cast<int64_t>(std::max(milliseconds, 0.0) * 1e6)
               : INT64_MAX) {}

int64_t Deadline::Slice() const {
  if (end_ == INT64_MAX) return kSlice;
  return std::clamp<int64_t>(end_ - Now(), 0, kSlice);
}

bool Deadline::Passed() const { return end_ != INT64_MAX && Now() >= end_; }

bool SignalIsPending(uv_loop_t* loop) {
  pollfd pipe{loop->signal_pipefd[0], POLLIN, 0};
  const timespec at_once{0, 0};
  return ppoll(&pipe, 1, &at_once, nullptr) > 0;
}

bool MayRunJavaScript(napi_env env, napi_value noop) {
  // A wait may take days: what each slice makes must not pile up.
  napi_handle_scope scope;
  if (napi_open_handle_scope(env, &scope) != napi_ok) return false;
  napi_value global;
  const bool may =
      napi_get_global(env, &global) == napi_ok &&
      napi_call_function(env, global, noop, 0, nullptr, nullptr) == napi_ok;
  napi_value exception;
  if (!may) napi_get_and_clear_last_exception(env, &exception);
  napi_close_handle_scope(env, scope);
  return may;
}

}  // namespace kernelmq
