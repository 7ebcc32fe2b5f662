// A System V queue: types instead of priorities, and each receive says which it
// wants. Looking at messages without taking them, and what the queue tells.
import { SysvQueue } from 'kernelmq'

const queue = SysvQueue.open('private', { maxBytes: 4096 })
const put = () =>
  queue.trySendMany([
    { data: 'mail', type: 3 },
    { data: 'call', type: 1 },
    { data: 'post', type: 3 },
    { data: 'chat', type: 2 },
  ])
const take = (selection) =>
  queue
    .tryReceiveMany(10, selection)
    .map((message) => message.text())
    .join(' ')

try {
  put()
  console.log('in the queue, and still there:', [...queue.browse()].map((message) => message.text()).join(' '))
  console.log('the first of all:', queue.peek(0).text())
  console.log('any type, oldest first:', take())
  put()
  console.log('of type 3:', take({ type: 3 }))
  console.log('then the rest:', take())
  put()
  console.log('up to type 2, lowest first:', take({ type: -2 }))
  console.log('then the rest:', take())
  put()
  console.log('all but type 3:', take({ type: 3, except: true }))

  // Who waits for one type is not disturbed by the others.
  const [late, other] = [queue.receive({ type: 7 }), queue.receive({ type: 8 })]
  await queue.sendMany([
    { data: 'for 8', type: 8 },
    { data: 'for 7', type: 7 },
  ])
  console.log('waited for:', (await late).text(), 'and', (await other).text())

  queue.set({ mode: 0o660 })
  const { messages, bytes, maxBytes, mode } = queue.stat()
  console.log(`messages: ${messages}, bytes: ${bytes} of ${maxBytes}, mode: ${mode.toString(8)}`)
  const ids = (await SysvQueue.list()).map(({ id }) => id)
  console.log('listed:', ids.includes(queue.id))
} finally {
  // close() only lets go: without this the queue would be there until the next boot.
  queue.remove()
}
