// The mq_* system calls, see mq_overview(7). They are made with syscall(2): the
// symbols of libc would tie the binary to the glibc it was built with.
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/netlink.h>
#include <mqueue.h>
#include <napi.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <string>

#include "arguments.h"
#include "descriptor.h"
#include "environment.h"
#include "exports.h"

namespace kernelmq {

namespace {

// What the kernel writes to the socket of a SIGEV_THREAD registration: the
// cookie, its last byte replaced (ipc/mqueue.c, NOTIFY_COOKIE_LEN).
constexpr size_t kCookieSize = 32;

int64_t OrErrno(int64_t result) { return result == -1 ? -errno : result; }

// O_NONBLOCK belongs to the open file, and whoever shares that may clear it, as
// libuv does for a child's standard input: a time long past then keeps calls
// from blocking. It costs 20 ns; a file that is not shared goes without.
constexpr timespec kPast{0, 0};
const timespec* LimitOf(bool shared) { return shared ? &kPast : nullptr; }

// These never block; a signal is no reason to fail then.
int64_t SendOnce(int fd, const void* data, size_t length, uint32_t priority,
                 const timespec* limit) {
  int64_t result;
  do {
    result =
        OrErrno(syscall(SYS_mq_timedsend, fd, data, length, priority, limit));
  } while (result == -EINTR);
  return result == -ETIMEDOUT ? -EAGAIN : result;
}

int64_t ReceiveOnce(int fd, void* data, size_t length, uint32_t* priority,
                    const timespec* limit) {
  int64_t result;
  do {
    result = OrErrno(
        syscall(SYS_mq_timedreceive, fd, data, length, priority, limit));
  } while (result == -EINTR);
  return result == -ETIMEDOUT ? -EAGAIN : result;
}

// send(fd, bytes, priority, shared): 0 or -errno
napi_value Send(napi_env env, napi_callback_info info) {
  Arguments<4> arguments(env, info);
  Bytes bytes;
  if (!arguments.GetBytes(1, &bytes)) return arguments.Return(-EINVAL);
  return arguments.Return(SendOnce(arguments.Int(0), bytes.data, bytes.length,
                                   arguments.Int(2),
                                   LimitOf(arguments.Bool(3))));
}

// sendBatch(fd, bytes, pairs, from, to, shared): the number sent, or -errno if
// none. `pairs` holds (length, priority) of messages that lie one after another
// in `bytes`; `from` and `to` count messages.
napi_value SendBatch(napi_env env, napi_callback_info info) {
  Arguments<6> arguments(env, info);
  Bytes bytes;
  size_t words = 0;
  const uint32_t* pairs = arguments.Words(2, &words);
  const int fd = arguments.Int(0);
  const int64_t from = arguments.Long(3);
  const int64_t to = arguments.Long(4);
  const timespec* limit = LimitOf(arguments.Bool(5));
  if (!arguments.GetBytes(1, &bytes) || pairs == nullptr || from < 0 ||
      to < from || static_cast<size_t>(to) > words / 2) {
    return arguments.Return(-EINVAL);
  }
  size_t offset = 0;
  for (int64_t i = 0; i < from; ++i) offset += pairs[2 * i];
  for (int64_t i = from; i < to; ++i) {
    const size_t length = pairs[2 * i];
    if (offset + length > bytes.length) return arguments.Return(-EINVAL);
    const int64_t error =
        SendOnce(fd, bytes.data + offset, length, pairs[2 * i + 1], limit);
    if (error != 0) return arguments.Return(i > from ? i - from : error);
    offset += length;
  }
  return arguments.Return(to - from);
}

// receive(fd, shared): into the area; the length or -errno
napi_value Receive(napi_env env, napi_callback_info info) {
  Arguments<2> arguments(env, info);
  Environment* environment = arguments.environment();
  return arguments.Return(ReceiveOnce(
      arguments.Int(0), environment->area(), environment->area_size(),
      environment->received() + 1, LimitOf(arguments.Bool(1))));
}

// receiveInto(fd, bytes, shared): the length or -errno
napi_value ReceiveInto(napi_env env, napi_callback_info info) {
  Arguments<3> arguments(env, info);
  Bytes bytes;
  if (!arguments.GetBytes(1, &bytes)) return arguments.Return(-EINVAL);
  return arguments.Return(ReceiveOnce(
      arguments.Int(0), bytes.data, bytes.length,
      arguments.environment()->received() + 1, LimitOf(arguments.Bool(2))));
}

// receiveSpinning(fd, bytes or undefined for the area, microseconds, shared)
napi_value ReceiveSpinning(napi_env env, napi_callback_info info) {
  Arguments<4> arguments(env, info);
  Environment* environment = arguments.environment();
  Bytes bytes{environment->area(), environment->area_size()};
  if (!arguments.IsNullish(1) && !arguments.GetBytes(1, &bytes)) {
    return arguments.Return(-EINVAL);
  }
  const int fd = arguments.Int(0);
  const uint64_t end =
      uv_hrtime() + static_cast<uint64_t>(arguments.Double(2) * 1000);
  const timespec* limit = LimitOf(arguments.Bool(3));
  int64_t result;
  do {
    result = ReceiveOnce(fd, bytes.data, bytes.length,
                         environment->received() + 1, limit);
  } while (result == -EAGAIN && uv_hrtime() < end);
  return arguments.Return(result);
}

// receiveBatch(fd, max, messageSize, shared): messages one after another in the
// area; how many, or -errno if none
napi_value ReceiveBatch(napi_env env, napi_callback_info info) {
  Arguments<4> arguments(env, info);
  Environment* environment = arguments.environment();
  const int fd = arguments.Int(0);
  const int64_t max =
      std::min<int64_t>(arguments.Long(1), static_cast<int64_t>(kMaxBatch));
  const int64_t message_size = arguments.Long(2);
  if (message_size < 0) return arguments.Return(-EINVAL);
  const timespec* limit = LimitOf(arguments.Bool(3));
  size_t offset = 0;
  int64_t count = 0;
  while (count < max && offset + static_cast<size_t>(message_size) <=
                            environment->area_size()) {
    uint32_t* pair = environment->received() + 2 * count;
    const int64_t length =
        ReceiveOnce(fd, environment->area() + offset,
                    environment->area_size() - offset, pair + 1, limit);
    if (length < 0) {
      if (count == 0) return arguments.Return(length);
      break;
    }
    *pair = static_cast<uint32_t>(length);
    offset = Aligned(offset + static_cast<size_t>(length));
    ++count;
  }
  return arguments.Return(count);
}

// A struct timespec from {sec, nsec}; null stays null.
class Timespec {
 public:
  explicit Timespec(Napi::Value value) {
    if (!value.IsObject()) return;
    time_.tv_sec = Member(value, "sec");
    time_.tv_nsec = Member(value, "nsec");
    given_ = true;
  }
  const timespec* get() const { return given_ ? &time_ : nullptr; }

