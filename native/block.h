// What blocking on the calling thread needs, for either family.
#ifndef KERNELMQ_NATIVE_BLOCK_H_
#define KERNELMQ_NATIVE_BLOCK_H_

#include <node_api.h>
#include <uv.h>

#include <cstdint>

namespace kernelmq {

// What a blocking call returns when JavaScript may run no more. No errno is
// this large.
constexpr int32_t kTerminated = -100000;

// CLOCK_MONOTONIC in nanoseconds.
int64_t Now();

// A point in time, and the way there in slices.
class Deadline {
 public:
  // Infinity: never.
  explicit Deadline(double milliseconds);

  // Nanoseconds to wait before looking around, 0 if it has passed.
  int64_t Slice() const;
  bool Passed() const;

 private:
  int64_t end_;
};

// Whether libuv has caught a signal that the loop has not heard of yet. A
// system call is not interrupted by what was caught before it: asked between
// slices.
bool SignalIsPending(uv_loop_t* loop);

// worker.terminate() cannot reach a thread inside a system call, but makes the
// next call into JavaScript fail.
bool MayRunJavaScript(napi_env env, napi_value noop);

}  // namespace kernelmq

#endif  // KERNELMQ_NATIVE_BLOCK_H_
