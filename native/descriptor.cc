#include "descriptor.h"

#include <unistd.h>

#include <mutex>
#include <set>

#include "environment.h"

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

bool IsOwned(int fd) {
  std::lock_guard<std::mutex> lock(owned_mutex);
  return Owned().count(fd) != 0;
}

Napi::Function Descriptor::Define(Napi::Env env, Environment* environment) {
  return DefineClass(env, "Descriptor",
                     {InstanceMethod<&Descriptor::Watch>("watch"),
                      InstanceMethod<&Descriptor::CloseFromJs>("close")},
                     environment);
}

Descriptor::Descriptor(const Napi::CallbackInfo& info)
    : Napi::ObjectWrap<Descriptor>(info) {
  int32_t fd = -1;
  if (info.Length() < 1 ||
      napi_get_value_int32(info.Env(), info[0], &fd) != napi_ok || fd < 0) {
    Napi::TypeError::New(info.Env(), "Descriptor takes a file descriptor")
        .ThrowAsJavaScriptException();
    return;
  }
  {
    std::lock_guard<std::mutex> lock(owned_mutex);
    if (!Owned().insert(fd).second) {
      Napi::Error::New(info.Env(), "the file descriptor has an owner")
          .ThrowAsJavaScriptException();
      return;
    }
  }
  fd_ = fd;
  environment_ = static_cast<Environment*>(info.Data());
  environment_->Add(this);
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
  if ((events & self->wanted_) != 0) self->CallOnReady(events & self->wanted_);
}

void Descriptor::CallOnReady(int events) {
  napi_env env = environment_->env();
  Napi::HandleScope scope(env);
  napi_value self = Value();
  napi_value onready;
  napi_value argument;
  if (self == nullptr ||
      napi_get_named_property(env, self, "onready", &onready) != napi_ok ||
      napi_create_int32(env, events, &argument) != napi_ok) {
    return;
  }
  // JavaScript may close this descriptor: nothing of it is touched after.
  napi_status status =
      napi_make_callback(env, nullptr, self, onready, 1, &argument, nullptr);
  if (status != napi_pending_exception) return;
  // Node-API leaves the exception pending; unless it is passed on, the loop
  // would call again for ever.
  napi_value exception;
  if (napi_get_and_clear_last_exception(env, &exception) == napi_ok) {
    napi_fatal_exception(env, exception);
  }
}

}  // namespace kernelmq
