// What every script begins with. The keys of a queue: a stream with one group for each priority, and beside them what is
// not in anybody's turn yet. See ARCHITECTURE.md, "The keys of redis:".

/** How often in a row a process is spared the time in which nobody was heard, if it says nothing between. */
const SPARED = 3

/** In each script: the names of keys, the time, and the moves that several of them make. */
export const prelude: string = `
local P, client = ARGV[1], tonumber(ARGV[2])
local call, G = redis.call, 'kmq'
local BACK, RETRY = '-back', '-retry'
local function server()
  local t = call('TIME')
  return t[1] * 1000 + math.floor(t[2] / 1000)
end
-- A clock of the caller's own rules; else the server's does, and times that were reckoned by another are moved to it.
local now = ARGV[3] == '1' and server() or client
local shift = now - client

-- At maxmemory a script is refused at its first write, if that one needs memory; after one that needs none it is not. Called
-- by what needs little, and without which nobody could take out what is there.
local function afford() call('DEL', P .. 'none') end

local function at(queue, part) return P .. 'q:' .. queue .. ':' .. part end
local function stream(queue, rank) return at(queue, 's' .. rank) end

local bells, rooms = {}, {}
local function ring(queue) bells[queue] = true end
local function ringAll()
  for queue in pairs(bells) do call('PUBLISH', P .. 'bell:' .. queue, '') end
  for queue in pairs(rooms) do
    if call('HEXISTS', at(queue, 'conf'), 'bounds') == 1 then call('PUBLISH', P .. 'room:' .. queue, '') end
  end
end

-- The stream of a priority, which is there then.
local streams = {}
local function enter(queue, rank)
  local known = streams[queue]
  if not known then
    known = {}
    streams[queue] = known
  end
  local name = known[rank]
  if name then return name end
  name = stream(queue, rank)
  known[rank] = name
  if call('ZADD', at(queue, 'ranks'), rank, rank) == 1 then
    call('SADD', P .. 'queues', queue)
    redis.pcall('XGROUP', 'CREATE', name, G, '0', 'MKSTREAM')
  end
  return name
end

local function ranksOf(queue) return call('ZREVRANGE', at(queue, 'ranks'), 0, -1) end

-- A message is one field: its head, which is a line of JSON, and its body.
local function add(queue, rank, message)
  call('XADD', enter(queue, rank), '*', 'kmq', message)
end

local function park(queue, rank, key, message)
  local place = call('HINCRBY', at(queue, 'conf'), 'place', 1)
  call('HSET', at(queue, 'parked'), place, cmsgpack.pack({ rank, key or false, message }))
  return place
end

local function unpark(queue, place)
  local packed = call('HGET', at(queue, 'parked'), place)
  call('HDEL', at(queue, 'parked'), place)
  return packed and cmsgpack.unpack(packed)
end

-- Behind another of its key, or at once.
local function join(queue, rank, key, message)
  if key and call('HSETNX', at(queue, 'keys'), key, 1) == 0 then
    call('RPUSH', at(queue, 'key:' .. key), park(queue, rank, key, message))
  else
    add(queue, rank, message)
  end
end

local function freeKey(queue, key)
  local place = call('LPOP', at(queue, 'key:' .. key))
  local next = place and unpark(queue, place)
  if next then
    add(queue, next[1], next[3])
    ring(queue)
  else
    call('HDEL', at(queue, 'keys'), key)
  end
end

local function put(queue, f, message)
  local rank, key, due = f.p or 0, f.k, f.d and f.d + shift or 0
  if due > now then
    enter(queue, rank)
    local place = park(queue, rank, key, message)
    call('ZADD', at(queue, 'later'), due, place)
  else
    join(queue, rank, key, message)
  end
  ring(queue)
end

local function headOf(fields)
  return fields[1] == 'kmq' and string.match(fields[2], '^[^\\n]*') or '{}'
end

-- Of one that somebody else has added it is a field that the caller has chosen.
local function bodyOf(fields, name)
  if fields[1] == 'kmq' then return string.sub(fields[2], (string.find(fields[2], '\\n', 1, true) or #fields[2]) + 1) end
  for i = 1, #fields, 2 do if fields[i] == name then return fields[i + 1] end end
  return ''
end

-- Attempts, losses, whether it is suspect, whether its handler has begun.
local function wearOf(queue, place)
  local text = call('HGET', at(queue, 'wear'), place)
  if not text then return { 0, 0, 0, 0 } end
  local wear = {}
  for n in string.gmatch(text, '%d+') do wear[#wear + 1] = tonumber(n) end
  return wear
end
local function setWear(queue, place, wear) call('HSET', at(queue, 'wear'), place, table.concat(wear, ':')) end

-- Entries of one priority, in few things to read: how they are called, each of them; how often they were handed out and
-- what is noted of them, if any of them was before. One that somebody else has added is its fields as JSON.
local function columns(rank, entries, times, wears)
  local ids, messages = {}, {}
  for i = 1, #entries do
    local e = entries[i]
    local f = e[2]
    ids[i], messages[i] = e[1], f[1] == 'kmq' and f[2] or cjson.encode(f)
  end
  return {
    rank, table.concat(ids, ','), messages,
    times and table.concat(times, ',') or '', wears and table.concat(wears, ',') or '',
  }
end

local function wearsOf(queue, rank, entries)
  local places = {}
  for i, e in ipairs(entries) do places[i] = rank .. ':' .. e[1] end
  local wears = call('HMGET', at(queue, 'wear'), unpack(places))
  for i = 1, #places do wears[i] = wears[i] or '' end
  return wears
end

local function unlimit(queue, place) call('ZREM', at(queue, 'lease'), '0:' .. place, '1:' .. place) end

-- To its old place, where the next who asks gets it; false if somebody has removed it, or its stream.
local function give(queue, rank, id)
  unlimit(queue, rank .. ':' .. id)
  local name = stream(queue, rank)
  local given = redis.pcall('XCLAIM', name, G, BACK, 0, id, 'JUSTID')
  -- Anything else fails as it would have.
  if given.err and not string.find(given.err, 'NOGROUP', 1, true) then call('XCLAIM', name, G, BACK, 0, id, 'JUSTID') end
  ring(queue)
  if #given > 0 then return true end
  call('HDEL', at(queue, 'wear'), rank .. ':' .. id)
  return false
end

-- What was lost alone, or had begun, has to answer for it; of the others it is not known.
local function lose(queue, rank, id, alone)
  local place = rank .. ':' .. id
  local wear = wearOf(queue, place)
  if alone or wear[4] == 1 then wear[2] = wear[2] + 1 end
  wear[3], wear[4] = 1, 0
  -- The first needs no memory; see afford().
  if give(queue, rank, id) then setWear(queue, place, wear) end
end

local function keyOf(head)
  local isOurs, fields = pcall(cjson.decode, head)
  return isOurs and type(fields) == 'table' and fields['kmq-key']
end

-- Somebody has removed the stream of a priority, or its group: what was behind one that went with it waits no more, and what
-- is not there has no bytes.
local function mend(queue, rank)
  afford()
  redis.pcall('XGROUP', 'CREATE', stream(queue, rank), G, '0', 'MKSTREAM')
  local first, bytes = {}, 0
  for _, one in ipairs(ranksOf(queue)) do
    local from = '-'
    repeat
      local entries = call('XRANGE', stream(queue, one), from, '+', 'COUNT', 100)
      for _, e in ipairs(entries) do
        local key = keyOf(headOf(e[2]))
        if key then first[key] = true end
        if e[2][1] == 'kmq' then bytes = bytes + #bodyOf(e[2]) end
        from = '(' .. e[1]
      end
    until #entries < 100
  end
  for _, packed in ipairs(call('HVALS', at(queue, 'parked'))) do
    bytes = bytes + #bodyOf({ 'kmq', cmsgpack.unpack(packed)[3] })
  end
  call('HSET', at(queue, 'conf'), 'bytes', bytes)
  for _, key in ipairs(call('HKEYS', at(queue, 'keys'))) do
    if not first[key] then freeKey(queue, key) end
  end
  rooms[queue] = true
end

local function drop(queue)
  for _, rank in ipairs(ranksOf(queue)) do call('DEL', stream(queue, rank)) end
  for _, key in ipairs(call('HKEYS', at(queue, 'keys'))) do call('DEL', at(queue, 'key:' .. key)) end
  for _, part in ipairs({ 'ranks', 'later', 'retry', 'lease', 'parked', 'keys', 'conf', 'wear', 'ids' }) do
    call('DEL', at(queue, part))
  end
  call('SREM', P .. 'queues', queue)
  for _, binding in ipairs(call('SMEMBERS', P .. 'bindings')) do
    if cjson.decode(binding)[2] == queue then call('SREM', P .. 'bindings', binding) end
  end
  call('PUBLISH', P .. 'room:' .. queue, '')
end

local function dropAll(queue)
  drop(queue)
  if call('SISMEMBER', P .. 'queues', queue .. '/dead') == 1 then drop(queue .. '/dead') end
end

-- Whom it had, in a group: the heir gets what it is known to hold, the others go back.
local function scatter(consumer, isLost, held, heir)
  local queues, places = call('SMEMBERS', P .. 'c:' .. consumer), {}
  for _, queue in ipairs(queues) do
    for _, rank in ipairs(ranksOf(queue)) do
      local name, from = stream(queue, rank), '-'
      repeat
        local pending = redis.pcall('XPENDING', name, G, from, '+', 500, consumer)
        if pending.err then pending = {} end
        for _, one in ipairs(pending) do
          places[#places + 1] = { queue, rank, one[1] }
          from = '(' .. one[1]
        end
      until #pending < 500
    end
  end
  for _, place in ipairs(places) do
    local queue, rank, id = place[1], place[2], place[3]
    if held and held[queue .. '/' .. rank .. ':' .. id] then
      call('XCLAIM', stream(queue, rank), G, heir, 0, id, 'JUSTID')
    elseif isLost then lose(queue, rank, id, #places == 1)
    else give(queue, rank, id) end
  end
  for _, queue in ipairs(queues) do
    for _, rank in ipairs(ranksOf(queue)) do redis.pcall('XGROUP', 'DELCONSUMER', stream(queue, rank), G, consumer) end
    if heir then call('SADD', P .. 'c:' .. heir, queue) end
  end
  call('DEL', P .. 'c:' .. consumer)
  call('ZREM', P .. 'alive', consumer)
  call('HDEL', P .. 'spared', consumer)
  if heir and call('EXISTS', P .. 'b:' .. consumer) == 1 then call('RENAME', P .. 'b:' .. consumer, P .. 'b:' .. heir) end
  for _, queue in ipairs(call('SMEMBERS', P .. 'b:' .. consumer)) do dropAll(queue) end
  call('DEL', P .. 'b:' .. consumer)
end

-- When somebody was heard. In a time in which nobody was, the server was away, or all were: for nobody did it pass. Whoever
-- lives says so as soon as it is there again: who did not after ${SPARED} such times is spared no more. Where the clock was set
-- back, nobody lives for longer by that.
local function hear(t, ttl)
  afford()
  local gap = t - tonumber(call('GET', P .. 'beat') or t)
  call('SET', P .. 'beat', t)
  if gap >= 0 and gap <= ttl / 2 then return end
  for _, one in ipairs(call('ZRANGE', P .. 'alive', 0, -1)) do
    if gap < 0 or call('HINCRBY', P .. 'spared', one, 1) <= ${SPARED} then call('ZINCRBY', P .. 'alive', gap, one) end
  end
end

-- What is bound and bounded here was bound and bounded since it was there: a server that has lost that has another.
local function mark(new)
  call('SETNX', P .. 'mark', new)
  return call('GET', P .. 'mark')
end

local function isGone(queue) return string.sub(queue, 1, 9) == 'borrowed/' and call('SISMEMBER', P .. 'queues', queue) == 0 end

local function isWhole(queue)
  local whole = true
  for _, rank in ipairs(ranksOf(queue)) do
    if redis.pcall('XPENDING', stream(queue, rank), G).err then
      mend(queue, rank)
      whole = false
    end
  end
  return whole
end

local function count(queue)
  local n = call('HLEN', at(queue, 'parked'))
  for _, rank in ipairs(ranksOf(queue)) do n = n + call('XLEN', stream(queue, rank)) end
  return n
end

local function sizeOf(fields) return #bodyOf(fields) end

-- The oldest of the lowest priority that nobody has, until there is room for what is beyond the bounds.
local function victims(queue, messages, bytes)
  local found, ranks = {}, ranksOf(queue)
  for r = #ranks, 1, -1 do
    local name, rank = stream(queue, ranks[r]), ranks[r]
    local function take(entries)
      for _, e in ipairs(entries) do
        if messages <= 0 and bytes <= 0 then return end
        found[#found + 1] = { rank, e[1], sizeOf(e[2]), headOf(e[2]) }
        messages, bytes = messages - 1, bytes - sizeOf(e[2])
      end
    end
    for _, p in ipairs(call('XPENDING', name, G, '-', '+', 1000, BACK)) do take(call('XRANGE', name, p[1], p[1])) end
    local last = '0-0'
    local group = call('XINFO', 'GROUPS', name)[1] or {}
    for i = 1, #group, 2 do if group[i] == 'last-delivered-id' then last = group[i + 1] end end
    while messages > 0 or bytes > 0 do
      local entries = call('XRANGE', name, '(' .. last, '+', 'COUNT', 100)
      if #entries == 0 then break end
      take(entries)
      last = entries[#entries][1]
    end
  end
  return (messages <= 0 and bytes <= 0) and found or nil
end

local function lines(text)
  local all = {}
  for line in string.gmatch(text, '[^\\n]+') do all[#all + 1] = line end
  return all
end

-- How far so much more is beyond the bounds: messages, bytes, and what is said of it.
local function beyond(queue, messages, bytes)
  local conf = call('HMGET', at(queue, 'conf'), 'maxMessages', 'maxBytes', 'bytes')
  local maxMessages, maxBytes = tonumber(conf[1] or 0), tonumber(conf[2] or 0)
  if messages == 0 or (maxMessages == 0 and maxBytes == 0) then return 0, 0 end
  local all, sum = count(queue) + messages, tonumber(conf[3] or 0) + bytes
  local over = maxMessages > 0 and all - maxMessages or 0
  local heavy = maxBytes > 0 and sum - maxBytes or 0
  return over, heavy, { 'full', queue, all, maxMessages, sum, maxBytes, messages, bytes }
end

-- From argument 'from' on: how many queues, and of each its name, the bytes of all bodies, how many messages, what is to
-- be known of each, in lines, if there is anything, and the messages, each behind its length. All or nothing: which of them
-- are duplicates, by their places, or what is full.
local function send(from, overflow)
  local groups = {}
  for g = 1, tonumber(ARGV[from]) do
    local i = from + 5 * g - 4
    local queue, n, flags = ARGV[i], tonumber(ARGV[i + 2]), lines(ARGV[i + 3])
    local group = { queue = queue, n = n, flags = flags, messages = ARGV[i + 4], gone = isGone(queue), doubles = {} }
    groups[g] = group
    local messages, bytes, ids = n, tonumber(ARGV[i + 1]), {}
    for m = 1, #flags do
      local f = cjson.decode(flags[m])
      flags[m] = f
      if f.i then
        local limit = ids[f.i] and now + 1 or tonumber(call('ZSCORE', at(queue, 'ids'), f.i) or now)
        if limit > now then
          group.doubles[m] = true
          messages, bytes = messages - 1, bytes - f.b
        end
        ids[f.i] = true
      end
    end
    group.bytes = bytes
    local over, heavy, full = beyond(queue, messages, bytes)
    if (over > 0 or heavy > 0) and not isWhole(queue) then over, heavy, full = beyond(queue, messages, bytes) end
    if over > 0 or heavy > 0 then
      group.victims = overflow == 'drop-oldest' and victims(queue, over, heavy)
      if not group.victims then return full end
    end
  end
  local receipts, place = { 'sent' }, -1
  for _, group in ipairs(groups) do
    local queue = group.queue
    for _, v in ipairs(group.victims or {}) do
      call('XACK', stream(queue, v[1]), G, v[2])
      call('XDEL', stream(queue, v[1]), v[2])
      call('HDEL', at(queue, 'wear'), v[1] .. ':' .. v[2])
      group.bytes = group.bytes - v[3]
      local key = keyOf(v[4])
      if key then freeKey(queue, key) end
    end
    local messages, from, message = group.messages, 1, nil
    if not group.gone and #group.flags == 0 then
      local name = enter(queue, 0)
      for m = 1, group.n do
        message, from = struct.unpack('<I4c0', messages, from)
        call('XADD', name, '*', 'kmq', message)
      end
      ring(queue)
    elseif not group.gone then
      for m = 1, group.n do
        message, from = struct.unpack('<I4c0', messages, from)
        local f = group.flags[m]
        if group.doubles[m] then receipts[#receipts + 1] = place + m
        else
          if f.i then
            -- Two go for one that comes: what is remembered does not grow beyond the window.
            for _, old in ipairs(call('ZRANGEBYSCORE', at(queue, 'ids'), '-inf', now, 'LIMIT', 0, 2)) do
              call('ZREM', at(queue, 'ids'), old)
            end
            call('ZADD', at(queue, 'ids'), now + f.w, f.i)
          end
          put(queue, f, message)
        end
      end
    end
    place = place + group.n
    if not group.gone and group.bytes ~= 0 then call('HINCRBY', at(queue, 'conf'), 'bytes', group.bytes) end
  end
  return receipts
end
`
