// kernelmq/syscalls: the mq_* calls one to one. The result is a value or a
// negative errno; nothing is thrown for an errno, nothing waits on the loop.
import { constants } from 'node:os'
import {
  MQ_PRIO_MAX,
  mqClose,
  mqGetattr,
  mqOpen,
  mqReceive,
  mqSend,
  mqSetattr,
  mqTimedreceive,
  mqUnlink,
  O_CREAT,
  O_NONBLOCK,
  O_RDWR,
  POLLIN,
  poll,
} from 'kernelmq/syscalls'

const name = `/example-${process.pid}`
const fd = mqOpen(name, O_CREAT | O_RDWR, 0o600, { maxmsg: 2, msgsize: 64 })
if (fd < 0) throw new Error(`mq_open failed with errno ${-fd}`)
try {
  console.log('attributes:', mqGetattr(fd))
  console.log('send:', mqSend(fd, Buffer.from('hello'), MQ_PRIO_MAX - 1))
  console.log('poll says readable:', poll(fd, POLLIN, 0) === POLLIN)

  const buffer = Buffer.alloc(64)
  const priority = new Uint32Array(1)
  const length = mqReceive(fd, buffer, priority)
  console.log(`receive: ${length} bytes, '${buffer.toString('utf8', 0, length)}', priority ${priority[0]}`)

  // Deadlines are points in time, as in C: this one was 20 ms after now.
  const deadline = Date.now() + 20
  const late = mqTimedreceive(fd, buffer, priority, {
    sec: Math.floor(deadline / 1000),
    nsec: (deadline % 1000) * 1e6,
  })
  console.log('with a deadline: -ETIMEDOUT?', late === -constants.errno.ETIMEDOUT)

  mqSetattr(fd, { flags: O_NONBLOCK })
  console.log('without waiting: -EAGAIN?', mqReceive(fd, buffer) === -constants.errno.EAGAIN)
  console.log('too long: -EMSGSIZE?', mqSend(fd, Buffer.alloc(65)) === -constants.errno.EMSGSIZE)
} finally {
  console.log('close:', mqClose(fd))
  console.log('unlink:', mqUnlink(name))
}
