// What senders and receivers wrote down before they were killed, and whether it fits together.

/**
 * @param confirmed for each sender the numbers whose send had returned
 * @param received for each receiver, in order, what it received: `{ source, number }`, or undefined if it was torn
 * @param inHand for each receiver how many messages it may have held, unwritten, when it was killed
 * @returns what is wrong, in words, and how many confirmed messages are lost
 */
export function judge({ confirmed, received, inHand }) {
  const wrong = []
  const seen = new Map()
  for (const [receiver, messages] of received.entries()) {
    const last = new Map()
    for (const message of messages) {
      if (message === undefined) {
        wrong.push(`receiver ${receiver} had a torn message`)
        continue
      }
      const { source, number } = message
      const numbers = seen.get(source) ?? new Set()
      seen.set(source, numbers)
      if (numbers.has(number)) wrong.push(`message ${number} of sender ${source} came twice`)
      numbers.add(number)
      if (number <= (last.get(source) ?? -1)) wrong.push(`message ${number} of sender ${source} came out of order`)
      last.set(source, number)
    }
  }
  let lost = 0
  for (const [source, numbers] of confirmed) {
    for (const number of numbers) if (!seen.get(source)?.has(number)) lost++
  }
  const held = inHand.reduce((sum, most) => sum + most, 0)
  if (lost > held) wrong.push(`${lost} confirmed messages are lost, but killed receivers held ${held} at most`)
  return { wrong, lost }
}
