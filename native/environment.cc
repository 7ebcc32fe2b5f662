#include "environment.h"

#include <sched.h>

#include <algorithm>

namespace kernelmq {

namespace {

constexpr uint64_t kShortWait = 50'000;  // nanoseconds

}  // namespace

Environment* Environment::Create(napi_env env) {
  uv_loop_t* loop = nullptr;
  if (napi_get_uv_event_loop(env, &loop) != napi_ok) return nullptr;
  auto* environment = new Environment(env, loop);

  napi_value buffer;
  napi_value array;
  void* data = nullptr;
  constexpr size_t kWords = 3 * kMaxBatch;
  // The hook comes last: from there on it is what deletes the environment.
  if (napi_create_arraybuffer(env, kWords * sizeof(uint32_t), &data, &buffer) !=
          napi_ok ||
      napi_create_typedarray(env, napi_uint32_array, kWords, buffer, 0,
                             &array) != napi_ok ||
      napi_create_reference(env, array, 1, &environment->received_ref_) !=
          napi_ok ||
      napi_add_async_cleanup_hook(env, TearDown, environment,
                                  &environment->hook_) != napi_ok) {
    delete environment;
    return nullptr;
  }
  environment->received_ = static_cast<uint32_t*>(data);
  environment->idle_ = new uv_idle_t();
  uv_idle_init(loop, environment->idle_);
  uv_unref(reinterpret_cast<uv_handle_t*>(environment->idle_));
  environment->idle_->data = environment;
  return environment;
}

Environment::~Environment() {
  for (napi_ref ref : {area_ref_, received_ref_}) {
    if (ref != nullptr) napi_delete_reference(env_, ref);
  }
}

napi_value Environment::Reserve(size_t size) {
  napi_value value = nullptr;
  if (area_ref_ != nullptr && size <= area_size_) {
    napi_get_reference_value(env_, area_ref_, &value);
    return value;
  }
  void* data = nullptr;
  napi_ref ref = nullptr;
  if (napi_create_buffer(env_, size, &data, &value) != napi_ok ||
      napi_create_reference(env_, value, 1, &ref) != napi_ok) {
    return nullptr;
  }
  if (area_ref_ != nullptr) napi_delete_reference(env_, area_ref_);
  area_ref_ = ref;
  area_ = static_cast<uint8_t*>(data);
  area_size_ = size;
  return value;
}

napi_value Environment::ReceivedArray() const {
  napi_value value = nullptr;
  napi_get_reference_value(env_, received_ref_, &value);
  return value;
}

void Environment::BeginWait() {
  waiting_since_ = uv_hrtime();
  // While an idle handle is active, libuv polls without sleeping.
  if (last_wait_was_short_ && waiting_since_ >= asleep_until_) {
    uv_idle_start(idle_, StayAwake);
  }
}

void Environment::EndWait() { last_wait_was_short_ = !WaitsLong(); }

bool Environment::WaitsLong() {
  const uint64_t now = uv_hrtime();
  const uint64_t waited = now - waiting_since_;
  if (waited < kShortWait) return false;
  if (uv_is_active(reinterpret_cast<uv_handle_t*>(idle_))) {
    // Awake in vain: so at most a tenth of the time is spent. What JavaScript
    // or other processes took of it does not count.
    uv_idle_stop(idle_);
    asleep_until_ = now + 10 * std::min(waited, 2 * kShortWait);
  }
  return true;
}

void Environment::StayAwake(uv_idle_t* idle) {
  auto* environment = static_cast<Environment*>(idle->data);
  if (!environment->WaitsLong()) sched_yield();
}

void Environment::Add(Resource* resource) {
  resource->next_ = resources_;
  if (resources_ != nullptr) resources_->previous_ = resource;
  resources_ = resource;
}

void Environment::Remove(Resource* resource) {
  if (resource->previous_ != nullptr) {
    resource->previous_->next_ = resource->next_;
  } else {
    resources_ = resource->next_;
  }
  if (resource->next_ != nullptr) {
    resource->next_->previous_ = resource->previous_;
  }
  resource->previous_ = resource->next_ = nullptr;
}

void Environment::CallBack(napi_value self, const char* name, size_t count,
                           const napi_value* arguments) {
  napi_env env = env_;  // `this` may be gone after the call
  napi_value function;
  if (self == nullptr ||
      napi_get_named_property(env, self, name, &function) != napi_ok) {
    return;
  }
  const napi_status status = napi_make_callback(env, nullptr, self, function,
                                                count, arguments, nullptr);
  if (status != napi_pending_exception) return;
  // Node-API leaves the exception pending; unless it is passed on, the loop
  // would call again for ever.
  napi_value exception;
  if (napi_get_and_clear_last_exception(env, &exception) == napi_ok) {
    napi_fatal_exception(env, exception);
  }
}

// No JavaScript runs any more. The loop must be rid of every handle before
// Node.js destroys it, and uv_close() needs turns of the loop: hence the
// asynchronous hook, which holds the napi_env until it is removed.
void Environment::TearDown(napi_async_cleanup_hook_handle, void* data) {
  auto* environment = static_cast<Environment*>(data);
  for (Resource* resource = environment->resources_; resource != nullptr;
       resource = resource->next_) {
    resource->Hurry();
  }
  while (environment->resources_ != nullptr) {
    environment->resources_->Close();
  }
  environment->CloseHandle(environment->idle_);
  environment->torn_down_ = true;
  environment->FinishTearDown();
}

void Environment::FinishTearDown() {
  if (!torn_down_ || closing_ > 0) return;
  // The hook keeps the napi_env, which the destructor still needs.
  napi_async_cleanup_hook_handle hook = hook_;
  delete this;
  napi_remove_async_cleanup_hook(hook);
}

}  // namespace kernelmq
