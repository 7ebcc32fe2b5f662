// Getting a thread out of a system call that has neither a timeout nor a
// descriptor: by a signal of our own, whose handler does nothing.
#ifndef KERNELMQ_NATIVE_INTERRUPT_H_
#define KERNELMQ_NATIVE_INTERRUPT_H_

#include <signal.h>

#include <cstdint>

namespace kernelmq {

// The signal, or -1 if every real-time signal has a handler of somebody else's.
// The handler is installed once and stays: a late signal must find it.
int InterruptSignal();

// Sends it to one thread, or another signal if that is refused. One that has
// ended is no error.
void Interrupt(int thread);

// Takes these signals out of those that a thread is to block.
void LetInterrupt(sigset_t* blocked);

// The calling thread, as Interrupt() takes it.
int ThisThread();

// Interrupts the thread that made it: once after a time, and then every
// millisecond until disarmed, for a signal may land just before the call.
class Alarm {
 public:
  Alarm() = default;
  ~Alarm();
  Alarm(const Alarm&) = delete;
  Alarm& operator=(const Alarm&) = delete;

  // 0 or -errno: without the alarm a call might never end.
  int Arm(int64_t nanoseconds);
  void Disarm();

 private:
  int Create();
  void Delete();

  int timer_ = 0;
  bool created_ = false;
};

}  // namespace kernelmq

#endif  // KERNELMQ_NATIVE_INTERRUPT_H_
