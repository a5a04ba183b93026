// The frozen index: reads a blob (frozen_format.h) where it lies.
#pragma once

#include <cstdint>
#include <cstring>
#include <memory>
#include <span>
#include <vector>

#include "csrc/frozen_format.h"

namespace redraft {

// Where a context is matched: on a node, or inside the label of an edge that leaves it. A plain value, valid
// for the index that made it. A fresh one is at the root: nothing matched.
struct FrozenCursor {
  uint32_t node = 0;      // last node reached
  uint32_t depth = 0;     // tokens matched at that node
  uint32_t length = 0;    // tokens matched; START counts as one
  uint32_t target = 0;    // node at the end of the edge, or kLeaf
  uint32_t position = 0;  // text position of the next symbol of the label
  uint32_t left = 0;      // symbols left of the label; 0 on a node
};

// Immutable. Any number of threads and processes may read one blob at the same time, without locks.
// No blob, however damaged, makes a method read outside of it or run forever: each index is checked before it
// is followed, each link must lead to a shorter context, and each label must have a symbol.
class FrozenIndex {
 public:
  static constexpr uint32_t kLeaf = 0xFFFFFFFFu;

  // Owns a blob that the builder made.
  explicit FrozenIndex(std::vector<uint64_t> blob);
  // Reads a blob that `owner` keeps alive. Checks the header and, when `verify`, the checksum of everything
  // else. Throws DataLoss for a truncated, damaged or foreign blob.
  FrozenIndex(const void* data, uint64_t size, std::shared_ptr<const void> owner, bool verify);

  // The cursor of a request that has no response token yet: START is matched.
  FrozenCursor start() const;
  // Moves the cursor on: the longest suffix of (its context + token) that occurs. Amortised O(1) steps.
  void advance(FrozenCursor& cursor, std::span<const int32_t> tokens) const;
  // Shortens the match until something follows it; the root when nothing does.
  void shorten_to_continuation(FrozenCursor& cursor) const;

  struct Occurrences {
    uint32_t count;
    float weight;
  };
  Occurrences occurrences(const FrozenCursor& cursor) const;

  // One step along the heaviest continuation.
  struct Step {
    int32_t token;   // -1: the text ends here
    float ratio;     // weight of the continuation over the weight of the context
    uint32_t count;  // occurrences of the context
  };
  // Calls visit(step) along the heaviest continuation from `cursor` until it returns false or the text ends.
  template <typename Visit>
  void walk(FrozenCursor cursor, Visit visit) const {
    while (true) {
      const Step step = step_on(cursor);
      if (step.token < 0 || !visit(step)) return;
    }
  }

  std::span<const char> bytes() const { return {data_, header_.total_bytes}; }
  uint64_t num_tokens() const { return header_.num_tokens; }
  uint32_t num_responses() const { return header_.num_responses; }
  uint64_t nbytes() const { return header_.total_bytes; }
  double total_weight() const;  // of all tokens

 private:
  static constexpr uint32_t kEndless = 0x7FFFFFFFu;  // label length of a leaf edge: it ends at the next START

  struct Edge {
    uint32_t target;    // node or kLeaf
    uint32_t position;  // of its label in the text
    uint32_t length;    // of its label, > 0
  };
  void open(uint64_t size, bool verify);
  // Every accessor answers for any index: one that is out of range reads as START, a leaf of weight 1, the
  // root.
  uint32_t symbol_of(int32_t token) const;
  int32_t token_of(uint32_t symbol) const;
  uint32_t text_at(uint32_t position) const;
  float weight_of_leaf(uint32_t position) const;
  float weight_of_node(uint32_t node) const;
  FrozenNode node_at(uint32_t node) const;

  struct Edges {  // of one node, as word indexes
    uint32_t inner;
    uint32_t num_inner;
    uint32_t leaves;
    uint32_t num_leaves;
    bool leaf_is_best;
  };
  Edges edges_of(uint32_t node) const;
  uint32_t inner_symbol(uint32_t word) const;
  Edge inner_edge(uint32_t word) const;
  bool find_edge(uint32_t node, uint32_t symbol, Edge& edge) const;
  bool best_edge(uint32_t node, Edge& edge) const;

  void follow(FrozenCursor& cursor, const Edge& edge, uint32_t symbols) const;
  bool take(FrozenCursor& cursor, uint32_t symbol) const;
  bool shorten(FrozenCursor& cursor) const;
  Step step_on(FrozenCursor& cursor) const;

  // Buffers may start at any address, so values are copied out.
  template <typename T>
  T load(uint64_t section, uint64_t index) const {
    T value;
    std::memcpy(&value, data_ + section + index * sizeof(T), sizeof(T));
    return value;
  }
  uint32_t symbol_at(uint64_t section, uint64_t index) const {
    return narrow_ ? load<uint16_t>(section, index) : load<uint32_t>(section, index);
  }

  std::vector<uint64_t> blob_;
  std::shared_ptr<const void> owner_;
  const char* data_ = nullptr;
  FrozenHeader header_{};
  bool narrow_ = true;
};

}  // namespace redraft
