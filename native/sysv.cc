// The msg* system calls, see sysvipc(7), but for those that wait on a thread of
// their own.
#include <errno.h>
#include <napi.h>
#include <sys/ipc.h>
#include <sys/msg.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>

#include "arguments.h"
#include "block.h"
#include "environment.h"
#include "exports.h"
#include "interrupt.h"
#include "message.h"

namespace kernelmq {

namespace {

int64_t OrErrno(int64_t result) { return result == -1 ? -errno : result; }

// One that does not wait has no reason to fail for a signal.
template <typename Call>
int64_t Restart(int flags, Call call) {
  int64_t result;
  do {
    result = OrErrno(call());
  } while (result == -EINTR && (flags & IPC_NOWAIT) != 0);
  return result;
}

int64_t ReceiveOnce(int id, void* message, size_t size, int64_t type,
                    int flags) {
  return Restart(flags, [&] { return msgrcv(id, message, size, type, flags); });
}

// The arguments (id, type, ...) that begin most calls.
template <size_t kCount>
class MessageArguments : public Arguments<kCount> {
 public:
  MessageArguments(napi_env env, napi_callback_info info)
      : Arguments<kCount>(env, info) {
    valid_ = GetMessageType(env, (*this)[1], &type_);
  }
  bool valid() const { return valid_; }
  int id() const { return this->Int(0); }
  int64_t type() const { return type_; }

 private:
  int64_t type_ = 0;
  bool valid_ = false;
};

// A message of the caller's, where struct msgbuf wants it. Each thread has one,
// which grows to the longest.
class Scratch {
 public:
  // Null if there is no memory for so long a message.
  uint8_t* Reserve(size_t length) {
    if (message_ == nullptr || length > capacity_) {
      void* larger = realloc(message_, kMessageHeader + length);
      if (larger == nullptr) return nullptr;
      message_ = static_cast<uint8_t*>(larger);
      capacity_ = length;
    }
    return message_;
  }

  const void* Set(int64_t type, const Bytes& bytes) {
    uint8_t* message = Reserve(bytes.length);
    if (message == nullptr) return nullptr;
    memcpy(message, &type, kMessageHeader);
    if (bytes.length > 0) {
      memcpy(message + kMessageHeader, bytes.data, bytes.length);
    }
    return message;
  }

  Scratch() = default;
  ~Scratch() { free(message_); }
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;

 private:
  uint8_t* message_ = nullptr;
  size_t capacity_ = 0;
};

thread_local Scratch scratch;

int64_t SendOnce(int id, int64_t type, const Bytes& bytes, int flags) {
  const void* message = scratch.Set(type, bytes);
  if (message == nullptr) return -ENOMEM;
  return Restart(flags,
                 [&] { return msgsnd(id, message, bytes.length, flags); });
}

// sendBatch(id, bytes, triples, from, to): the number sent, or -errno if none.
// `triples` holds (length, both halves of the type) of messages that lie one
// after another in `bytes`; `from` and `to` count messages.
napi_value SendBatch(napi_env env, napi_callback_info info) {
  Arguments<5> arguments(env, info);
  Bytes bytes;
  size_t words = 0;
  const uint32_t* triples = arguments.Words(2, &words);
  const int64_t from = arguments.Long(3);
  const int64_t to = arguments.Long(4);
  if (!arguments.GetBytes(1, &bytes) || triples == nullptr || from < 0 ||
      to < from || static_cast<size_t>(to) > words / 3) {
    return arguments.Return(-EINVAL);
  }
  size_t offset = 0;
  for (int64_t i = 0; i < to; ++i) {
    const uint32_t* triple = triples + 3 * i;
    const size_t length = triple[0];
    if (offset + length > bytes.length) return arguments.Return(-EINVAL);
    if (i >= from) {
      const auto type = static_cast<int64_t>(
          (static_cast<uint64_t>(triple[2]) << 32) | triple[1]);
      const int64_t error = SendOnce(arguments.Int(0), type,
                                     {bytes.data + offset, length}, IPC_NOWAIT);
      if (error != 0) return arguments.Return(i > from ? i - from : error);
    }
    offset += length;
  }
  return arguments.Return(to - from);
}

// Where a message is to go: the area, of which it may take `size` bytes beside
// its type, or a Uint8Array, by way of the scratch.
class Target {
 public:
  template <size_t kCount>
  explicit Target(const MessageArguments<kCount>& arguments)
      : environment_(arguments.environment()) {
    into_ = arguments.GetBytes(2, &bytes_);
    const int64_t size = into_ ? 0 : arguments.Long(2);
    size_ = into_ ? bytes_.length : static_cast<size_t>(size);
    message_ = into_ ? scratch.Reserve(size_) : environment_->area();
    if (!arguments.valid() || size < 0 ||
        (!into_ && kMessageHeader + size_ > environment_->area_size())) {
      error_ = -EINVAL;
    } else if (message_ == nullptr) {
      error_ = -ENOMEM;
    }
  }

  // -errno, or 0 if a call may be made.
  int error() const { return error_; }
  size_t size() const { return size_; }
  uint8_t* message() const { return message_; }

