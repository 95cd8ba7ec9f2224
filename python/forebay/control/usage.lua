-- The token counts of a model's answer, into dynamic metadata; the answer itself is streamed on, never collected.
-- Owns: where an answer's `usage` object is, and which event of a stream only carries it. It reads no number.
-- Must not know: requests, prices, the gateway. On failure: bytes pass on untouched and nothing is noted.

local NAMESPACE = "forebay.usage"
local MAX_USAGE_BYTES = 2048
-- An event, or the end of a body, in which usage is looked for; what is longer passes on unread.
local MAX_TEXT_BYTES = 65536

local LF, CR, QUOTE, BACKSLASH, OPEN, CLOSE = 10, 13, 34, 92, 123, 125
local USAGE, CHOICES = '"usage"', '"choices"'
local OBJECT, EMPTY_LIST = "^%s*:%s*{", "^%s*:%s*%[%s*%]"
local FINISHED = '"finish_reason"%s*:%s*"'
local LISTED = '"choices"%s*:%s*%[%s*[^%s%]]'
-- Whatever is not in it may not stand in a protobuf string, or has no place among numbers.
local NOT_PLAIN = "[^ -~\t\n\r]"
-- An object that is the last member of the outermost one.
local LAST_MEMBER = "^(%b{})%s*}%s*$"

local byte, find, gmatch, lower = string.byte, string.find, string.gmatch, string.lower
local concat, match, sub = table.concat, string.match, string.sub

local function note(handle, key, value)
  handle:streamInfo():dynamicMetadata():set(NAMESPACE, key, value)
end

-- How many more braces close than open from `from` to `to`, outside of strings; `from` itself is outside of one.
-- A loop over bytes, because LuaJIT compiles it; patterns are not compiled.
local function closings(text, from, to)
  local net, quoted, at = 0, false, from
  while at <= to do
    local char = byte(text, at)
    if quoted then
      if char == BACKSLASH then
        at = at + 1
      elseif char == QUOTE then
        quoted = false
      end
    elseif char == QUOTE then
      quoted = true
    elseif char == OPEN then
      net = net - 1
    elseif char == CLOSE then
      net = net + 1
    end
    at = at + 1
  end
  return net
end

-- Where the value of the last member `key` begins or ends (as `value` matches it) that stands at most `deepest` objects
-- deep, and how deep. Told by the braces behind it, so that the text may lack its beginning. A quoted key without a
-- backslash before it is a whole JSON string, never a part of one: in a part the quotes are escaped.
local function member(text, key, value, deepest)
  local ends, count = {}, 0
  local at, last = find(text, key, 1, true)
  while at do
    if byte(text, at - 1) ~= BACKSLASH then
      local _, stop = find(text, value, last + 1)
      if stop then
        count = count + 1
        ends[count] = stop
      end
    end
    at, last = find(text, key, last + 1, true)
  end
  local depth, to = 0, #text
  for i = count, 1, -1 do
    depth = depth + closings(text, ends[i], to)
    if depth >= 1 and depth <= deepest then
      return ends[i], depth
    end
    to = ends[i] - 1
  end
  return nil
end

local function has_usage(text, from)
  local at, last = find(text, USAGE, from, true)
  while at do
    if find(text, OBJECT, last + 1) then
      return at
    end
    at, last = find(text, USAGE, last + 1, true)
  end
  return nil
end

-- The raw text of the last `usage` object that stands at most `deepest` objects deep, and how deep; or nil.
local function usage_of(text, deepest)
  local at, last = find(text, USAGE, 1, true)
  if not at then
    return nil
  end
  local later, stop = find(text, USAGE, last + 1, true)
  while later do
    at, last = later, stop
    later, stop = find(text, USAGE, last + 1, true)
  end
  -- Where nearly all servers write it; anything else is counted out.
  local _, open = find(text, OBJECT, last + 1)
  if open and byte(text, at - 1) ~= BACKSLASH then
    local _, _, object = find(text, LAST_MEMBER, open)
    if object then
      return object, 1
    end
  end
  local begin, depth = member(text, USAGE, OBJECT, deepest)
  if not begin then
    return nil
  end
  local _, _, object = find(text, "^(%b{})", begin)
  return object or "", depth
end

local function note_usage(handle, key, usage)
  if #usage > 0 and #usage <= MAX_USAGE_BYTES and not find(usage, NOT_PLAIN) then
    note(handle, key, usage)
  else
    note(handle, "bad", "1")
  end
end

-- === one event ===

