#include "environment.h"

#include "descriptor.h"

namespace kernelmq {

Environment* Environment::Create(napi_env env) {
  uv_loop_t* loop = nullptr;
  if (napi_get_uv_event_loop(env, &loop) != napi_ok) return nullptr;
  auto* environment = new Environment(env, loop);

  napi_value buffer;
  napi_value array;
  void* data = nullptr;
  constexpr size_t kWords = 2 * kMaxBatch;
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
  return environment;
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

void Environment::Add(Descriptor* descriptor) {
  descriptor->next_ = descriptors_;
  if (descriptors_ != nullptr) descriptors_->previous_ = descriptor;
  descriptors_ = descriptor;
}

void Environment::Remove(Descriptor* descriptor) {
  if (descriptor->previous_ != nullptr) {
    descriptor->previous_->next_ = descriptor->next_;
  } else {
    descriptors_ = descriptor->next_;
  }
  if (descriptor->next_ != nullptr) {
    descriptor->next_->previous_ = descriptor->previous_;
  }
  descriptor->previous_ = descriptor->next_ = nullptr;
}

// No JavaScript runs any more. The loop must be rid of every handle before
// Node.js destroys it, and uv_close() needs turns of the loop: hence the
// asynchronous hook, which holds the napi_env until it is removed.
void Environment::TearDown(napi_async_cleanup_hook_handle, void* data) {
  auto* environment = static_cast<Environment*>(data);
  while (environment->descriptors_ != nullptr) {
    environment->descriptors_->Close();
  }
  environment->torn_down_ = true;
  environment->FinishTearDown();
}

void Environment::FinishTearDown() {
  if (!torn_down_ || closing_ > 0) return;
  napi_remove_async_cleanup_hook(hook_);
  delete this;
}

}  // namespace kernelmq