 private:
  static int64_t Member(const Napi::Value& object, const char* name) {
    napi_value member;
    int64_t number = -1;
    if (napi_get_named_property(object.Env(), object, name, &member) ==
        napi_ok) {
      napi_get_value_int64(object.Env(), member, &number);
    }
    return number;
  }

  timespec time_{};
  bool given_ = false;
};

// timedSend(fd, bytes, priority, {sec, nsec} or undefined), restarting nothing
napi_value TimedSend(napi_env env, napi_callback_info info) {
  Arguments<4> arguments(env, info);
  Bytes bytes;
  if (!arguments.GetBytes(1, &bytes)) return arguments.Return(-EINVAL);
  const Timespec deadline(Napi::Value(env, arguments[3]));
  return arguments.Return(OrErrno(
      syscall(SYS_mq_timedsend, arguments.Int(0), bytes.data, bytes.length,
              static_cast<uint32_t>(arguments.Long(2)), deadline.get())));
}

// timedReceive(fd, bytes, {sec, nsec} or undefined), restarting nothing
napi_value TimedReceive(napi_env env, napi_callback_info info) {
  Arguments<3> arguments(env, info);
  Bytes bytes;
  if (!arguments.GetBytes(1, &bytes)) return arguments.Return(-EINVAL);
  const Timespec deadline(Napi::Value(env, arguments[2]));
  return arguments.Return(OrErrno(
      syscall(SYS_mq_timedreceive, arguments.Int(0), bytes.data, bytes.length,
              arguments.environment()->received() + 1, deadline.get())));
}

// A name of up to 255 bytes. Of a longer one so much that it is still too long:
// a character that does not fit is left out as a whole, and has up to 4 bytes.
class Name {
 public:
  Name(napi_env env, napi_value value) {
    napi_get_value_string_utf8(env, value, bytes_, sizeof bytes_, nullptr);
  }
  const char* get() const { return bytes_; }