local function data_of(block)
  local feed = find(block, "\n", 1, true)
  if feed == #block - 1 and sub(block, 1, 5) == "data:" then
    return sub(block, 6, feed - 1)
  end
  local lines, count = {}, 0
  for line in gmatch(block, "[^\r\n]+") do
    if sub(line, 1, 5) == "data:" then
      count = count + 1
      lines[count] = sub(line, 6)
    end
  end
  return count == 1 and lines[1] or concat(lines, "\n")
end

local function is_type(data, begins, pattern)
  return find(data, begins, 1, true) and find(data, pattern)
end

-- Notes the usage of an event. Returns whether it is OpenAI's extra event, which carries nothing else.
local function read_event(handle, block)
  local data = data_of(block)
  local key, deepest = "last", 1
  if is_type(data, '"message_start"', '"type"%s*:%s*"message_start"') then
    key, deepest = "start", 2
  elseif is_type(data, '"response.', '"type"%s*:%s*"response%.') then
    deepest = 2
  end
  local usage, depth = usage_of(data, deepest)
  if not usage then
    return false
  end
  local extra = depth == 1 and member(data, CHOICES, EMPTY_LIST, 1) ~= nil
  if depth == 1 and not extra and find(data, CHOICES, 1, true) and not find(data, FINISHED) then
    -- In every event: of the whole answer only once it says that it is over.
    key = "so_far"
  elseif depth == 1 then
    key = "last"
  end
  note_usage(handle, key, usage)
  return extra
end

-- === a stream of events ===

local function is_break(char)
  return char == LF or char == CR
end

-- Whether an event ends between these two bytes: an empty line, whose breaks are CRLF, CR or LF.
local function is_blank(before, char)
  return (char == LF and before == LF) or (char == CR and is_break(before))
end

local function ends_event(text)
  local before, char = byte(text, -2, -1)
  return is_blank(before, char) or (char == LF and before == CR and is_break(byte(text, -3)))
end

-- The last byte of the first event that ends behind `from`, or nil.
local function first_end(text, from)
  for at = from + 1, #text do
    local char = byte(text, at)
    if (char == LF or char == CR) and is_blank(byte(text, at - 1), char) then
      return char == CR and byte(text, at + 1) == LF and at + 1 or at
    end
  end
  return nil
end

-- The last byte of the last event that ends in the text; 0: none does.
local function last_end(text)
  if ends_event(text) then
    return #text
  end
  if not find(text, "\n", 1, true) and not find(text, "\r", 1, true) then
    return 0
  end
  for at = #text, 2, -1 do
    local char = byte(text, at)
    if (char == LF or char == CR) and is_blank(byte(text, at - 1), char) then
      return char == CR and byte(text, at + 1) == LF and at + 1 or at
    end
  end
  return 0
end

local function has_data(text)
  return find(text, "data:", 1, true) and (find(text, "^data:") or find(text, "[\r\n]data:"))
end

-- Whether an unfinished event may still turn out to be the one that is dropped.
local function may_be_dropped(text)
  local _, last = find(text, "^data: *")
  if not last then
    _, last = find(text, "[\r\n]data: *")
  end
  local first = last and byte(text, last + 1)
  return not first or (first == OPEN and not find(text, LISTED))
end

-- Reads the events `from`..`to`. Returns what stays before the last event that is dropped, and where it goes on;
-- of events of which the client has a part already, up to `sent`, none is dropped.
local function read_events(handle, text, from, to, sent, drop)
  local kept, begin, at = "", sent + 1, has_usage(text, from)
  while at and at <= to do
    local last = first_end(text, from)
    while last < at do
      from = last + 1
      last = first_end(text, from)
    end
    if read_event(handle, sub(text, from, last)) and drop and from > sent then
      kept = kept .. sub(text, begin, from - 1)
      begin = last + 1
    end
    from = last + 1
    at = has_usage(text, from)
  end
  return kept, begin
end

-- The event whose end has not come yet: its pieces, and what the client has of them: all or, while `held`, none.
-- `lost`: it is too long, and passes on unread. `edge` is its last byte, for the end that is cut in two.
local function opened(drop)
  return {
    drop = drop, begun = false, dropped = false,
    pieces = {}, count = 0, bytes = 0, edge = "", held = false, lost = false,
  }
end

local function carry(open, text)
  open.edge = sub(text, -1)
  open.bytes = open.bytes + #text
  if open.lost or open.bytes > MAX_TEXT_BYTES then
    open.lost, open.held, open.count, open.bytes = true, false, 0, 0
    return
  end
  open.count = open.count + 1
  open.pieces[open.count] = text
end

local function carried(open)
  return concat(open.pieces, "", 1, open.count)
end

