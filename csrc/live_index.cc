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
    state.block = take_block(0);
    *entries(state.block) = {token, target};
  } else {
    state.block = insert(state.block, {token, target});
  }
}

// A block of that size class; what is in it is of no meaning.
uint32_t LiveIndex::take_block(uint32_t size_class) {
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
  largest_block_ = std::max<uint64_t>(largest_block_, size);
  return size_class << kIndexBits | index;
}

uint32_t LiveIndex::new_block(uint32_t size_class) {
  const uint32_t size = size_of_class(size_class);
  const uint32_t block = take_block(size_class);
  Transition* const transitions = entries(block);
  for (uint32_t i = 0; i < size; ++i) transitions[i] = {kNone, kNone};
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
  Transition* const list = entries(block);
  if (size > kLargestList) {
    if ((list[0].token + 1) * 4 <= size * 3) {
      put(list, size, transition);
      return block;
    }
  } else if (list[size - 1].token == kNone) {
    uint32_t i = 0;
    while (list[i].token != kNone) ++i;
    list[i] = transition;
    return block;
  }
  return move_block(block, transition);
}

// Adds to a hash table that has room.
inline void LiveIndex::put(Transition* table, uint32_t size, Transition transition) {
  uint32_t slot = home(transition.token, size);
  while (table[slot].token < kRemoved) slot = next_slot(slot, size);
  if (table[slot].token == kNone) ++table[0].token;
  ++table[0].target;
  table[slot] = transition;
}

// Moves a full block to the next size, or to the same when removed entries filled it, and adds one more.
uint32_t LiveIndex::move_block(uint32_t block, Transition transition) {
  const uint32_t size_class = block >> kIndexBits;
  const uint32_t size = size_of_class(size_class);
  const bool same = size > kLargestList && entries(block)->target * 2 <= size;
  const uint32_t moved_class = same ? size_class : size_class + 1;
  const uint32_t moved_size = size_of_class(moved_class);
  const uint32_t moved = new_block(moved_class);
  const Transition* const old = entries(block);
  Transition* const list = entries(moved);
  if (moved_size <= kLargestList) {
    std::copy_n(old, size, list);
    list[size] = transition;
  } else {
    for (uint32_t i = size > kLargestList ? 1 : 0; i < size; ++i) {
      if (old[i].token < kRemoved) put(list, moved_size, old[i]);
    }
    put(list, moved_size, transition);
  }
  free_block(block);
  return moved;
}

uint32_t LiveIndex::copy_block(uint32_t block) {
  const uint32_t copy = take_block(block >> kIndexBits);
  std::copy_n(entries(block), size_of_class(block >> kIndexBits), entries(copy));
  return copy;
}

// ---- growth
// ------------------------------------------------------------------------------------------------

// `from` goes to a state on `token`, by `target`, but that state's shorter contexts now occur where the
// longer do not: makes a state for them and returns it.
[[gnu::always_inline]] inline uint32_t LiveIndex::split(uint32_t from, uint32_t token, uint32_t* target) {
  State* const states = states_.data();
  const uint32_t state = *target;
  State& longer = states[state];
  uint32_t block = kNone;
  if (longer.block != kNone) {
    block = copy_block(longer.block);
    target = find(states[from], token);  // the copy may have moved all blocks
  }
  const uint32_t shorter = states_.push_back(
      {states[from].length + 1, longer.link, longer.count, longer.token, longer.target, block});
  longer.link = shorter;
  for (uint32_t at = from;;) {
    *target = shorter;
    at = states[at].link;
    if (at == kNone) return shorter;
    target = find(states[at], token);
    if (*target != state) return shorter;
  }
}

// Appends `token` to the sequence that ends in `last`; returns its new last state. (Blumer et al., "The
// smallest automaton recognizing the subwords of a text", 1985; for several sequences as in a trie.)
[[gnu::always_inline]] inline uint32_t LiveIndex::extend(uint32_t last, uint32_t token) {
  State* const states = states_.data();  // grow() made room: nothing moves
  uint32_t made = kNone;
  uint32_t extended;
  for (uint32_t at = last;;) {
    State& self = states[at];
    if (uint32_t* const target = find(self, token)) {
      uint32_t known = *target;
      if (states[known].length != self.length + 1) known = split(at, token, target);
      extended = known;
      if (made != kNone) {
        states[made].link = known;
        extended = made;
      }
      break;
    }
    if (made == kNone) made = states_.push_back({self.length + 1, 0, 0, kNone, kNone, kNone});
    add(self, token, made);
    at = self.link;
    if (at == kNone) {
      extended = made;
      break;
    }
  }
  count_up(states[last], token, states[extended]);
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
