// What goes both ways and calls a function for each message that comes.

/**
 * @param post sends a message; returns a promise if it has to be waited for
 * @param listen sets the function that is called with each message
 */
export function duplexRoute(post, listen) {
  const receive = (total, onMessage) =>
    new Promise((resolve) => {
      listen((bytes) => {
        onMessage(bytes)
        if (--total === 0) resolve()
        return total
      })
    })
  return {
    async send(maker, total) {
      for (let i = 0; i < total; i++) {
        const full = post(maker.next())
        if (full !== undefined) await full
      }
    },
    receive: (checker, total) => receive(total, (bytes) => checker.check(bytes)),
    async ping(maker, checker, total) {
      const pongs = receive(total, (bytes) => {
        checker.check(bytes)
        if (checker.messages < total) post(maker.next())
      })
      post(maker.next())
      await pongs
    },
    pong: (maker, checker, total) =>
      receive(total, (bytes) => {
        checker.check(bytes)
        post(maker.next())
      }),
  }
}