-- Returns what the client gets for a chunk in which no event ends, or nil: the chunk as it is.
local function go_on(open, text)
  local fresh, held = open.count == 0 and not open.lost, open.held
  if not open.drop or not (fresh or held) then
    carry(open, text)
    return nil
  end
  local all = held and carried(open) .. text or text
  carry(open, text)
  open.held = not open.lost and may_be_dropped(all)
  if open.held then
    return ""
  end
  return held and all or nil
end

-- The same for a chunk whose byte `cut` is the last that ends an event.
local function go_past(handle, open, text, cut)
  local from, sent, before = 1, open.held and 0 or open.bytes, open.bytes
  if open.lost then
    from = first_end(open.edge .. text, 1) - #open.edge + 1
  end
  local whole = open.count > 0 and carried(open) .. text or text
  local last = before + cut
  local kept, begin = read_events(handle, whole, from, last, sent, open.drop)
  local dropped, was_held = begin ~= sent + 1, open.held
  open.count, open.bytes, open.edge, open.held, open.lost = 0, 0, "", false, false
  if last < #whole then
    local rest = sub(whole, last + 1)
    carry(open, rest)
    open.held = open.drop and not open.lost and may_be_dropped(rest)
  end
  if not (dropped or was_held or open.held) then
    return nil
  end
  open.dropped = begin > #whole
  return kept .. sub(whole, begin, open.held and last or #whole)
end

local function take(handle, open, text)
  if not open.begun and has_data(carried(open) .. text) then
    open.begun = true
    note(handle, "first_us", handle:timestampString(EnvoyTimestampResolution.MICROSECOND))
  end
  local cut = last_end(open.edge .. text) - #open.edge
  if cut > 0 then
    return go_past(handle, open, text, cut)
  end
  return go_on(open, text)
end

local function stream(handle, drop)
  local open, final, line_feed = opened(drop), nil, nil
  for chunk in handle:bodyChunks() do
    final = chunk
    local size = chunk:length()
    if size > 0 then
      local text, lead, out = chunk:getBytes(0, size), nil, nil
      if line_feed and byte(text) == LF then
        text, lead = sub(text, 2), line_feed
      end
      line_feed = nil
      -- Nearly every chunk is whole events without usage, and costs no more than this test.
      if text ~= "" and (open.edge ~= "" or not open.begun or not ends_event(text) or has_usage(text, 1)) then
        out = take(handle, open, text)
      end
      if lead then
        out = lead .. (out or text)
      end
      if out then
        chunk:setBytes(out)
      end
      if drop then
        if open.edge == "" and byte(text, -1) == CR then
          -- A line feed that comes next still belongs to the event, and shares its fate.
          line_feed = open.dropped and "" or "\n"
        end
        open.dropped = false
      end
    end
  end
  if open.count == 0 then
    return
  end
  local text = carried(open)
  local alone = has_usage(text, 1) and read_event(handle, text)
  -- What was held goes into the last chunk. When trailers end the stream, Envoy has taken that chunk, and there is no
  -- call that adds another: an event without the empty line behind it is lost then, as clients ignore it anyway.
  if open.held and not alone and not handle:trailers() then
    final:setBytes(final:getBytes(0, final:length()) .. text)
  end
end

-- === a JSON body ===

-- Keeps its end alone, where servers write `usage`.
local function body(handle)
  local pieces, first, last, bytes = {}, 1, 0, 0
  for chunk in handle:bodyChunks() do
    local size = chunk:length()
    if size > 0 then
      local skipped = size > MAX_TEXT_BYTES and size - MAX_TEXT_BYTES or 0
      last = last + 1
      pieces[last] = chunk:getBytes(skipped, size - skipped)
      bytes = bytes + #pieces[last]
      while bytes - #pieces[first] >= MAX_TEXT_BYTES do
        bytes = bytes - #pieces[first]
        pieces[first] = nil
        first = first + 1
      end
    end
  end
  local text = first == last and pieces[first] or concat(pieces, "", first, last)
  local usage = usage_of(text, 1)
  if usage then
    note_usage(handle, "last", usage)
  end
end

function envoy_on_response(handle)
  local headers = handle:headers()
  local kind = headers:get("content-type")
  local encoding = headers:get("content-encoding")
  if not kind or (encoding and encoding ~= "identity") then
    return
  end
  if kind ~= "application/json" and kind ~= "text/event-stream" then
    kind = lower(match(kind, "^%s*([^;%s]*)"))
  end
  if kind == "text/event-stream" then
    local asked = handle:streamInfo():dynamicMetadata():get(NAMESPACE)
    local drop = asked ~= nil and asked.drop == "1"
    if drop then
      headers:remove("content-length")
    end
    stream(handle, drop)
  elseif kind == "application/json" then
    body(handle)
  end
end
