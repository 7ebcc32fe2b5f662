#ifndef KERNELMQ_NATIVE_BLOCKED_CALL_H_
#define KERNELMQ_NATIVE_BLOCKED_CALL_H_

#include <napi.h>
#include <uv.h>

#include <atomic>

#include "resource.h"

namespace kernelmq {

class Environment;

// One msgsnd(2) or msgrcv(2) that may block, on a thread of its own. JavaScript
// sees:
//
//   new BlockedCall(id, type, flags, bytes)   sends
//   new BlockedCall(id, type, flags, size)    receives up to so many bytes
//   start(keepAlive)   0 or a negative errno
//   cancel()           asks the thread to stop
//   hold(keepAlive)    whether the call keeps the loop alive
//   onsettled(result, data)  0 for a send; the length for a receive, the type
//                            being where other receives leave it; or a negative
//                            errno, -ECANCELED if nothing was sent or received
//
// A call that was cancelled may have succeeded nevertheless: only the thread
// knows, and its answer is what counts. Until then the object holds itself.
class BlockedCall final : public Napi::ObjectWrap<BlockedCall>,
                          public Resource {
 public:
  static Napi::Function Define(Napi::Env env, Environment* environment);

  explicit BlockedCall(const Napi::CallbackInfo& info);
  ~BlockedCall() override;

  BlockedCall(const BlockedCall&) = delete;
  BlockedCall& operator=(const BlockedCall&) = delete;

  // Cancels, and waits for the thread. What it took by then is gone with the
  // environment that asked for it.
  void Close() override;
  void Hurry() override;

 private:
  Napi::Value Start(const Napi::CallbackInfo& info);
  void Cancel(const Napi::CallbackInfo& info);
  void Hold(const Napi::CallbackInfo& info);

  static void Run(void* data);
  void Call();
  static void OnAnswer(uv_async_t* async);
  void Settle();
  void Wake();
  void Release();

  Environment* environment_ = nullptr;  // null unless the thread runs
  Environment* const owner_;
  uv_async_t* async_ = nullptr;
  uv_timer_t* timer_ = nullptr;  // repeats the signal of a cancellation
  uv_thread_t thread_{};
  std::atomic<int> thread_id_{0};  // 0 until it runs
  std::atomic<bool> cancelled_{false};
  std::atomic<bool> answered_{false};

  // The thread's, from Start() until it has answered.
  int id_ = -1;
  int64_t type_ = 0;
  int flags_ = 0;
  bool sends_ = false;
  uint8_t* message_ = nullptr;  // malloc(3): the type, then the text
  size_t capacity_ = 0;         // of the text
  int64_t result_ = 0;
};

}  // namespace kernelmq

#endif  // KERNELMQ_NATIVE_BLOCKED_CALL_H_
