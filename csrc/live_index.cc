#include "csrc/live_index.h"

#include <algorithm>
#include <string>

#include "csrc/error.h"
#include "csrc/live_transitions.h"

namespace redraft {
namespace {

using transitions::home;
using transitions::kRemoved;
using transitions::next_slot;
using transitions::size_of_class;

constexpr uint64_t kBytesPerToken = 96;       // generous: at most 2 states and about 4 transitions
constexpr uint32_t kFetchedTable = 1u << 15;  // entries of the root's table from which on fetch() pays

}  // namespace

LiveIndex::LiveIndex(std::span<const int32_t> prompt, uint64_t memory_limit, uint32_t count_depth)
    : memory_limit_(memory_limit), count_depth_(count_depth) {
  if (count_depth == 0) throw_invalid("count_depth: must be > 0");
  std::fill(std::begin(free_blocks_), std::end(free_blocks_), kNone);
  states_.reserve(1);
  states_.push_back({0, kNone, 0, kNone, kNone, kNone});
  check(prompt, "prompt_token_ids");
  grow(prompt_end_, prompt);
}

void LiveIndex::check(std::span<const int32_t> tokens, const char* name) const {
  for (size_t i = 0; i < tokens.size(); ++i) {
    if (tokens[i] < 0) throw_invalid(std::string(name) + ": negative id at " + std::to_string(i));
  }
  if (damaged_) {
    throw Error(ErrorCode::kResourceExhausted, "live: memory ran out while it grew; start a new index");
  }
  if (!has_room(tokens.size())) {
    throw Error(ErrorCode::kResourceExhausted, "memory_limit: no room for " + std::to_string(tokens.size()) +
                                                   " more tokens in " + std::to_string(memory_limit_) +
                                                   " bytes; raise it or start a new index");
  }
}

bool LiveIndex::has_room(uint64_t tokens) const {
  if (damaged_) return false;
  if (states_.size() + 2 * tokens >= kNone || pairs_.size() + 4 * tokens >= uint64_t{1} << kIndexBits)
    return false;
  if (memory_limit_ == 0) return true;
  // The largest block, most often the root's, may move to one of twice its size.
  const uint64_t used = nbytes() + 2 * largest_block_ * sizeof(Transition);
  return used + used / 8 + tokens * kBytesPerToken <= memory_limit_;
}

uint64_t LiveIndex::nbytes() const {
  return sizeof(*this) + states_.nbytes() + pairs_.nbytes() + sequences_.capacity() * sizeof(sequences_[0]);
}

uint32_t LiveIndex::add_sequence(std::span<const int32_t> tokens) {
  check(tokens, "token_ids");
  uint32_t last = prompt_end_;
  grow(last, tokens);
  sequences_.push_back(last);
  return static_cast<uint32_t>(sequences_.size() - 1);
}

void LiveIndex::throw_unknown(uint32_t sequence) {
  throw Error(ErrorCode::kNotFound,
              "sequence: " + std::to_string(static_cast<int32_t>(sequence)) + " is unknown or has ended");
}

void LiveIndex::append(uint32_t sequence, std::span<const int32_t> tokens) {
  check_sequence(sequence);
  check(tokens, "token_ids");
  grow(sequences_[sequence], tokens);
}

void LiveIndex::append_checked(uint32_t sequence, std::span<const int32_t> tokens) {
  grow(sequences_[sequence], tokens);
}

void LiveIndex::end_sequence(uint32_t sequence) {
  check_sequence(sequence);
  sequences_[sequence] = kNone;
}

// Where tokens are many and their order has no pattern, each append waits for memory several times: asks at
// once for what all tokens of a call will read, the root's transitions on them and where those lead.
void LiveIndex::fetch(std::span<const int32_t> tokens) {
  const uint32_t block = states_[0].block;
  const uint32_t size = size_of_class(block >> kIndexBits);
  if (block == kNone || size < kFetchedTable) return;
  const Transition* const transitions = entries(block);
  for (const int32_t token : tokens) {
    __builtin_prefetch(transitions + home(static_cast<uint32_t>(token), size));
  }
  const auto next = [&](int32_t token) -> const State& {  // most often; a wrong guess costs nothing
    const uint32_t target = transitions[home(static_cast<uint32_t>(token), size)].target;
    return states_[target < states_.size() ? target : 0];
  };
  for (const int32_t token : tokens) __builtin_prefetch(&next(token));
  for (const int32_t token : tokens) {
    const uint32_t further = next(token).block;
    if (further != kNone) __builtin_prefetch(entries(further));
  }
}

void LiveIndex::grow(uint32_t& last, std::span<const int32_t> tokens) {
  if (tokens.empty()) return;
  states_.reserve(2 * tokens.size());  // each token makes two at most, while references to others are held
  damaged_ = true;                     // until all is in: an exception in between leaves it so
  if (tokens.size() > 1) fetch(tokens.first(std::min<size_t>(tokens.size(), 16)));
  uint32_t state = last;
  for (const int32_t token : tokens) state = extend(state, static_cast<uint32_t>(token));
  last = state;
  num_tokens_ += tokens.size();
  damaged_ = false;
}

// ---- transitions
// -------------------------------------------------------------------------------------------

inline void LiveIndex::add(State& state, uint32_t token, uint32_t target) {
  if (state.token == kNone) {
    state.token = token;
    state.target = target;
    return;
  }
  if (state.block == kNone) {
    state.block = new_block(0);
    *entries(state.block) = {token, target};
  } else {
    state.block = insert(state.block, {token, target});
  }
}

uint32_t LiveIndex::new_block(uint32_t size_class) {
  const uint32_t size = size_of_class(size_class);
  uint32_t index = free_blocks_[size_class];
  if (index != kNone) {
    free_blocks_[size_class] = entries(size_class << kIndexBits | index)->target;
  } else {
    if (pairs_.size() + size > kIndexMask) {
      throw Error(ErrorCode::kResourceExhausted, "live: too many tokens for one index; start a new one");
    }
    index = pairs_.extend(size);
  }
  const uint32_t block = size_class << kIndexBits | index;
  Transition* const transitions = entries(block);
  for (uint32_t i = 0; i < size; ++i) transitions[i] = {kNone, kNone};
  largest_block_ = std::max<uint64_t>(largest_block_, size);
  // Header of a hash table: entries used, removed ones included; entries in use.
  if (size > kLargestList) *transitions = {0, 0};
  return block;
}

void LiveIndex::free_block(uint32_t block) {
  entries(block)->target = free_blocks_[block >> kIndexBits];
  free_blocks_[block >> kIndexBits] = block & kIndexMask;
}

// Adds a transition that the block does not hold yet; returns the block, which may be a new one.
uint32_t LiveIndex::insert(uint32_t block, Transition transition) {
  const uint32_t size_class = block >> kIndexBits;
  const uint32_t size = size_of_class(size_class);
  Transition* transitions = entries(block);
  if (size <= kLargestList) {
    for (uint32_t i = 0; i < size; ++i) {
      if (transitions[i].token == kNone) {
        transitions[i] = transition;
        return block;
      }
    }
  } else if ((transitions[0].token + 1) * 4 <= size * 3) {
    uint32_t slot = home(transition.token, size);
    while (transitions[slot].token < kRemoved) slot = next_slot(slot, size);
    if (transitions[slot].token == kNone) ++transitions[0].token;
    ++transitions[0].target;
    transitions[slot] = transition;
    return block;
  }
  // Full: move to the next size, or to the same when removed entries filled it.
  const bool same = size > kLargestList && transitions[0].target * 2 <= size;
  uint32_t larger = new_block(same ? size_class : size_class + 1);
  transitions = entries(block);
  if (size < kLargestList) {
    Transition* list = entries(larger);
    std::copy_n(transitions, size, list);
    list[size] = transition;
    free_block(block);
    return larger;
  }
  for (uint32_t i = size > kLargestList ? 1 : 0; i < size; ++i) {
    if (transitions[i].token < kRemoved) larger = insert(larger, transitions[i]);
  }
  free_block(block);
  return insert(larger, transition);
}

uint32_t LiveIndex::copy_block(uint32_t block) {
  if (block == kNone) return kNone;
  const uint32_t copy = new_block(block >> kIndexBits);
  std::copy_n(entries(block), size_of_class(block >> kIndexBits), entries(copy));
  return copy;
}

// ---- growth
// ------------------------------------------------------------------------------------------------

// `from` goes to `state` on `token`, but the shorter contexts of `state` now occur where the longer do not:
// makes a state for them and returns it.
uint32_t LiveIndex::split(uint32_t from, uint32_t token, uint32_t state) {
  State& longer = states_[state];
  State copy = longer;
  copy.length = states_[from].length + 1;
  copy.block = copy_block(copy.block);
  const uint32_t shorter = states_.push_back(copy);
  longer.link = shorter;
  for (uint32_t at = from; at != kNone;) {
    State& self = states_[at];
    uint32_t* target = find(self, token);
    if (*target != state) break;
    *target = shorter;
    at = self.link;
  }
  return shorter;
}

// Appends `token` to the sequence that ends in `last`; returns its new last state. (Blumer et al., "The
// smallest automaton recognizing the subwords of a text", 1985; for several sequences as in a trie.)
uint32_t LiveIndex::extend(uint32_t last, uint32_t token) {
  State* const states = states_.data();  // grow() made room: nothing moves
  State& end = states[last];
  uint32_t extended;
  if (const uint32_t* target = find(end, token)) {
    extended = *target;
    if (states[extended].length != end.length + 1) extended = split(last, token, extended);
  } else {
    extended = states_.push_back({end.length + 1, 0, 0, kNone, kNone, kNone});
    for (uint32_t at = last; at != kNone;) {
      State& self = states[at];
      if (const uint32_t* known = find(self, token)) {
        uint32_t link = *known;
        if (states[link].length != self.length + 1) link = split(at, token, link);
        states[extended].link = link;
        break;
      }
      add(self, token, extended);
      at = self.link;
    }
  }
  count_up(end, token, states[extended]);
  return extended;
}

// Counts the new occurrence for the longest classes of contexts, and keeps the most counted continuation of
// each class before it first. Among equals the one that came first stays.
inline void LiveIndex::count_up(State& end, uint32_t token, State& extended) {
  State* const states = states_.data();
  State* at = &end;
  State* next = &extended;  // where `at` goes on `token`
  uint32_t count = ++next->count;
  for (uint32_t depth = count_depth_;;) {
    if (at->token != token && count > states[at->target].count) {
      overtake(*at, token, static_cast<uint32_t>(next - states));
    }
    const uint32_t link = at->link;
    if (link == kNone || --depth == 0) return;
    at = states + link;
    State* const shorter = states + next->link;
    if (shorter->length > at->length) {
      next = shorter;
      count = ++next->count;
    }
  }
}

// Makes the transition on `token` to `target` the first one of a state that has it among the others.
void LiveIndex::overtake(State& state, uint32_t token, uint32_t target) {
  Transition* entry = find_entry(state.block, token);
  const Transition demoted{state.token, state.target};
  state.token = token;
  state.target = target;
  if (size_of_class(state.block >> kIndexBits) <= kLargestList) {
    *entry = demoted;
  } else {
    entry->token = kRemoved;
    --entries(state.block)->target;
    state.block = insert(state.block, demoted);
  }
}

}  // namespace redraft
