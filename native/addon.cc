#include <napi.h>

#include <vector>

#include "blocked_call.h"
#include "descriptor.h"
#include "environment.h"
#include "exports.h"

namespace kernelmq {

bool DefineFunctions(Environment* environment, napi_value object,
                     std::initializer_list<Export> functions) {
  for (const Export& function : functions) {
    napi_value value;
    if (napi_create_function(environment->env(), function.name,
                             NAPI_AUTO_LENGTH, function.call, environment,
                             &value) != napi_ok ||
        napi_set_named_property(environment->env(), object, function.name,
                                value) != napi_ok) {
      return false;
    }
  }
  return true;
}

namespace {

// reserve(bytes): makes `area`, a property of the exports, at least that large.
// It is theirs, not a module's: the module may be loaded twice in one thread.
void Reserve(const Napi::CallbackInfo& info) {
  auto* environment = static_cast<Environment*>(info.Data());
  int64_t size = 0;
  if (napi_get_value_int64(info.Env(), info[0], &size) != napi_ok) return;
  napi_value area = environment->Reserve(static_cast<size_t>(size));
  if (area != nullptr) {
    info.This().As<Napi::Object>()["area"] = area;
  } else {
    Napi::Error::New(info.Env()).ThrowAsJavaScriptException();
  }
}

Napi::Object Init(Napi::Env env, Napi::Object exports) {
  Environment* environment = Environment::Create(env);
  if (environment == nullptr) {
    Napi::Error::New(env).ThrowAsJavaScriptException();
    return exports;
  }
  exports["Descriptor"] = Descriptor::Define(env, environment);
  exports["BlockedCall"] = BlockedCall::Define(env, environment);
  exports["received"] = Napi::Value(env, environment->ReceivedArray());
  exports["nodeApi"] = NAPI_VERSION;
  exports["reserve"] =
      Napi::Function::New(env, Reserve, "reserve", environment);
  if (!DefinePosix(environment, exports) || !DefinePoll(environment, exports) ||
      !DefineSysv(environment, exports)) {
    Napi::Error::New(env).ThrowAsJavaScriptException();
  }
  return exports;
}

NODE_API_MODULE(kernelmq, Init)

}  // namespace

}  // namespace kernelmq
