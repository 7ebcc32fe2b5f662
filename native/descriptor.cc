#include "descriptor.h"

#include <errno.h>
#include <unistd.h>

#include <mutex>
#include <set>

#include "arguments.h"
#include "environment.h"
#include "exports.h"

namespace kernelmq {

namespace {

// Numbers are per process while environments are per thread, so this one thing
// is shared between threads.
std::mutex owned_mutex;
std::set<int>& Owned() {
  static auto* owned = new std::set<int>();
  return *owned;
}

}  // namespace

int64_t UnlessOwned(int fd, int64_t (*call)(int fd)) {
  std::lock_guard<std::mutex> lock(owned_mutex);
  return Owned().count(fd) != 0 ? -EBUSY : call(fd);
}

Napi::Function Descriptor::Define(Napi::Env env, Environment* environment) {
  return DefineClass(
      env, "Descriptor",
      {InstanceMethod<&Descriptor::Make<OpenQueue>>("open"),
       InstanceMethod<&Descriptor::Make<Reopen>>("reopen"),
       InstanceMethod<&Descriptor::Make<Duplicate>>("duplicate"),
       InstanceMethod<&Descriptor::Make<NotifySocket>>("notifySocket"),
       InstanceMethod<&Descriptor::Watch>("watch"),
       InstanceMethod<&Descriptor::CloseFromJs>("close")},
      environment);
}

Descriptor::Descriptor(const Napi::CallbackInfo& info)
    : Napi::ObjectWrap<Descriptor>(info),
      owner_(static_cast<Environment*>(info.Data())) {
  owner_->AdoptIfUnwrapped(this);
}

template <int64_t (*kMake)(napi_env, const Arguments<5>&)>
Napi::Value Descriptor::Make(const Napi::CallbackInfo& info) {
  int64_t fd = -EBUSY;
  if (environment_ == nullptr) {
    // Held while the number is made, so that nobody closes it in between.
    std::lock_guard<std::mutex> lock(owned_mutex);
    fd = kMake(info.Env(), Arguments<5>(info));
    if (fd >= 0) Owned().insert(static_cast<int>(fd));
  }
  if (fd >= 0) {
    fd_ = static_cast<int>(fd);
    environment_ = owner_;
    environment_->Add(this);
  }
  return Napi::Number::New(info.Env(), static_cast<double>(fd));
}

Descriptor::~Descriptor() { Close(); }

void Descriptor::Close() {
  if (environment_ == nullptr) return;
  environment_->Remove(this);
  if (poll_ != nullptr) environment_->CloseHandle(poll_);
  poll_ = nullptr;
  environment_ = nullptr;
  wanted_ = armed_ = 0;
  {
    std::lock_guard<std::mutex> lock(owned_mutex);
    Owned().erase(fd_);
    close(fd_);
  }
  fd_ = -1;
  Hold(false);
}

void Descriptor::CloseFromJs(const Napi::CallbackInfo&) { Close(); }

void Descriptor::Hold(bool hold) {
  if (hold == held_) return;
  held_ = hold;
  if (hold) {
    Ref();
  } else {
    Unref();
  }
}

Napi::Value Descriptor::Watch(const Napi::CallbackInfo& info) {
  int32_t wanted = 0;
  bool keep_alive = false;
  if (info.Length() < 2 ||
      napi_get_value_int32(info.Env(), info[0], &wanted) != napi_ok ||
      napi_get_value_bool(info.Env(), info[1], &keep_alive) != napi_ok ||
      (wanted & ~(UV_READABLE | UV_WRITABLE)) != 0) {
    return Napi::Number::New(info.Env(), UV_EINVAL);
  }
  if (environment_ == nullptr) return Napi::Number::New(info.Env(), UV_EBADF);
  if (poll_ == nullptr) {
    if (wanted == 0) return Napi::Number::New(info.Env(), 0);
    auto* poll = new uv_poll_t();
    int error = uv_poll_init(environment_->loop(), poll, fd_);
    if (error != 0) {
      delete poll;
      return Napi::Number::New(info.Env(), error);
    }
    poll->data = this;
    poll_ = poll;
  }
  if ((wanted & ~armed_) != 0) {
    int error = Arm(armed_ | wanted);
    if (error != 0) return Napi::Number::New(info.Env(), error);
  }
  if (wanted != 0) environment_->BeginWait();
  wanted_ = wanted;
  auto* handle = reinterpret_cast<uv_handle_t*>(poll_);
  if (wanted != 0 && keep_alive) {
    uv_ref(handle);
  } else {
    uv_unref(handle);
  }
  Hold(wanted != 0);
  return Napi::Number::New(info.Env(), 0);
}

int Descriptor::Arm(int events) {
  int error =
      events != 0 ? uv_poll_start(poll_, events, OnPoll) : uv_poll_stop(poll_);
  if (error == 0) armed_ = events;
  return error;
}

// A receiver in a loop wants, stops wanting and wants again with every message.
// So that this costs no epoll_ctl(2), what is no longer wanted stays armed
// until it fires once for nobody.
void Descriptor::OnPoll(uv_poll_t* poll, int status, int events) {
  auto* self = static_cast<Descriptor*>(poll->data);
  if (status < 0) {
    self->armed_ = 0;  // libuv has stopped the watcher
    self->CallOnReady(status);
    return;
  }
  if ((events & ~self->wanted_) != 0) self->Arm(self->wanted_);
  if ((events & self->wanted_) == 0) return;
  self->environment_->EndWait();
  self->CallOnReady(events & self->wanted_);
}

void Descriptor::CallOnReady(int events) {
  Napi::HandleScope scope(environment_->env());
  napi_value argument;
  napi_create_int32(environment_->env(), events, &argument);
  // JavaScript may close this descriptor: nothing of it is touched after.
  environment_->CallBack(Value(), "onready", 1, &argument);
}

}  // namespace kernelmq
