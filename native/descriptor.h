#ifndef KERNELMQ_NATIVE_DESCRIPTOR_H_
#define KERNELMQ_NATIVE_DESCRIPTOR_H_

#include <napi.h>
#include <uv.h>

#include "resource.h"

namespace kernelmq {

template <size_t kCount>
class Arguments;
class Environment;

// The result of a call with a descriptor that no Descriptor of any thread owns,
// or comes to own meanwhile; otherwise -EBUSY.
int64_t UnlessOwned(int fd, int64_t (*call)(int fd));

// Owns one file descriptor and its one registration with the loop of the
// environment that made it. JavaScript sees:
//
//   open(), reopen(), duplicate(), notifySocket()
//                               make the descriptor, see exports.h: it is owned
//                               from the start, for a worker may end between
//                               any two calls
//   watch(events, keepAlive)    wants readiness (uv_poll_event bits, 0: none)
//   close()                     idempotent
//   onready(events)             called when one of the wanted events is there;
//                               a negative errno if polling failed
//
// While something is wanted, the object holds itself alive.
class Descriptor final : public Napi::ObjectWrap<Descriptor>, public Resource {
 public:
  static Napi::Function Define(Napi::Env env, Environment* environment);

  explicit Descriptor(const Napi::CallbackInfo& info);
  ~Descriptor() override;

  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;

  // Leaves the loop first and closes the descriptor then, so that a number
  // that is used again is never polled by mistake.
  void Close() override;

 private:
  template <int64_t (*kMake)(napi_env, const Arguments<5>&)>
  Napi::Value Make(const Napi::CallbackInfo& info);
  Napi::Value Watch(const Napi::CallbackInfo& info);
  void CloseFromJs(const Napi::CallbackInfo& info);

  static void OnPoll(uv_poll_t* poll, int status, int events);
  int Arm(int events);
  void Hold(bool hold);
  void CallOnReady(int events);

  Environment* const owner_;
  Environment* environment_ = nullptr;  // null unless open
  uv_poll_t* poll_ = nullptr;           // null until first watched
  int fd_ = -1;
  int wanted_ = 0;
  int armed_ = 0;  // a superset of wanted_, see OnPoll()
  bool held_ = false;
};

}  // namespace kernelmq

#endif  // KERNELMQ_NATIVE_DESCRIPTOR_H_
