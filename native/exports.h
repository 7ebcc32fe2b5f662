#ifndef KERNELMQ_NATIVE_EXPORTS_H_
#define KERNELMQ_NATIVE_EXPORTS_H_

#include <node_api.h>

#include <initializer_list>

namespace kernelmq {

class Environment;

struct Export {
  const char* name;
  napi_callback call;
};

// Puts functions on `object`; each finds its environment in its data.
bool DefineFunctions(Environment* environment, napi_value object,
                     std::initializer_list<Export> functions);

bool DefinePosix(Environment* environment, napi_value object);
bool DefineWait(Environment* environment, napi_value object);

}  // namespace kernelmq

#endif  // KERNELMQ_NATIVE_EXPORTS_H_
