// The live index: a suffix automaton over a group's prompt and every sibling's tokens, grown online.
#pragma once

#include <cstdint>
#include <memory>
#include <mutex>
#include <span>
#include <utility>
#include <vector>

#include "csrc/memory.h"

namespace redraft {

// A context's place in a live index; a plain value. After the index was appended to, it is the place of the
// longest context that it was the place of before.
struct LiveCursor {
  uint32_t state = 0;
  uint32_t length = 0;  // tokens matched
};

// Thread-safe through one mutex: the caller locks it (guard()) around every other call.
//
// A state is a class of contexts with the same occurrences (end positions). Invariants between calls:
// - link(s) is the class of the longest suffix of s's contexts that occurs elsewhere too; length(link) <
// length;
// - a sequence's `last` state is the class of its whole text, so link(last) is the longest suffix of its
// context
//   that occurs elsewhere: a sequence needs no other cursor;
// - a state's first transition leads to its most counted continuation; the others lie in its block;
// - count is the number of occurrences, of which every appended token counts for its `count_depth` longest
//   classes of contexts only, which bounds the work on texts that loop.
class LiveIndex {
 public:
  static constexpr uint32_t kNone = 0xFFFFFFFFu;

  // prompt: ids >= 0. memory_limit: bytes, 0 for none, checked before a call's tokens are appended.
  // count_depth: > 0. Throws InvalidArgument, ResourceExhausted.
  LiveIndex(std::span<const int32_t> prompt, uint64_t memory_limit, uint32_t count_depth);

  std::unique_lock<std::mutex> guard() const { return std::unique_lock(mutex_); }

  // Starts a sequence after the prompt and returns its handle, counted from 0.
  uint32_t add_sequence(std::span<const int32_t> tokens);
  // Amortised O(count_depth) steps a token, most often a few. Throws InvalidArgument for negative ids,
  // NotFound for an unknown or ended sequence, ResourceExhausted at the limit; then nothing has changed.
  void append(uint32_t sequence, std::span<const int32_t> tokens);
  // The same for a caller that knows the sequence to be open, the ids to be >= 0, and that there is room.
  void append_checked(uint32_t sequence, std::span<const int32_t> tokens);
  // Drops the sequence's cursor; its text stays.
  void end_sequence(uint32_t sequence);
  bool is_open(uint32_t sequence) const {
    return sequence < sequences_.size() && sequences_[sequence] != kNone;
  }
  void check_sequence(uint32_t sequence) const {
    if (!is_open(sequence)) throw_unknown(sequence);
  }
  // True when that many more tokens fit under the memory limit.
  bool has_room(uint64_t tokens) const;

  // The longest suffix of the sequence's text that occurs elsewhere and goes on there.
  LiveCursor cursor(uint32_t sequence) const;
  // The longest suffix of `context` that occurs.
  LiveCursor match(std::span<const int32_t> context) const;
  // Shortens the match until something follows it; the root when nothing does.
  void shorten_to_continuation(LiveCursor& cursor) const;
  uint32_t count(const LiveCursor& cursor) const;

  // For policies that look at more than the longest match.
  // The class of the sequence's whole text.
  LiveCursor last(uint32_t sequence) const;
  // Moves to the longest shorter context that occurs elsewhere too; the root stays.
  void shorten(LiveCursor& cursor) const;
  // The most counted token after the context and its count; false when nothing follows.
  bool best_next(const LiveCursor& cursor, int32_t& token, uint32_t& count) const;
  // How often `token` follows the context.
  uint32_t count_next(const LiveCursor& cursor, int32_t token) const;
  // Moves on by the most counted token, which there is.
  void follow_best(LiveCursor& cursor) const {
    cursor.state = states_[cursor.state].target;
    ++cursor.length;
  }
  // Moves on by a token without shortening the match; false, and nothing moves, when it does not follow.
  bool take(LiveCursor& cursor, int32_t token) const;
  // The same by the most counted token.
  bool take_best(LiveCursor& cursor) const {
    if (cursor.length == 0 || states_[cursor.state].token == kNone) return false;
    follow_best(cursor);
    return true;
  }
  // Moves on to the longest suffix of (the context + token) that occurs.
  void advance(LiveCursor& cursor, int32_t token) const;

  struct Step {
    int32_t token;
    uint32_t count;  // of the continuation
    uint32_t total;  // of the context
  };
  // Calls visit(step) along the most counted continuation from `cursor` until it returns false or the text
  // ends.
  template <typename Visit>
  void walk(LiveCursor cursor, Visit visit) const {
    if (cursor.length == 0) return;
    uint32_t state = cursor.state;
    while (states_[state].token != kNone) {
      const State& self = states_[state];
      state = self.target;
      if (!visit(Step{static_cast<int32_t>(self.token), states_[state].count, self.count})) return;
    }
  }
  void prefetch(uint32_t sequence) const;

  uint64_t num_tokens() const { return num_tokens_; }
  uint64_t num_states() const { return states_.size(); }
  uint32_t num_sequences() const { return static_cast<uint32_t>(sequences_.size()); }
  uint64_t nbytes() const;

 private:
  struct State {
    uint32_t length;  // of its longest context
    uint32_t link;
    uint32_t count;
    uint32_t token;  // first transition: the most counted one; kNone without any
    uint32_t target;
    uint32_t block;  // further transitions: size class * 2^27 + index in pairs_; kNone without any
  };
  struct Transition {
    uint32_t token;
    uint32_t target;
  };
  // Blocks of up to 8 transitions are filled from the front; larger ones are hash tables whose first entry
  // holds the number of transitions.
  static constexpr uint32_t kIndexBits = 27;
  static constexpr uint32_t kIndexMask = (1u << kIndexBits) - 1;
  static constexpr uint32_t kLargestList = 8;

  [[noreturn]] static void throw_unknown(uint32_t sequence);
  Transition* entries(uint32_t block);
  Transition* find_entry(uint32_t block, uint32_t token);
  uint32_t* find(State& state, uint32_t token);
  uint32_t find(uint32_t state, uint32_t token) const;
  void add(State& state, uint32_t token, uint32_t target);
  uint32_t take_block(uint32_t size_class);
  uint32_t new_block(uint32_t size_class);
  void free_block(uint32_t block);
  uint32_t insert(uint32_t block, Transition transition);
  static void put(Transition* table, uint32_t size, Transition transition);
  uint32_t move_block(uint32_t block, Transition transition);
  uint32_t copy_block(uint32_t block);
  uint32_t split(uint32_t from, uint32_t token, uint32_t* target);
  uint32_t extend(uint32_t last, uint32_t token);
  void count_up(State& end, uint32_t token, State& extended);
  void overtake(State& state, uint32_t token, uint32_t target);
  void fetch(std::span<const int32_t> tokens);
  void grow(uint32_t& last, std::span<const int32_t> tokens);
  void check(std::span<const int32_t> tokens, const char* name) const;

  uint64_t memory_limit_;
  uint32_t count_depth_;
  uint32_t prompt_end_ = 0;
  uint64_t num_tokens_ = 0;
  uint64_t largest_block_ = 0;  // in transitions
  bool damaged_ = false;        // memory ran out in the middle of an append
  GrowingArray<State> states_;
  GrowingArray<Transition> pairs_;
  std::vector<uint32_t> sequences_;  // last state, kNone when ended
  uint32_t free_blocks_[32];         // first free block of each size class
  mutable std::mutex mutex_;
};

}  // namespace redraft
