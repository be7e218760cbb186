-- What wrk sends and what it says at the end; loadtest/wrk.py starts it:
--
--     wrk -t1 -c64 -d4 -s load.lua http://127.0.0.1:8000 -- FILE [FILE...]
--
-- Each FILE holds one whole HTTP request, head and body, sent as it is. With one FILE wrk keeps the bytes and never asks
-- Lua again. With several, they go out in turns, whatever the connection, which costs a call and a copy a request.

local texts = {}
local turn = 0

local function read(path)
   local file = assert(io.open(path, "rb"))
   local text = file:read("*a")
   file:close()
   return text
end

local function next_text()
   turn = turn % #texts + 1
   return texts[turn]
end

function init(args)
   for i = 1, #args do
      texts[i] = read(args[i])
   end
   wrk.format = function() return texts[1] end
   if #texts > 1 then
      request = next_text
   end
end

function done(summary, latency)
   local errors = summary.errors
   io.write(string.format(
      '\n{"answered": %d, "elapsed_us": %d, "received_bytes": %d, "p50_us": %d, "p99_us": %d, "max_us": %d, ' ..
      '"errors": {"connect": %d, "read": %d, "write": %d, "timeout": %d, "status": %d}}\n',
      summary.requests, summary.duration, summary.bytes,
      latency:percentile(50), latency:percentile(99), latency.max,
      errors.connect, errors.read, errors.write, errors.timeout, errors.status))
end
