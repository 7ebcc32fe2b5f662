#ifndef KERNELMQ_NATIVE_EXPORTS_H_
#define KERNELMQ_NATIVE_EXPORTS_H_

#include <node_api.h>

#include <cstddef>
#include <cstdint>
#include <initializer_list>

namespace kernelmq {

template <size_t kCount>
class Arguments;
class Environment;

struct Export {
  const char* name;
  napi_callback call;
};

// Puts functions on `object`; each finds its environment in its data.
bool DefineFunctions(Environment* environment, napi_value object,
                     std::initializer_list<Export> functions);

// What makes a descriptor, and returns it or -errno.
//   open(name without its slash, flags, mode, maxmsg, msgsize)
int64_t OpenQueue(napi_env env, const Arguments<5>& arguments);
//   reopen(fd, flags): another open file description of the same file
int64_t Reopen(napi_env env, const Arguments<5>& arguments);
//   duplicate(fd): another descriptor of the same open file description
int64_t Duplicate(napi_env env, const Arguments<5>& arguments);
//   notifySocket(): to which the kernel reports SIGEV_THREAD events
int64_t NotifySocket(napi_env env, const Arguments<5>& arguments);

bool DefinePosix(Environment* environment, napi_value object);
bool DefinePoll(Environment* environment, napi_value object);
bool DefineSysv(Environment* environment, napi_value object);

}  // namespace kernelmq

#endif  // KERNELMQ_NATIVE_EXPORTS_H_
