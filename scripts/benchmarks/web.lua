-- What wrk asks for in the bench "web": the addresses of a file, one a line, each in its turn.

local addresses = {}
for line in io.lines(os.getenv("BENCH_ADDRESSES")) do
  addresses[#addresses + 1] = line
end
local place = 0

wrk.headers["Accept-Encoding"] = "gzip"

function request()
  place = place % #addresses + 1
  return wrk.format("GET", addresses[place])
end

function done(summary, latency, requests)
  local failed = summary.errors
  io.write(string.format(
    '{"requests":%d,"bytes":%d,"microseconds":%d,"median":%.0f,"p95":%.0f,"most":%.0f,' ..
    '"refused":%d,"broken":%d}\n',
    summary.requests, summary.bytes, summary.duration,
    latency:percentile(50), latency:percentile(95), latency.max,
    failed.status, failed.connect + failed.read + failed.write + failed.timeout))
end
