// A System V message in memory, as struct msgbuf has it: its type, then its
// text.
#ifndef KERNELMQ_NATIVE_MESSAGE_H_
#define KERNELMQ_NATIVE_MESSAGE_H_

#include <node_api.h>
#include <sys/msg.h>

#include <cstdint>
#include <cstring>

namespace kernelmq {

constexpr size_t kMessageHeader = sizeof(int64_t);
// Where a long has 32 bits, so has the type of a message: this would garble it.
static_assert(sizeof(msgbuf::mtype) == kMessageHeader, "needs 64 bits");

// Types come as numbers, or as bigints beyond 2^53.
inline bool GetMessageType(napi_env env, napi_value value, int64_t* type) {
  bool lossless = true;
  return napi_get_value_int64(env, value, type) == napi_ok ||
         (napi_get_value_bigint_int64(env, value, type, &lossless) == napi_ok &&
          lossless);
}

// Tells JavaScript the length and the type, in halves, of what was received.
inline void ReportMessage(uint32_t* received, int64_t length,
                          const uint8_t* message) {
  uint64_t type;
  memcpy(&type, message, kMessageHeader);
  received[0] = static_cast<uint32_t>(length);
  received[1] = static_cast<uint32_t>(type);
  received[2] = static_cast<uint32_t>(type >> 32);
}

}  // namespace kernelmq

#endif  // KERNELMQ_NATIVE_MESSAGE_H_
