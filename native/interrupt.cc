#include "interrupt.h"

#include <errno.h>
#include <signal.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

// musl has the name of the manual page, glibc has not.
#ifndef sigev_notify_thread_id
#define sigev_notify_thread_id _sigev_un._tid
#endif

namespace kernelmq {

// The system calls are made raw here: libc's symbols for timers and threads
// would tie the binary to glibc 2.34.
namespace {

// A real-time signal is refused when the user has as many pending, in all
// processes, as RLIMIT_SIGPENDING allows; others never are. This one is ignored
// unless somebody asks for it.
constexpr int kSecond = SIGURG;

void OnSignal(int) {}

// False if somebody else uses it.
bool Take(int number) {
  struct sigaction action {};
  if (sigaction(number, nullptr, &action) != 0 ||
      action.sa_handler != SIG_DFL) {
    return false;
  }
  action = {};
  action.sa_handler = OnSignal;  // and no SA_RESTART
  return sigaction(number, &action, nullptr) == 0;
}

int Install() {
  for (int number = SIGRTMAX; number >= SIGRTMIN; --number) {
    if (Take(number)) return number;
  }
  return -1;
}

}  // namespace

int InterruptSignal() {
  static const int number = Install();
  return number;
}

void Interrupt(int thread) {
  if (syscall(SYS_tgkill, getpid(), thread, InterruptSignal()) == 0 ||
      errno != EAGAIN) {
    return;
  }
  static const bool taken = Take(kSecond);
  if (taken) syscall(SYS_tgkill, getpid(), thread, kSecond);
}

void LetInterrupt(sigset_t* blocked) {
  sigdelset(blocked, InterruptSignal());
  sigdelset(blocked, kSecond);
}

int ThisThread() { return static_cast<int>(syscall(SYS_gettid)); }

Alarm::~Alarm() { Delete(); }

int Alarm::Create() {
  sigevent event{};
  event.sigev_notify = SIGEV_THREAD_ID;
  event.sigev_signo = InterruptSignal();
  event.sigev_notify_thread_id = ThisThread();
  if (event.sigev_signo == -1) return -EAGAIN;
  if (syscall(SYS_timer_create, CLOCK_MONOTONIC, &event, &timer_) != 0) {
    return -errno;
  }
  created_ = true;
  return 0;
}

void Alarm::Delete() {
  if (created_) syscall(SYS_timer_delete, timer_);
  created_ = false;
}

int Alarm::Arm(int64_t nanoseconds) {
  // Here rather than once: what failed before may succeed now.
  const int error = created_ ? 0 : Create();
  if (error != 0) return error;
  constexpr int64_t kSecond = 1000000000;
  itimerspec time{};
  time.it_value = {nanoseconds / kSecond, nanoseconds % kSecond};
  time.it_interval = {0, 1000000};
  return syscall(SYS_timer_settime, timer_, 0, &time, nullptr) == 0 ? 0
                                                                    : -errno;
}

void Alarm::Disarm() {
  const itimerspec never{};
  if (syscall(SYS_timer_settime, timer_, 0, &never, nullptr) != 0) Delete();
}

}  // namespace kernelmq