 private:
  char bytes_[NAME_MAX + 5] = {};
};

// open(name without its slash, flags, mode, maxmsg, msgsize): a descriptor or
// -errno. With no attributes (undefined) the kernel's defaults apply.
napi_value Open(napi_env env, napi_callback_info info) {
  Arguments<5> arguments(env, info);
  return arguments.Return(OpenQueue(env, arguments));
}

// unlink(name without its slash)
napi_value Unlink(napi_env env, napi_callback_info info) {
  Arguments<1> arguments(env, info);
  const Name name(env, arguments[0]);
  return arguments.Return(OrErrno(syscall(SYS_mq_unlink, name.get())));
}

int64_t GetSetAttributes(int fd, const mq_attr* wanted, mq_attr* current) {
  return OrErrno(syscall(SYS_mq_getsetattr, fd, wanted, current));
}

// Only if it is a queue: a wrong number could be libuv's own, and closing that
// aborts the process.
int64_t CloseQueue(int fd) {
  mq_attr attributes;
  if (GetSetAttributes(fd, nullptr, &attributes) != 0) return -EBADF;
  return OrErrno(close(fd));
}

// close(fd): of a queue, and one that no Descriptor owns
napi_value Close(napi_env env, napi_callback_info info) {
  Arguments<1> arguments(env, info);
  return arguments.Return(UnlessOwned(arguments.Int(0), CloseQueue));
}

// getSetAttributes(fd, flags or undefined): -errno, or the attributes before as
// {flags, maxmsg, msgsize, curmsgs}
napi_value GetSetAttributesCall(napi_env env, napi_callback_info info) {
  Arguments<2> arguments(env, info);
  mq_attr wanted{};
  wanted.mq_flags = arguments.Long(1);
  mq_attr current{};
  const int64_t error = GetSetAttributes(
      arguments.Int(0), arguments.IsNullish(1) ? nullptr : &wanted, &current);
  if (error != 0) return arguments.Return(error);
  Napi::Object result = Napi::Object::New(env);
  result["flags"] = static_cast<double>(current.mq_flags);
  result["maxmsg"] = static_cast<double>(current.mq_maxmsg);
  result["msgsize"] = static_cast<double>(current.mq_msgsize);
  result["curmsgs"] = static_cast<double>(current.mq_curmsgs);
  return result;
}

// notify(fd, kind or undefined to unregister, signal or socket, value)
napi_value Notify(napi_env env, napi_callback_info info) {
  Arguments<4> arguments(env, info);
  if (arguments.IsNullish(1)) {
    return arguments.Return(
        OrErrno(syscall(SYS_mq_notify, arguments.Int(0), nullptr)));
  }
  sigevent event{};
  event.sigev_notify = arguments.Int(1);
  event.sigev_signo = arguments.Int(2);
  event.sigev_value.sival_int = arguments.Int(3, 0);
  // The kernel copies the cookie during the call. All our registrations look
  // alike: each has a socket of its own.
  char cookie[kCookieSize] = {};
  if (event.sigev_notify == SIGEV_THREAD) event.sigev_value.sival_ptr = cookie;
  return arguments.Return(
      OrErrno(syscall(SYS_mq_notify, arguments.Int(0), &event)));
}

// notifyRead(socket): NOTIFY_WOKENUP (1), NOTIFY_REMOVED (2) or -errno
napi_value NotifyRead(napi_env env, napi_callback_info info) {
  Arguments<1> arguments(env, info);
  char cookie[kCookieSize];
  ssize_t length;
  do {
    length = recv(arguments.Int(0), cookie, sizeof cookie, 0);
  } while (length == -1 && errno == EINTR);
  if (length == -1) return arguments.Return(-errno);
  if (length != sizeof cookie) return arguments.Return(-EBADMSG);
  return arguments.Return(cookie[kCookieSize - 1]);
}

// accessMode(fd): O_RDONLY, O_WRONLY or O_RDWR, or -errno
napi_value AccessMode(napi_env env, napi_callback_info info) {
  Arguments<1> arguments(env, info);
  const int64_t flags = OrErrno(fcntl(arguments.Int(0), F_GETFL));
  return arguments.Return(flags < 0 ? flags : flags & O_ACCMODE);
}

// setCloseOnExec(fd)
napi_value SetCloseOnExec(napi_env env, napi_callback_info info) {
  Arguments<1> arguments(env, info);
  return arguments.Return(
      OrErrno(fcntl(arguments.Int(0), F_SETFD, FD_CLOEXEC)));
}

}  // namespace

int64_t OpenQueue(napi_env env, const Arguments<5>& arguments) {
  const Name name(env, arguments[0]);
  mq_attr attributes{};
  attributes.mq_maxmsg = arguments.Long(3);
  attributes.mq_msgsize = arguments.Long(4);
  return OrErrno(syscall(SYS_mq_open, name.get(), arguments.Int(1),
                         static_cast<mode_t>(arguments.Long(2)),
                         arguments.IsNullish(3) ? nullptr : &attributes));
}

int64_t Reopen(napi_env, const Arguments<5>& arguments) {
  const std::string path = "/proc/self/fd/" + std::to_string(arguments.Int(0));
  int64_t result;
  do {
    result = OrErrno(open(path.c_str(), arguments.Int(1) | O_CLOEXEC));
  } while (result == -EINTR);
  return result;
}

int64_t Duplicate(napi_env, const Arguments<5>& arguments) {
  return OrErrno(fcntl(arguments.Int(0), F_DUPFD_CLOEXEC, 3));
}

int64_t NotifySocket(napi_env, const Arguments<5>&) {
  return OrErrno(socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC | SOCK_NONBLOCK,
                        NETLINK_ROUTE));
}

bool DefinePosix(Environment* environment, napi_value object) {
  return DefineFunctions(environment, object,
                         {
                             {"send", Send},
                             {"sendBatch", SendBatch},
                             {"receive", Receive},
                             {"receiveInto", ReceiveInto},
                             {"receiveSpinning", ReceiveSpinning},
                             {"receiveBatch", ReceiveBatch},
                             {"timedSend", TimedSend},
                             {"timedReceive", TimedReceive},
                             {"open", Open},
                             {"unlink", Unlink},
                             {"close", Close},
                             {"getSetAttributes", GetSetAttributesCall},
                             {"notify", Notify},
                             {"notifyRead", NotifyRead},
                             {"accessMode", AccessMode},
                             {"setCloseOnExec", SetCloseOnExec},
                         });
}

}  // namespace kernelmq