  // Passes on what a call brought, or its errno.
  int64_t Finish(int64_t length) const {
    if (length < 0) return length;
    ReportMessage(environment_->received(), length, message());
    if (into_ && length > 0) {
      memcpy(bytes_.data, message() + kMessageHeader,
             static_cast<size_t>(length));
    }
    return length;
  }

 private:
  Environment* environment_;
  Bytes bytes_;
  uint8_t* message_ = nullptr;
  size_t size_ = 0;
  int error_ = 0;
  bool into_ = false;
};

// send(id, type, bytes, flags): 0 or -errno
napi_value Send(napi_env env, napi_callback_info info) {
  MessageArguments<4> arguments(env, info);
  Bytes bytes;
  if (!arguments.valid() || !arguments.GetBytes(2, &bytes)) {
    return arguments.Return(-EINVAL);
  }
  return arguments.Return(
      SendOnce(arguments.id(), arguments.type(), bytes, arguments.Int(3, 0)));
}

// receive(id, type, size or bytes, flags): the length or -errno
napi_value Receive(napi_env env, napi_callback_info info) {
  MessageArguments<4> arguments(env, info);
  const Target target(arguments);
  if (target.error() != 0) return arguments.Return(target.error());
  return arguments.Return(
      target.Finish(ReceiveOnce(arguments.id(), target.message(), target.size(),
                                arguments.type(), arguments.Int(3, 0))));
}

// receiveBatch(id, type, size, flags, max): messages one after another in the
// area, each with its type first; how many, or -errno if none
napi_value ReceiveBatch(napi_env env, napi_callback_info info) {
  MessageArguments<5> arguments(env, info);
  Environment* environment = arguments.environment();
  const int64_t size = arguments.Long(2);
  const int64_t max =
      std::min<int64_t>(arguments.Long(4), static_cast<int64_t>(kMaxBatch));
  if (!arguments.valid() || size < 0) return arguments.Return(-EINVAL);
  const int flags = arguments.Int(3, 0) | IPC_NOWAIT;
  const size_t room = kMessageHeader + static_cast<size_t>(size);
  size_t offset = 0;
  int64_t count = 0;
  while (count < max && offset + room <= environment->area_size()) {
    uint8_t* message = environment->area() + offset;
    const int64_t length =
        ReceiveOnce(arguments.id(), message, static_cast<size_t>(size),
                    arguments.type(), flags);
    if (length < 0) {
      if (count == 0) return arguments.Return(length);
      break;
    }
    ReportMessage(environment->received() + 3 * count, length, message);
    offset = Aligned(offset + kMessageHeader + static_cast<size_t>(length));
    ++count;
  }
  return arguments.Return(count);
}

// receiveSpinning(id, type, size or bytes, flags, microseconds)
napi_value ReceiveSpinning(napi_env env, napi_callback_info info) {
  MessageArguments<5> arguments(env, info);
  const Target target(arguments);
  if (target.error() != 0) return arguments.Return(target.error());
  const int flags = arguments.Int(3, 0) | IPC_NOWAIT;
  const int64_t end = Now() + static_cast<int64_t>(arguments.Double(4) * 1000);
  int64_t length;
  do {
    length = ReceiveOnce(arguments.id(), target.message(), target.size(),
                         arguments.type(), flags);
  } while (length == -ENOMSG && Now() < end);
  return arguments.Return(target.Finish(length));
}

// Repeats a call that blocks until it is done, its time is over, a signal is to
// be heard, or JavaScript may run no more.
template <typename Call>
int64_t Block(napi_env env, uv_loop_t* loop, double milliseconds,
              bool interruptible, napi_value noop, Call call) {
  thread_local Alarm alarm;
  const Deadline deadline(milliseconds);
  for (;;) {
    const int error = alarm.Arm(std::max<int64_t>(deadline.Slice(), 1));
    if (error != 0) return error;
    const int64_t result = OrErrno(call());
    alarm.Disarm();
    if (result != -EINTR) return result;
    if (interruptible && SignalIsPending(loop)) return -EINTR;
    if (deadline.Passed()) return -ETIMEDOUT;
    if (!MayRunJavaScript(env, noop)) return kTerminated;
  }
}

// sendBlocking(id, type, bytes, milliseconds, interruptible, noop)
napi_value SendBlocking(napi_env env, napi_callback_info info) {
  MessageArguments<6> arguments(env, info);
  Bytes bytes;
  if (!arguments.valid() || !arguments.GetBytes(2, &bytes)) {
    return arguments.Return(-EINVAL);
  }
  const void* message = scratch.Set(arguments.type(), bytes);
  if (message == nullptr) return arguments.Return(-ENOMEM);
  return arguments.Return(
      Block(env, arguments.environment()->loop(), arguments.Double(3, INFINITY),
            arguments.Bool(4), arguments[5],
            [&] { return msgsnd(arguments.id(), message, bytes.length, 0); }));
}

// receiveBlocking(id, type, size or bytes, flags, milliseconds, interruptible,
// noop)
napi_value ReceiveBlocking(napi_env env, napi_callback_info info) {
  MessageArguments<7> arguments(env, info);
  const Target target(arguments);
  if (target.error() != 0) return arguments.Return(target.error());
  const int flags = arguments.Int(3, 0);
  return arguments.Return(target.Finish(
      Block(env, arguments.environment()->loop(), arguments.Double(4, INFINITY),
            arguments.Bool(5), arguments[6], [&] {
              return msgrcv(arguments.id(), target.message(), target.size(),
                            arguments.type(), flags);
            })));
}

// get(key, flags)
napi_value Get(napi_env env, napi_callback_info info) {
  Arguments<2> arguments(env, info);
  return arguments.Return(
      OrErrno(msgget(arguments.Int(0, 0), arguments.Int(1, 0))));
}

// stat(idOrIndex, command): -errno, or the queue
napi_value Stat(napi_env env, napi_callback_info info) {
  Arguments<2> arguments(env, info);
  msqid_ds queue{};
  const int64_t id =
      OrErrno(msgctl(arguments.Int(0), arguments.Int(1), &queue));
  if (id < 0) return arguments.Return(id);
  Napi::Object result = Napi::Object::New(env);
  const auto set = [&result](const char* name, auto value) {
    result[name] = static_cast<double>(value);
  };
  set("id", id);
  set("key", queue.msg_perm.__key);
  set("uid", queue.msg_perm.uid);
  set("gid", queue.msg_perm.gid);
  set("cuid", queue.msg_perm.cuid);
  set("cgid", queue.msg_perm.cgid);
  set("mode", queue.msg_perm.mode);
  set("stime", queue.msg_stime);
  set("rtime", queue.msg_rtime);
  set("ctime", queue.msg_ctime);
  set("cbytes", queue.__msg_cbytes);
  set("qnum", queue.msg_qnum);
  set("qbytes", queue.msg_qbytes);
  set("lspid", queue.msg_lspid);
  set("lrpid", queue.msg_lrpid);
  return result;
}

// limit(id, index): msg_qbytes or -errno; asks by the index where the queue may
// not be read
napi_value Limit(napi_env env, napi_callback_info info) {
  Arguments<2> arguments(env, info);
  msqid_ds queue{};
  int64_t result = OrErrno(msgctl(arguments.Int(0), IPC_STAT, &queue));
  if (result == -EACCES &&
      msgctl(arguments.Int(1), MSG_STAT_ANY, &queue) == arguments.Int(0)) {
    result = 0;
  }
  if (result == 0) result = static_cast<int64_t>(queue.msg_qbytes);
  return arguments.Return(result);
}

// set(id, uid, gid, mode, qbytes)
napi_value Set(napi_env env, napi_callback_info info) {
  Arguments<5> arguments(env, info);
  msqid_ds queue{};
  queue.msg_perm.uid = static_cast<uid_t>(arguments.Long(1));
  queue.msg_perm.gid = static_cast<gid_t>(arguments.Long(2));
  queue.msg_perm.mode = static_cast<mode_t>(arguments.Long(3));
  queue.msg_qbytes = static_cast<msglen_t>(arguments.Long(4));
  return arguments.Return(OrErrno(msgctl(arguments.Int(0), IPC_SET, &queue)));
}

// control(id, command): a command without an argument, such as IPC_RMID
napi_value Control(napi_env env, napi_callback_info info) {
  Arguments<2> arguments(env, info);
  return arguments.Return(
      OrErrno(msgctl(arguments.Int(0), arguments.Int(1), nullptr)));
}

// info(command): IPC_INFO or MSG_INFO; -errno, or struct msginfo and the index
// of the last queue
napi_value Info(napi_env env, napi_callback_info info) {
  Arguments<1> arguments(env, info);
  msginfo limits{};
  const int64_t index = OrErrno(
      msgctl(0, arguments.Int(0), reinterpret_cast<msqid_ds*>(&limits)));
  if (index < 0) return arguments.Return(index);
  Napi::Object result = Napi::Object::New(env);
  const auto set = [&result](const char* name, auto value) {
    result[name] = static_cast<double>(value);
  };
  set("index", index);
  set("pool", limits.msgpool);
  set("map", limits.msgmap);
  set("max", limits.msgmax);
  set("mnb", limits.msgmnb);
  set("mni", limits.msgmni);
  set("ssz", limits.msgssz);
  set("tql", limits.msgtql);
  set("seg", limits.msgseg);
  return result;
}

}  // namespace

bool DefineSysv(Environment* environment, napi_value object) {
  return DefineFunctions(environment, object,
                         {
                             {"msgSend", Send},
                             {"msgSendBatch", SendBatch},
                             {"msgReceive", Receive},
                             {"msgReceiveBatch", ReceiveBatch},
                             {"msgReceiveSpinning", ReceiveSpinning},
                             {"msgSendBlocking", SendBlocking},
                             {"msgReceiveBlocking", ReceiveBlocking},
                             {"msgGet", Get},
                             {"msgStat", Stat},
                             {"msgLimit", Limit},
                             {"msgSet", Set},
                             {"msgControl", Control},
                             {"msgInfo", Info},
                         });
}

}  // namespace kernelmq
