// What the server does in one step.
import { prelude } from './prelude.ts'

const bodies = {
  /** overflow, then what {@link prelude}'s send() reads. */
  send: `
local receipts = send(5, ARGV[4])
ringAll()
return receipts`,

  /** queue, consumer, max, the limit of the lease in milliseconds or nothing. */
  claim: `
local queue, consumer, max, limit = ARGV[4], ARGV[5], tonumber(ARGV[6]), ARGV[7]
if not call('ZSCORE', P .. 'alive', consumer) then return { 'gone' } end
-- When the first of them is due.
local function firstOf(part) return tonumber(call('ZRANGE', at(queue, part), 0, 0, 'WITHSCORES')[2]) end
local function dueOf(part)
  local first = firstOf(part)
  return first and first <= now and call('ZRANGEBYSCORE', at(queue, part), '-inf', now, 'LIMIT', 0, 500) or {}
end
for _, place in ipairs(dueOf('later')) do
  call('ZREM', at(queue, 'later'), place)
  local p = unpark(queue, place)
  if p then join(queue, p[1], p[2], p[3]) end
end
for _, place in ipairs(dueOf('retry')) do
  call('ZREM', at(queue, 'retry'), place)
  local rank, id = string.match(place, '(%d+):(.+)')
  give(queue, rank, id)
end
for _, place in ipairs(dueOf('lease')) do
  local alone, rank, id = string.match(place, '(%d):(%d+):(.+)')
  lose(queue, rank, id, alone == '1')
end
if isGone(queue) then return { 'dropped' } end
local ranks = ranksOf(queue)
if #ranks == 0 then
  afford()
  enter(queue, 0)
  ranks = { '0' }
end
local out, taken = {}, 0
for _, rank in ipairs(ranks) do
  if taken == max then break end
  local name = stream(queue, rank)
  local back = redis.pcall('XPENDING', name, G, '-', '+', max - taken, BACK)
  if back.err then
    mend(queue, rank)
    ringAll()
    back = {}
  end
  if #back > 0 then
    local wanted, count, entries, times = {}, {}, {}, {}
    for i, p in ipairs(back) do wanted[i], count[p[1]] = p[1], p[4] + 1 end
    for _, e in ipairs(call('XCLAIM', name, G, consumer, 0, unpack(wanted))) do
      if e then
        entries[#entries + 1] = e
        times[#times + 1] = count[e[1]]
      end
    end
    if #entries > 0 then
      out[#out + 1] = columns(rank, entries, times, wearsOf(queue, rank, entries))
      taken = taken + #entries
    end
  end
  local read = taken < max and call('XREADGROUP', 'GROUP', G, consumer, 'COUNT', max - taken, 'STREAMS', name, '>')
  if read then
    out[#out + 1] = columns(rank, read[1][2])
    taken = taken + #read[1][2]
  end
end
-- Since 7.2 it is a consumer there as soon as it has asked, which is to go with it.
call('SADD', P .. 'c:' .. consumer, queue)
if taken == 0 then
  local first
  for _, part in ipairs({ 'later', 'retry', 'lease' }) do
    local one = firstOf(part)
    if one and (not first or one < first) then first = one end
  end
  -- What was promoted may have come to nothing: then there is nothing to wait for.
  return { 'none', first and tostring(math.max(first - now, 0)) or '' }
end
if limit ~= '' then
  for _, chunk in ipairs(out) do
    for id in string.gmatch(chunk[2], '[^,]+') do
      call('ZADD', at(queue, 'lease'), now + tonumber(limit), (taken == 1 and '1:' or '0:') .. chunk[1] .. ':' .. id)
    end
  end
end
return { 'some', out }`,

  /**
   * consumer, whether it is a repetition, how many groups of acknowledgements; of each its queue, priority, bytes,
   * the lines of their entries; then how many others in JSON; then, of an acknowledgement that sends, what send() reads.
   * Whether each group was held, and each of the others.
   */
  settle: `
local consumer, again, i = ARGV[4], ARGV[5] == '1', 7
local alive = call('ZSCORE', P .. 'alive', consumer) and true or false
local out = {}
local function size(queue, bytes) if bytes ~= 0 then call('HINCRBY', at(queue, 'conf'), 'bytes', 0 - bytes) end end
-- All that is older than the oldest that is pending was acknowledged: to cut that off is cheaper than to remove each.
local function discard(name, ids)
  if #ids >= 16 then
    local oldest = call('XPENDING', name, G)[2]
    if oldest and call('XTRIM', name, 'MINID', '=', oldest) == #ids then return end
  end
  call('XDEL', name, unpack(ids))
end
for g = 1, tonumber(ARGV[6]) do
  local queue, rank, bytes, ids = ARGV[i], ARGV[i + 1], tonumber(ARGV[i + 2]), lines(ARGV[i + 3])
  -- As long as its consumer is thought to live nobody takes anything from it: they are all there, or their stream is not;
  -- what a server has forgotten that it had handed out is done all the same, and would be there for ever.
  local gone = alive and call('XACK', stream(queue, rank), G, unpack(ids)) or 0
  if gone > 0 then
    discard(stream(queue, rank), ids)
    size(queue, bytes)
    rooms[queue] = true
  end
  out[g] = alive and (again or gone > 0) and 1 or 0
  i = i + 4
end
local function remove(s)
  local place = s.r .. ':' .. s.id
  unlimit(s.q, place)
  call('HDEL', at(s.q, 'wear'), place)
  call('XACK', stream(s.q, s.r), G, s.id)
  call('XDEL', stream(s.q, s.r), s.id)
  size(s.q, s.b)
  rooms[s.q] = true
  if s.k then freeKey(s.q, s.k) end
end
local n = tonumber(ARGV[i])
for o = 1, n do
  local s = cjson.decode(ARGV[i + o])
  local name, place = stream(s.q, s.r), s.r .. ':' .. s.id
  local pending = redis.pcall('XPENDING', name, G, s.id, s.id, 1)[1]
  local mine = alive and pending and pending[2] == consumer and pending[4] == s.t
  if s.o ~= 'ack' then afford() end
  local token = P .. 'done:' .. s.q .. ':' .. place .. ':' .. s.t
  if not mine then
    local before = again and (s.send and call('EXISTS', token) == 1 or (not s.send and alive and not s.l))
    out[#out + 1] = before and 1 or 0
  elseif s.o == 'ack' then
    -- What sends needs the memory that all sends need.
    if s.send then
      local sent = send(i + n + 1, 'reject')
      if sent[1] == 'full' then return sent end
      call('SET', token, '', 'EX', 600)
    end
    remove(s)
    out[#out + 1] = 1
  elseif s.o == 'dead' then
    local entry = call('XRANGE', name, s.id, s.id)[1]
    if entry then
      local body = bodyOf(entry[2], s.f)
      add(s.dq, 0, s.m .. '\\n' .. body)
      size(s.dq, 0 - #body)
      ring(s.dq)
    end
    remove(s)
    out[#out + 1] = 1
  elseif s.o == 'retry' then
    -- What has nothing to be noted stays without a note.
    if s.c > 0 or s.w then
      local wear = wearOf(s.q, place)
      wear[1], wear[3], wear[4] = wear[1] + s.c, 0, 0
      setWear(s.q, place, wear)
    end
    if s.d == 0 or s.d + shift <= now then give(s.q, s.r, s.id)
    else
      unlimit(s.q, place)
      call('XCLAIM', name, G, RETRY, 0, s.id, 'JUSTID')
      call('ZADD', at(s.q, 'retry'), s.d + shift, place)
      ring(s.q)
    end
    out[#out + 1] = 1
  elseif s.o == 'begin' then
    local wear = wearOf(s.q, place)
    wear[4] = 1
    setWear(s.q, place, wear)
    out[#out + 1] = 1
  else
    call('ZADD', at(s.q, 'lease'), s.d + shift, s.a .. ':' .. place)
    ring(s.q)
    out[#out + 1] = 1
  end
end
ringAll()
return out`,

  /** consumer, how long it is thought to live without a word, whether it is new. Who said nothing for too long is no more. */
  beat: `
local consumer, ttl, t = ARGV[4], tonumber(ARGV[5]), server()
hear(t, ttl)
if ARGV[6] ~= '1' and not call('ZSCORE', P .. 'alive', consumer) then return 0 end
call('ZADD', P .. 'alive', t + ttl, consumer)
call('HDEL', P .. 'spared', consumer)
for _, dead in ipairs(call('ZRANGEBYSCORE', P .. 'alive', '-inf', t, 'LIMIT', 0, 5)) do scatter(dead, true) end
ringAll()
return 1`,

  /** consumer, its next name or nothing, how long one is thought to live, what it holds, in JSON. */
  renew: `
local consumer, heir = ARGV[4], ARGV[5] ~= '' and ARGV[5]
hear(server(), tonumber(ARGV[6]))
if heir and call('ZSCORE', P .. 'alive', heir) then return 1 end
if not call('ZSCORE', P .. 'alive', consumer) then return 0 end
if heir then call('ZADD', P .. 'alive', server() + tonumber(ARGV[6]), heir) end
scatter(consumer, false, heir and cjson.decode(ARGV[7]), heir)
ringAll()
return 1`,

  /** queue, messages, bytes, a new mark; the mark that there is. */
  declare: `
local queue = ARGV[4]
afford()
enter(queue, 0)
call('HSET', at(queue, 'conf'), 'maxMessages', ARGV[5], 'maxBytes', ARGV[6], 'bounds', 1)
call('PUBLISH', P .. 'room:' .. queue, '')
return mark(ARGV[7])`,

  /** queue, consumer. */
  borrow: `
if not call('ZSCORE', P .. 'alive', ARGV[5]) then return 0 end
afford()
call('SADD', P .. 'b:' .. ARGV[5], ARGV[4])
enter(ARGV[4], 0)
return 1`,

  /** queue, consumer. */
  drop: `
dropAll(ARGV[4])
for _, whose in ipairs({ 'b:', 'c:' }) do call('SREM', P .. whose .. ARGV[5], ARGV[4]) end`,

  /** queue, the binding in JSON, a new mark; the mark that there is. */
  bind: `
if not isGone(ARGV[4]) then
  afford()
  enter(ARGV[4], 0)
  call('SADD', P .. 'bindings', ARGV[5])
end
return mark(ARGV[6])`,

  /** the binding in JSON. */
  unbind: `call('SREM', P .. 'bindings', ARGV[4])`,

  /** a new mark; the mark that there is. */
  mark: `
afford()
return mark(ARGV[4])`,

  queues: `return call('SMEMBERS', P .. 'queues')`,

  bindings: `return call('SMEMBERS', P .. 'bindings')`,

  /** queue. */
  stats: `
local queue, total, taken, back, retrying, first = ARGV[4], 0, 0, 0, 0, {}
for _, rank in ipairs(ranksOf(queue)) do
  local name = stream(queue, rank)
  total = total + call('XLEN', name)
  local pending = redis.pcall('XPENDING', name, G)
  if not pending.err then
    taken = taken + pending[1]
    for _, c in ipairs(pending[4] or {}) do
      if c[1] == BACK then back = back + c[2] elseif c[1] == RETRY then retrying = retrying + c[2] end
    end
    local one = call('XPENDING', name, G, '-', '+', 1, BACK)[1]
    local entry = one and call('XRANGE', name, one[1], one[1])[1]
    if not entry then
      local group = call('XINFO', 'GROUPS', name)[1] or {}
      local last = '0-0'
      for i = 1, #group, 2 do if group[i] == 'last-delivered-id' then last = group[i + 1] end end
      entry = call('XRANGE', name, '(' .. last, '+', 'COUNT', 1)[1]
    end
    if entry then first[#first + 1] = { entry[1], headOf(entry[2]) } end
  end
end
local later, parked = call('ZCARD', at(queue, 'later')), call('HLEN', at(queue, 'parked'))
local leased = taken - back - retrying
local bytes = call('HGET', at(queue, 'conf'), 'bytes') or '0'
return { total - leased - retrying, leased, later + retrying, parked - later, bytes, first }`,

  /** queue, max, from which priority, after which entry. */
  browse: `
local queue, left, after, from, out = ARGV[4], tonumber(ARGV[5]), tonumber(ARGV[6]), ARGV[7], {}
for _, rank in ipairs(ranksOf(queue)) do
  local r = tonumber(rank)
  if r <= after and left > 0 then
    local start = r == after and from ~= '' and '(' .. from or '-'
    local entries = call('XRANGE', stream(queue, rank), start, '+', 'COUNT', left)
    if #entries > 0 then out[#out + 1] = columns(rank, entries, nil, wearsOf(queue, rank, entries)) end
    left = left - #entries
  end
end
return out`,

  /** prefix. */
  entries: `
local keys, out = call('ZRANGEBYLEX', P .. 'note', '[' .. ARGV[4], '(' .. ARGV[4] .. string.char(255)), {}
for _, key in ipairs(keys) do
  local limit = call('ZSCORE', P .. 'note:until', key)
  if not limit or tonumber(limit) > now then
    out[#out + 1] = key
    out[#out + 1] = call('HGET', P .. 'note:value', key)
  end
end
return out`,

  /** key, value, whether there is one, until; then what send() reads. */
  put: `
local key = ARGV[4]
local sent = send(8, 'reject')
if sent[1] == 'full' then return sent end
local function forget(one)
  call('ZREM', P .. 'note', one)
  call('ZREM', P .. 'note:until', one)
  call('HDEL', P .. 'note:value', one)
end
for _, old in ipairs(call('ZRANGEBYSCORE', P .. 'note:until', '-inf', now, 'LIMIT', 0, 2)) do forget(old) end
forget(key)
if ARGV[6] == '1' then
  call('ZADD', P .. 'note', 0, key)
  call('HSET', P .. 'note:value', key, ARGV[5])
  if ARGV[7] ~= '0' then call('ZADD', P .. 'note:until', tonumber(ARGV[7]) + shift, key) end
end
ringAll()
return sent`,
} as const

export type ScriptName = keyof typeof bodies

export const scripts = Object.fromEntries(
  Object.entries(bodies).map(([name, body]) => [name, { lua: prelude + body, numberOfKeys: 0 }]),
) as Record<ScriptName, { lua: string; numberOfKeys: number }>
