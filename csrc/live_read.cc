// What the live index answers: matches, and what follows them.
#include "csrc/live_index.h"
#include "csrc/live_transitions.h"

namespace redraft {

LiveCursor LiveIndex::cursor(uint32_t sequence) const {
  check_sequence(sequence);
  LiveCursor cursor{sequences_[sequence], states_[sequences_[sequence]].length};
  shorten_to_continuation(cursor);
  return cursor;
}

void LiveIndex::shorten_to_continuation(LiveCursor& cursor) const {
  while (cursor.length > 0 && states_[cursor.state].token == kNone) {
    cursor.state = states_[cursor.state].link;
    cursor.length = states_[cursor.state].length;
  }
}

LiveCursor LiveIndex::match(std::span<const int32_t> context) const {
  LiveCursor cursor;
  for (const int32_t token : context) {
    uint32_t target;
    while ((target = find(cursor.state, static_cast<uint32_t>(token))) == kNone && cursor.state != 0) {
      cursor.state = states_[cursor.state].link;
      cursor.length = states_[cursor.state].length;
    }
    if (target == kNone) continue;
    cursor.state = target;
    ++cursor.length;
  }
  return cursor;
}

uint32_t LiveIndex::count(const LiveCursor& cursor) const {
  return cursor.length == 0 ? static_cast<uint32_t>(num_tokens_) : states_[cursor.state].count;
}

LiveCursor LiveIndex::last(uint32_t sequence) const {
  check_sequence(sequence);
  return {sequences_[sequence], states_[sequences_[sequence]].length};
}

void LiveIndex::shorten(LiveCursor& cursor) const {
  if (cursor.state == 0) {
    cursor.length = 0;
    return;
  }
  cursor.state = states_[cursor.state].link;
  cursor.length = states_[cursor.state].length;
}

bool LiveIndex::best_next(const LiveCursor& cursor, int32_t& token, uint32_t& count) const {
  const State& self = states_[cursor.state];
  if (self.token == kNone) return false;
  token = static_cast<int32_t>(self.token);
  count = states_[self.target].count;
  return true;
}

uint32_t LiveIndex::count_next(const LiveCursor& cursor, int32_t token) const {
  const uint32_t target = find(cursor.state, static_cast<uint32_t>(token));
  return target == kNone ? 0 : states_[target].count;
}

bool LiveIndex::take(LiveCursor& cursor, int32_t token) const {
  const uint32_t target = find(cursor.state, static_cast<uint32_t>(token));
  if (target == kNone) return false;
  cursor.state = target;
  ++cursor.length;
  return true;
}

void LiveIndex::advance(LiveCursor& cursor, int32_t token) const {
  uint32_t target;
  while ((target = find(cursor.state, static_cast<uint32_t>(token))) == kNone && cursor.state != 0) {
    shorten(cursor);
  }
  if (target == kNone) {
    cursor = {};
    return;
  }
  cursor.state = target;
  ++cursor.length;
}

void LiveIndex::prefetch(uint32_t sequence) const {
  if (is_open(sequence)) {
    __builtin_prefetch(&states_[sequences_[sequence]]);
  }
}

}  // namespace redraft
