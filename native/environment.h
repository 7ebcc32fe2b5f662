// What the addon keeps for each Node.js environment: the main thread has one,
// and every worker has one of its own.
#ifndef KERNELMQ_NATIVE_ENVIRONMENT_H_
#define KERNELMQ_NATIVE_ENVIRONMENT_H_

#include <napi.h>
#include <uv.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "resource.h"

namespace kernelmq {

// The most messages that one batch call moves.
constexpr uint32_t kMaxBatch = 256;

// Where in the area the next message of a batch begins.
constexpr size_t Aligned(size_t offset) { return (offset + 7) & ~size_t{7}; }

class Environment {
 public:
  // Returns null, with a JavaScript exception pending, if Node-API refuses.
  static Environment* Create(napi_env env);

  Environment(const Environment&) = delete;
  Environment& operator=(const Environment&) = delete;

  napi_env env() const { return env_; }
  uv_loop_t* loop() const { return loop_; }

  // Where receives put their bytes. JavaScript copies them out before the next
  // call into the addon, so that one area serves every queue of the thread.
  uint8_t* area() const { return area_; }
  size_t area_size() const { return area_size_; }
  // Makes the area hold at least `size` bytes; returns it as a Buffer.
  napi_value Reserve(size_t size);

  // What the last receive brought: for each message its length, then its
  // priority (POSIX) or the two halves of its type (System V).
  uint32_t* received() const { return received_; }
  napi_value ReceivedArray() const;

  // Starts uv_close() on a handle made with new; `Handle` is deleted after.
  template <typename Handle>
  void CloseHandle(Handle* handle) {
    handle->data = this;
    ++closing_;
    uv_close(reinterpret_cast<uv_handle_t*>(handle), [](uv_handle_t* closed) {
      auto* environment = static_cast<Environment*>(closed->data);
      delete reinterpret_cast<Handle*>(closed);
      --environment->closing_;
      environment->FinishTearDown();
    });
  }

  // A wait for a descriptor begins, or is over. After one of less than 50 us
  // the loop goes on polling for as long in the next, and lets other processes
  // run, before it goes to sleep: waking up takes longer than such a wait.
  void BeginWait();
  void EndWait();

  void Add(Resource* resource);
  void Remove(Resource* resource);

  // To be called by constructors of what is wrapped in an object. In a worker
  // that is being terminated Node-API neither wraps nor throws, and nobody else
  // would delete the resource.
  template <typename Wrapped>
  void AdoptIfUnwrapped(Wrapped* wrapped) {
    if (wrapped->IsEmpty() && !Napi::Env(env_).IsExceptionPending()) {
      adopted_.emplace_back(wrapped);
    }
  }

  // Calls the method `name` of `self` from the loop.
  void CallBack(napi_value self, const char* name, size_t count,
                const napi_value* arguments);

 private:
  Environment(napi_env env, uv_loop_t* loop) : env_(env), loop_(loop) {}
  ~Environment();

  bool WaitsLong();
  static void StayAwake(uv_idle_t* idle);
  static void TearDown(napi_async_cleanup_hook_handle hook, void* data);
  void FinishTearDown();

  napi_env const env_;
  uv_loop_t* const loop_;
  napi_async_cleanup_hook_handle hook_ = nullptr;
  uv_idle_t* idle_ = nullptr;
  uint64_t waiting_since_ = 0;  // by uv_hrtime(), in nanoseconds
  uint64_t asleep_until_ = 0;
  bool last_wait_was_short_ = false;
  Resource* resources_ = nullptr;
  std::vector<std::unique_ptr<Resource>> adopted_;
  napi_ref area_ref_ = nullptr;
  napi_ref received_ref_ = nullptr;
  uint8_t* area_ = nullptr;
  size_t area_size_ = 0;
  uint32_t* received_ = nullptr;
  int closing_ = 0;
  bool torn_down_ = false;
};

}  // namespace kernelmq

#endif  // KERNELMQ_NATIVE_ENVIRONMENT_H_
