// The frozen index: reads a blob (frozen_format.h) where it lies.
#pragma once

#include <algorithm>
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

  // For policies that look at more than the longest match.
  // Moves to the longest shorter context that occurs more often; the root stays.
  void shorten(FrozenCursor& cursor) const;
  // The heaviest token after a context, not the root, and the way there; `total` is the context's weight.
  // False when nothing follows.
  struct Next {
    int32_t token;
    float weight;  // of the context and the token
    uint32_t target;
    uint32_t position;
    uint32_t left;
  };
  bool next(const FrozenCursor& cursor, float total, Next& next) const {
    if (cursor.left == 0) return narrow_ ? next_as<uint16_t>(cursor, next) : next_as<uint32_t>(cursor, next);
    next = {token_at(cursor.position), total, cursor.target, cursor.position, cursor.left};
    return next.token >= 0;
  }
  // Moves the cursor on by the token that `next` found there.
  static void follow(FrozenCursor& cursor, const Next& next) {
    follow(cursor, {next.target, next.position, next.left}, 1);
  }
  // The weight with which `token` follows the context, not the root.
  float weight_next(const FrozenCursor& cursor, int32_t token) const;

  // Calls visit(length, token, ratio, count) for each token of the heaviest continuation until it returns
  // false or the text ends: the context before the token, of `length` tokens, occurs `count` times, and
  // `ratio`, from 0 to 1, is the token's share of its weight. When nothing follows the cursor's context, a
  // shorter one's is walked. Returns the length of the context before the first token, or 0.
  template <typename Visit>
  uint32_t walk(const FrozenCursor& cursor, Visit visit) const {
    return narrow_ ? walk_as<uint16_t>(cursor, visit) : walk_as<uint32_t>(cursor, visit);
  }

  std::span<const char> bytes() const { return {data_, header_.total_bytes}; }
  uint64_t num_tokens() const { return header_.num_tokens; }
  uint32_t num_responses() const { return header_.num_responses; }
  uint64_t nbytes() const { return header_.total_bytes; }
  double total_weight() const;  // of all tokens

 private:
  static constexpr uint32_t kEndless = 0x7FFFFFFFu;  // label length of a leaf edge: it ends at the next START

  // A piece of the heaviest continuation: up to `symbols` tokens from text position `position` on. It ends
  // earlier at a START, and then the text ends there.
  struct Piece {
    uint32_t position;
    uint32_t symbols;
    uint32_t length;       // tokens of the context before the piece
    uint32_t count;        // and its occurrences
    uint32_t count_after;  // and after any of its tokens
    uint32_t target;       // node after it, or kLeaf
    float ratio;           // weight of the piece over the weight of the context before it
  };
  struct Edge {
    uint32_t target;    // node or kLeaf
    uint32_t position;  // of its label in the text
    uint32_t length;    // of its label, > 0
  };
  struct Edges {  // of one node, as word indexes
    uint32_t inner;
    uint32_t num_inner;
    uint32_t leaves;
    uint32_t num_leaves;
    bool leaf_is_best;
  };

  void open(uint64_t size, bool verify);

  // Every accessor answers for any index: one that is out of range reads as START, a leaf of weight 1, the
  // root. `Symbol` is the width of the blob's symbols.
  template <typename Symbol>
  uint32_t symbol_of(int32_t token) const;
  template <typename Symbol>
  uint32_t text_at(uint32_t position) const;
  int32_t token_of(uint32_t symbol) const;  // -1 for START
  int32_t token_at(uint32_t position) const;
  float weight_of_leaf(uint32_t position) const;
  float own_weight_of_leaf(uint32_t position) const;
  float weight_of_node(uint32_t node) const;
  FrozenNode node_at(uint32_t node) const;
  bool is_plain(uint32_t node) const { return node <= last_node_; }
  FrozenRun run_of(uint32_t node) const;
  FrozenNode run_node(uint32_t node) const;
  bool run_edge(uint32_t node, Edge& edge, uint32_t& symbol) const;

  template <typename Symbol>
  Edges edges_of(uint32_t node, const FrozenNode& self) const;
  template <typename Symbol>
  Edge inner_edge(uint32_t word) const;
  uint32_t long_label(uint32_t word) const;
  template <typename Symbol>
  bool find_edge(uint32_t node, uint32_t symbol, Edge& edge) const;
  template <typename Symbol>
  bool best_edge(uint32_t node, Edge& edge) const;

  static void step_on(FrozenCursor& cursor);  // by one symbol of the label
  static void follow(FrozenCursor& cursor, const Edge& edge, uint32_t symbols);
  template <typename Symbol>
  bool take(FrozenCursor& cursor, uint32_t symbol) const;
  template <typename Symbol>
  bool next_as(const FrozenCursor& cursor, Next& next) const;
  template <typename Symbol>
  bool shorten_here(FrozenCursor& cursor) const;
  template <typename Symbol>
  bool shorten_as(FrozenCursor& cursor) const;
  template <typename Symbol>
  void advance_as(FrozenCursor& cursor, std::span<const int32_t> tokens) const;
  template <typename Symbol>
  bool first_piece(const FrozenCursor& cursor, Piece& piece) const;
  template <typename Symbol>
  bool next_piece(Piece& piece) const;
  template <typename Symbol, typename Visit>
  uint32_t walk_as(FrozenCursor cursor, Visit& visit) const;

  // Buffers may start at any address, so values are copied out.
  template <typename T>
  static T load(const char* section, uint64_t index) {
    T value;
    std::memcpy(&value, section + index * sizeof(T), sizeof(T));
    return value;
  }

  std::vector<uint64_t> blob_;
  std::shared_ptr<const void> owner_;
  const char* data_ = nullptr;
  // Sections.
  const char* token_ids_ = nullptr;
  const char* symbol_table_ = nullptr;
  const char* text_ = nullptr;
  const char* nodes_ = nullptr;
  uint32_t last_node_ = 0;  // greatest id that a node may have which is in no run
  FrozenHeader header_{};
  bool narrow_ = true;
};

