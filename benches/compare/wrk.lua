-- Prints what one run of wrk counted as one line of JSON, times in microseconds. There is no `request` or `response`
-- function on purpose: wrk then sends one prepared request and calls no Lua while it measures.
done = function(summary, latency)
  local e = summary.errors
  io.write(string.format(
    'RESULT {"requests": %.0f, "bytes": %.0f, "wall_us": %.0f, "p50_us": %.0f, "p99_us": %.0f, ' ..
    '"connect": %.0f, "read": %.0f, "write": %.0f, "timeout": %.0f, "status": %.0f}\n',
    summary.requests, summary.bytes, summary.duration, latency:percentile(50), latency:percentile(99),
    e.connect, e.read, e.write, e.timeout, e.status))
end
