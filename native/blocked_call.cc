#include "blocked_call.h"

#include <errno.h>
#include <signal.h>
#include <sys/ipc.h>
#include <sys/msg.h>
#include <time.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>

#include "arguments.h"
#include "environment.h"
#include "interrupt.h"
#include "message.h"

namespace kernelmq {

namespace {

// A thread does one system call. Room for libc's thread-local data is taken
// from this too.
constexpr size_t kStackSize = 128 * 1024;
constexpr uint64_t kRepeatMilliseconds = 2;

}  // namespace

Napi::Function BlockedCall::Define(Napi::Env env, Environment* environment) {
  return DefineClass(env, "BlockedCall",
                     {InstanceMethod<&BlockedCall::Start>("start"),
                      InstanceMethod<&BlockedCall::Cancel>("cancel"),
                      InstanceMethod<&BlockedCall::Hold>("hold")},
                     environment);
}

BlockedCall::BlockedCall(const Napi::CallbackInfo& info)
    : Napi::ObjectWrap<BlockedCall>(info),
      owner_(static_cast<Environment*>(info.Data())) {
  owner_->AdoptIfUnwrapped(this);
  napi_env env = info.Env();
  Bytes bytes;
  if (info.Length() < 4 ||
      napi_get_value_int32(env, info[0], &id_) != napi_ok ||
      !GetMessageType(env, info[1], &type_) ||
      napi_get_value_int32(env, info[2], &flags_) != napi_ok) {
    Napi::TypeError::New(env, "BlockedCall takes an id, a type and flags")
        .ThrowAsJavaScriptException();
    return;
  }
  sends_ = GetBytes(env, info[3], &bytes);
  if (!sends_) {
    uint32_t size = 0;
    napi_get_value_uint32(env, info[3], &size);
    bytes.length = size;
  }
  capacity_ = bytes.length;
  message_ = static_cast<uint8_t*>(malloc(kMessageHeader + capacity_));
  if (message_ == nullptr || !sends_) return;
  memcpy(message_, &type_, kMessageHeader);
  if (bytes.length > 0) {
    memcpy(message_ + kMessageHeader, bytes.data, bytes.length);
  }
}

BlockedCall::~BlockedCall() {
  Close();
  free(message_);
}

Napi::Value BlockedCall::Start(const Napi::CallbackInfo& info) {
  Napi::Env env = info.Env();
  const auto result = [env](int errno_value) {
    return Napi::Number::New(env, errno_value);
  };
  if (environment_ != nullptr || message_ == nullptr) return result(-ENOMEM);
  if (InterruptSignal() == -1) return result(-EAGAIN);
  auto* async = new uv_async_t();
  const int error = uv_async_init(owner_->loop(), async, OnAnswer);
  if (error != 0) {
    delete async;
    return result(error);
  }
  async->data = this;

  // Whatever comes to the process is for other threads to handle.
  // Linux has sigprocmask(2) speak of the calling thread.
  sigset_t others;
  sigset_t before;
  sigfillset(&others);
  LetInterrupt(&others);
  sigprocmask(SIG_SETMASK, &others, &before);
  async_ = async;
  const uv_thread_options_t options{UV_THREAD_HAS_STACK_SIZE, kStackSize};
  const int failed = uv_thread_create_ex(&thread_, &options, Run, this);
  sigprocmask(SIG_SETMASK, &before, nullptr);
  if (failed != 0) {
    async_ = nullptr;
    owner_->CloseHandle(async);
    return result(failed);
  }
  environment_ = owner_;
  environment_->Add(this);
  Ref();
  Hold(info);
  return result(0);
}

void BlockedCall::Hold(const Napi::CallbackInfo& info) {
  if (async_ == nullptr) return;
  auto* handle = reinterpret_cast<uv_handle_t*>(async_);
  bool hold = false;
  if (info.Length() > 0) napi_get_value_bool(info.Env(), info[0], &hold);
  if (cancelled_ || hold) {
    uv_ref(handle);
  } else {
    uv_unref(handle);
  }
}

void BlockedCall::Run(void* data) {
  auto* self = static_cast<BlockedCall*>(data);
  self->thread_id_ = ThisThread();
  self->Call();
  self->answered_ = true;
  uv_async_send(self->async_);
}

void BlockedCall::Call() {
  while (!cancelled_.load()) {
    const int64_t result =
        sends_ ? msgsnd(id_, message_, capacity_, flags_)
               : msgrcv(id_, message_, capacity_, type_, flags_);
    if (result >= 0) {
      result_ = result;
      return;
    }
    if (errno == EINTR) continue;
    result_ = -errno;
    return;
  }
  result_ = -ECANCELED;
}

void BlockedCall::Cancel(const Napi::CallbackInfo&) {
  if (environment_ == nullptr || cancelled_.exchange(true)) return;
  // It is over in no time, and whoever gave it up has to hear of that.
  uv_ref(reinterpret_cast<uv_handle_t*>(async_));
  Wake();
  // The signal may have come just before the system call.
  auto* timer = new uv_timer_t();
  uv_timer_init(environment_->loop(), timer);
  timer->data = this;
  timer_ = timer;
  uv_unref(reinterpret_cast<uv_handle_t*>(timer));
  uv_timer_start(
      timer,
      [](uv_timer_t* handle) {
        static_cast<BlockedCall*>(handle->data)->Wake();
      },
      kRepeatMilliseconds, kRepeatMilliseconds);
}

void BlockedCall::OnAnswer(uv_async_t* async) {
  static_cast<BlockedCall*>(async->data)->Settle();
}

void BlockedCall::Settle() {
  uv_thread_join(&thread_);
  Environment* environment = environment_;
  napi_env env = environment->env();
  Napi::HandleScope scope(env);
  napi_value self = Value();
  napi_value arguments[2];
  napi_get_undefined(env, &arguments[1]);
  if (result_ >= 0 && !sends_) {
    ReportMessage(environment->received(), result_, message_);
    if (napi_create_buffer_copy(env, static_cast<size_t>(result_),
                                message_ + kMessageHeader, nullptr,
                                &arguments[1]) != napi_ok) {
      result_ = -ENOMEM;
    }
  }
  napi_create_int64(env, result_, &arguments[0]);
  Release();
  environment->CallBack(self, "onsettled", 2, arguments);
}

// The thread has been joined.
void BlockedCall::Release() {
  environment_->Remove(this);
  environment_->CloseHandle(async_);
  if (timer_ != nullptr) environment_->CloseHandle(timer_);
  async_ = nullptr;
  timer_ = nullptr;
  environment_ = nullptr;
  Unref();
}

// Not after it has answered: its number may be another thread's by then.
void BlockedCall::Wake() {
  if (thread_id_ != 0 && !answered_) Interrupt(thread_id_);
}

void BlockedCall::Hurry() {
  cancelled_ = true;
  Wake();
}

void BlockedCall::Close() {
  if (environment_ == nullptr) return;
  cancelled_ = true;
  while (!answered_) {
    Wake();
    const timespec pause{0, 100000};
    nanosleep(&pause, nullptr);
  }
  uv_thread_join(&thread_);
  Release();
}

}  // namespace kernelmq