inline void FrozenIndex::step_on(FrozenCursor& cursor) {
  ++cursor.length;
  ++cursor.position;
  if (--cursor.left == 0) {
    cursor.node = cursor.target;
    cursor.depth = cursor.length;
  }
}

inline void FrozenIndex::follow(FrozenCursor& cursor, const Edge& edge, uint32_t symbols) {
  cursor.length += symbols;
  cursor.target = edge.target;
  cursor.position = edge.position + symbols;
  cursor.left = edge.length - symbols;
  if (cursor.left == 0) {
    cursor.node = edge.target;
    cursor.depth = cursor.length;
  }
}

template <typename Symbol>
inline uint32_t FrozenIndex::text_at(uint32_t position) const {
  return position < header_.text_size ? load<Symbol>(text_, position) : kStart;
}

inline int32_t FrozenIndex::token_of(uint32_t symbol) const {
  return symbol - 1 < header_.num_symbols ? load<int32_t>(token_ids_, symbol - 1) : -1;  // START is 0
}

inline int32_t FrozenIndex::token_at(uint32_t position) const {
  return token_of(narrow_ ? text_at<uint16_t>(position) : text_at<uint32_t>(position));
}

template <typename Symbol, typename Visit>
inline uint32_t FrozenIndex::walk_as(FrozenCursor cursor, Visit& visit) const {
  Piece piece;
  while (!first_piece<Symbol>(cursor, piece)) {
    if (!shorten_as<Symbol>(cursor)) return 0;
  }
  const char* const token_ids = token_ids_;
  const uint32_t num_symbols = header_.num_symbols;
  const uint32_t first = piece.length;
  do {
    // A damaged index may say anything, and what is learned from it would stay.
    float ratio = piece.ratio > 0 ? std::min(piece.ratio, 1.0f) : 0.0f;
    uint32_t count = piece.count;
    uint32_t length = piece.length;
    const uint32_t position = std::min(piece.position, header_.text_size);
    const uint32_t symbols = std::min(piece.symbols, header_.text_size - position);
    const char* text = text_ + position * uint64_t{sizeof(Symbol)};
    for (const char* const end = text + symbols * uint64_t{sizeof(Symbol)}; text < end;
         text += sizeof(Symbol)) {
      const uint32_t symbol = load<Symbol>(text, 0);
      if (symbol - 1 >= num_symbols) return first;  // START, which is 0
      const int32_t token = load<int32_t>(token_ids, symbol - 1);
      if (token < 0 || !visit(length++, token, ratio, count)) return first;  // damaged
      ratio = 1;
      count = piece.count_after;
    }
    if (symbols < piece.symbols) break;  // damaged
  } while (next_piece<Symbol>(piece));
  return first;
}

}  // namespace redraft
