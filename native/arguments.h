// Reads arguments in raw Node-API, for the calls where 50 ns matter. Nothing
// here throws: TypeScript has checked the types, and what slips through becomes
// an errno.
#ifndef KERNELMQ_NATIVE_ARGUMENTS_H_
#define KERNELMQ_NATIVE_ARGUMENTS_H_

#include <napi.h>

#include <cstddef>
#include <cstdint>

namespace kernelmq {

class Environment;

struct Bytes {
  uint8_t* data = nullptr;
  size_t length = 0;
};

// A Uint8Array or Buffer.
inline bool GetBytes(napi_env env, napi_value value, Bytes* bytes) {
  void* data = nullptr;
  if (napi_get_typedarray_info(env, value, nullptr, &bytes->length, &data,
                               nullptr, nullptr) != napi_ok) {
    return false;
  }
  bytes->data = static_cast<uint8_t*>(data);
  return true;
}

// The arguments of one call; those that are missing read as undefined.
template <size_t kCount>
class Arguments {
 public:
  Arguments(napi_env env, napi_callback_info info) : env_(env) {
    size_t count = kCount;
    void* data = nullptr;
    napi_get_cb_info(env, info, &count, values_, nullptr, &data);
    environment_ = static_cast<Environment*>(data);
  }

  explicit Arguments(const Napi::CallbackInfo& info) : env_(info.Env()) {
    for (size_t i = 0; i < kCount; ++i) values_[i] = info[i];
  }

  Environment* environment() const { return environment_; }
  napi_value operator[](size_t index) const { return values_[index]; }

  int32_t Int(size_t index, int32_t otherwise = -1) const {
    int32_t value;
    return napi_get_value_int32(env_, values_[index], &value) == napi_ok
               ? value
               : otherwise;
  }

  int64_t Long(size_t index, int64_t otherwise = -1) const {
    int64_t value;
    return napi_get_value_int64(env_, values_[index], &value) == napi_ok
               ? value
               : otherwise;
  }

  double Double(size_t index, double otherwise = 0) const {
    double value;
    return napi_get_value_double(env_, values_[index], &value) == napi_ok
               ? value
               : otherwise;
  }

  bool Bool(size_t index) const {
    bool value;
    return napi_get_value_bool(env_, values_[index], &value) == napi_ok &&
           value;
  }

  bool IsNullish(size_t index) const {
    napi_valuetype type;
    return napi_typeof(env_, values_[index], &type) != napi_ok ||
           type == napi_undefined || type == napi_null;
  }

  bool GetBytes(size_t index, Bytes* bytes) const {
    return kernelmq::GetBytes(env_, values_[index], bytes);
  }

  // A Uint32Array; its length in `length`.
  uint32_t* Words(size_t index, size_t* length) const {
    napi_typedarray_type type;
    void* data = nullptr;
    if (napi_get_typedarray_info(env_, values_[index], &type, length, &data,
                                 nullptr, nullptr) != napi_ok ||
        type != napi_uint32_array) {
      return nullptr;
    }
    return static_cast<uint32_t*>(data);
  }

  napi_value Return(int64_t value) const {
    napi_value result = nullptr;
    if (value >= INT32_MIN && value <= INT32_MAX) {
      napi_create_int32(env_, static_cast<int32_t>(value), &result);
    } else {
      napi_create_int64(env_, value, &result);
    }
    return result;
  }

 private:
  napi_env env_;
  napi_value values_[kCount];
  Environment* environment_ = nullptr;
};

}  // namespace kernelmq

#endif  // KERNELMQ_NATIVE_ARGUMENTS_H_
