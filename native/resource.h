#ifndef KERNELMQ_NATIVE_RESOURCE_H_
#define KERNELMQ_NATIVE_RESOURCE_H_

namespace kernelmq {

// What an environment must rid itself of before it goes.
class Resource {
 public:
  virtual ~Resource() = default;

  // Idempotent; leaves the environment's list.
  virtual void Close() = 0;

  // Begins what Close() will wait for, so that many can end at once.
  virtual void Hurry() {}

 private:
  friend class Environment;
  Resource* previous_ = nullptr;
  Resource* next_ = nullptr;
};

}  // namespace kernelmq

#endif  // KERNELMQ_NATIVE_RESOURCE_H_
