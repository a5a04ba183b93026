#include "csrc/frozen_index.h"

namespace redraft {

// ---- the blob's values
// -------------------------------------------------------------------------------------

template <typename Symbol>
inline uint32_t FrozenIndex::symbol_of(int32_t token) const {
  const uint32_t mask = header_.symbol_slots - 1;
  uint32_t slot = symbol_slot(token, header_.symbol_slots);
  for (uint32_t probes = 0; probes <= mask; ++probes) {
    const uint32_t symbol = load<Symbol>(symbol_table_, slot);
    if (symbol == 0 || symbol > header_.num_symbols) break;
    if (load<int32_t>(token_ids_, symbol - 1) == token) return symbol;
    slot = (slot + 1) & mask;
  }
  return kStart;
}

inline float FrozenIndex::weight_of_leaf(uint32_t position) const {
  return header_.uniform_weight > 0 ? header_.uniform_weight : own_weight_of_leaf(position);
}

float FrozenIndex::own_weight_of_leaf(uint32_t position) const {
  uint32_t low = 0;  // the last response that starts at or before `position`
  uint32_t high = header_.num_responses;
  while (high - low > 1) {
    const uint32_t middle = low + (high - low) / 2;
    (load<uint32_t>(data_ + header_.response_starts, middle) <= position ? low : high) = middle;
  }
  return load<float>(data_ + header_.response_weights, low);
}

inline float FrozenIndex::weight_of_node(uint32_t node) const {
  if (header_.uniform_weight > 0) {
    return static_cast<float>(static_cast<double>(node_at(node).count) * header_.uniform_weight);
  }
  if (is_plain(node)) return load<float>(nodes_ + (node + uint64_t{kNodeWords}) * 4, 0);
  const uint32_t i = node - header_.num_words;
  return i < header_.num_run_nodes ? load<float>(data_ + header_.run_weights, i) : 0;
}

[[gnu::always_inline]] inline FrozenNode FrozenIndex::node_at(uint32_t node) const {
  if (!is_plain(node)) return run_node(node);
  FrozenNode self;
  std::memcpy(&self, nodes_ + node * uint64_t{4}, sizeof(self));
  return self;
}

// The run that a node beyond the plain ones belongs to; of no meaning in a damaged blob.
FrozenRun FrozenIndex::run_of(uint32_t node) const {
  const char* runs = data_ + header_.runs;
  uint32_t low = 0;  // the last run that begins at or before `node`
  uint32_t high = header_.num_runs;
  while (high - low > 1) {
    const uint32_t middle = low + (high - low) / 2;
    (load<FrozenRun>(runs, middle).first <= node ? low : high) = middle;
  }
  return load<FrozenRun>(runs, low);
}

[[gnu::noinline]] FrozenNode FrozenIndex::run_node(uint32_t node) const {
  if (node - header_.num_words >= header_.num_run_nodes) return load<FrozenNode>(nodes_, 0);
  const FrozenRun run = run_of(node);
  const uint32_t i = node - run.first;
  return {run.length + i * run.length_step,
          i + 1 == run.size ? run.last_link : node + 1,
          run.end + i * run.end_step,
          run.count + i * run.count_step,
          2,
          0};
}

// The edge of a node beyond the plain ones, and the first symbol of its label.
[[gnu::noinline]] bool FrozenIndex::run_edge(uint32_t node, Edge& edge, uint32_t& symbol) const {
  if (node - header_.num_words >= header_.num_run_nodes) return false;
  const FrozenRun run = run_of(node);
  const uint32_t target = node == run.first ? run.first_target : node - 1;
  edge = {target, node_at(target).end - run.label, run.label};
  symbol = run.symbol;
  return edge.length > 0 && target != 0;
}

double FrozenIndex::total_weight() const {
  double sum = 0;
  for (uint32_t i = 0; i < header_.num_responses; ++i) {
    const uint32_t start = load<uint32_t>(data_ + header_.response_starts, i);
    const uint32_t next = load<uint32_t>(data_ + header_.response_starts, i + 1);
    sum += (static_cast<double>(next) - start - 1) * weight_of_leaf(start);
  }
  return sum;
}

// ---- edges
// -------------------------------------------------------------------------------------------------

// Of a node that is in no run.
template <typename Symbol>
inline FrozenIndex::Edges FrozenIndex::edges_of(uint32_t node, const FrozenNode& self) const {
  const uint32_t num_inner = self.shape >> 1;
  const uint64_t inner = uint64_t{node} + header_.node_words;
  const uint64_t leaves = inner + num_inner * uint64_t{sizeof(InnerEdge<Symbol>) / 4};
  if (leaves + self.leaves > header_.num_words) return {};
  return {static_cast<uint32_t>(inner), num_inner, static_cast<uint32_t>(leaves), self.leaves,
          (self.shape & 1) != 0};
}

uint32_t FrozenIndex::long_label(uint32_t word) const {
  const char* labels = data_ + header_.long_labels;
  uint32_t low = 0;
  uint32_t high = header_.num_long_labels;
  while (low < high) {
    const uint32_t middle = low + (high - low) / 2;
    if (load<LongLabel>(labels, middle).edge < word) {
      low = middle + 1;
    } else {
      high = middle;
    }
  }
  return low < header_.num_long_labels ? load<LongLabel>(labels, low).length : 0;
}

template <typename Symbol>
[[gnu::always_inline]] inline FrozenIndex::Edge FrozenIndex::inner_edge(uint32_t word) const {
  InnerEdge<Symbol> stored;
  std::memcpy(&stored, nodes_ + word * uint64_t{4}, sizeof(stored));
  const uint32_t length = stored.length == kLongLabel<Symbol> ? long_label(word) : stored.length;
  return {stored.target, node_at(stored.target).end - length, length};
}

template <typename Symbol>
[[gnu::always_inline]] inline bool FrozenIndex::find_edge(uint32_t node, uint32_t symbol, Edge& edge) const {
  if (node == 0) {
    if (symbol > header_.num_symbols) return false;
    const RootEdge root = load<RootEdge>(data_ + header_.root_edges, symbol);
    if (root.word & kLeafBit) {
      edge = {kLeaf, root.word & ~kLeafBit, kEndless};
    } else {
      edge = {root.word, node_at(root.word).end - root.length, root.length};
    }
    return edge.length > 0 && edge.target != 0;
  }
  if (!is_plain(node)) {
    uint32_t only;
    return run_edge(node, edge, only) && only == symbol;
  }
  const FrozenNode self = node_at(node);
  __builtin_prefetch(nodes_ + self.link * uint64_t{4});  // most often there is no such edge
  const Edges edges = edges_of<Symbol>(node, self);
  constexpr uint32_t kStride = sizeof(InnerEdge<Symbol>) / 4;
  // The first edge is out of order. Few edges are looked at one after the other: their loads then do not wait
  // for each other.
  const auto search = [symbol](uint32_t count, auto symbol_of_edge) {
    if (count == 0 || symbol_of_edge(0) == symbol) return uint32_t{0};
    uint32_t low = 1;
    uint32_t high = count;
    while (high - low > 8) {
      const uint32_t middle = low + (high - low) / 2;
      if (symbol_of_edge(middle) <= symbol) {
        low = middle;
      } else {
        high = middle;
      }
    }
    while (low < high && symbol_of_edge(low) != symbol) ++low;
    return low < high ? low : count;
  };
  const uint32_t inner = search(edges.num_inner, [&](uint32_t i) -> uint32_t {
    Symbol first;
    std::memcpy(&first, nodes_ + (edges.inner + i * kStride + 1) * uint64_t{4}, sizeof(first));
    return first;
  });
  if (inner < edges.num_inner) {
    edge = inner_edge<Symbol>(edges.inner + inner * kStride);
    return edge.length > 0 && edge.target != 0;
  }
  const auto position = [&](uint32_t i) { return load<uint32_t>(nodes_, edges.leaves + i); };
  const uint32_t leaf = search(edges.num_leaves, [&](uint32_t i) { return text_at<Symbol>(position(i)); });
  if (leaf >= edges.num_leaves) return false;
  edge = {kLeaf, position(leaf), kEndless};
  return true;
}

template <typename Symbol>
[[gnu::always_inline]] inline bool FrozenIndex::best_edge(uint32_t node, Edge& edge) const {
  if (!is_plain(node)) {
    uint32_t symbol;
    return run_edge(node, edge, symbol);
  }
  const Edges edges = edges_of<Symbol>(node, node_at(node));
  if (edges.leaf_is_best) {
    if (edges.num_leaves == 0) return false;
    edge = {kLeaf, load<uint32_t>(nodes_, edges.leaves), kEndless};
    return true;
  }
  if (edges.num_inner == 0) return false;
  edge = inner_edge<Symbol>(edges.inner);
  return edge.length > 0 && edge.target != 0;
}

// ---- cursors
// -----------------------------------------------------------------------------------------------

template <typename Symbol>
inline bool FrozenIndex::take(FrozenCursor& cursor, uint32_t symbol) const {
  if (cursor.left == 0) {
    Edge edge;
    if (!find_edge<Symbol>(cursor.node, symbol, edge)) return false;
    follow(cursor, edge, 1);
    return true;
  }
  if (text_at<Symbol>(cursor.position) != symbol) return false;
  step_on(cursor);
  return true;
}

// Moves to the longest shorter context that occurs more often; false at the root. The label matched since the
// last node is matched again from the link, from node to node without reading what lies between (skip/count).
template <typename Symbol>
[[gnu::always_inline]] inline bool FrozenIndex::shorten_here(FrozenCursor& cursor) const {
  if (cursor.length == 0) return false;
  const uint32_t end = cursor.position;
  uint32_t begin = cursor.left == 0 ? end : end - (cursor.length - cursor.depth);
  FrozenCursor shorter;
  if (cursor.node == 0) {
    ++begin;
  } else {
    shorter.node = node_at(cursor.node).link;
    shorter.depth = shorter.length = node_at(shorter.node).length;
    if (shorter.depth >= cursor.depth) shorter = {};  // damaged
  }
  while (begin < end) {
    Edge edge;
    if (!find_edge<Symbol>(shorter.node, text_at<Symbol>(begin), edge)) {  // damaged
      shorter = {};
      break;
    }
    const uint32_t symbols = edge.length < end - begin ? edge.length : end - begin;
    follow(shorter, edge, symbols);
    begin += symbols;
  }
  cursor = shorter;
  return true;
}

template <typename Symbol>
bool FrozenIndex::shorten_as(FrozenCursor& cursor) const {
  return shorten_here<Symbol>(cursor);
}

FrozenCursor FrozenIndex::start() const {
  FrozenCursor cursor;
  if (narrow_) {
    take<uint16_t>(cursor, kStart);
  } else {
    take<uint32_t>(cursor, kStart);
  }
  return cursor;
}

template <typename Symbol>
inline void FrozenIndex::advance_as(FrozenCursor& cursor, std::span<const int32_t> tokens) const {
  FrozenCursor at = cursor;  // in registers
  for (const int32_t token : tokens) {
    if (at.left > 0 && token_of(text_at<Symbol>(at.position)) == token) {  // on along the label
      step_on(at);
      continue;
    }
    const uint32_t symbol = symbol_of<Symbol>(token);
    if (symbol == kStart) {  // a token that no response holds
      at = {};
      continue;
    }
    while (!take<Symbol>(at, symbol) && shorten_here<Symbol>(at)) {
    }
  }
  cursor = at;
}

void FrozenIndex::advance(FrozenCursor& cursor, std::span<const int32_t> tokens) const {
  if (narrow_) {
    advance_as<uint16_t>(cursor, tokens);
  } else {
    advance_as<uint32_t>(cursor, tokens);
  }
}

void FrozenIndex::shorten_to_continuation(FrozenCursor& cursor) const {
  while (cursor.length > 0) {
    if (cursor.left > 0) {
      if (token_at(cursor.position) >= 0) return;
    } else {
      Edge edge;
      if (narrow_ ? best_edge<uint16_t>(cursor.node, edge) : best_edge<uint32_t>(cursor.node, edge)) return;
    }
    if (narrow_) {
      shorten_as<uint16_t>(cursor);
    } else {
      shorten_as<uint32_t>(cursor);
    }
  }
}

FrozenIndex::Occurrences FrozenIndex::occurrences(const FrozenCursor& cursor) const {
  if (cursor.length == 0) {
    return {static_cast<uint32_t>(header_.num_tokens), static_cast<float>(total_weight())};
  }
  if (cursor.left == 0) return {node_at(cursor.node).count, weight_of_node(cursor.node)};
  if (cursor.target == kLeaf) return {1, weight_of_leaf(cursor.position - 1)};
  return {node_at(cursor.target).count, weight_of_node(cursor.target)};
}

void FrozenIndex::shorten(FrozenCursor& cursor) const {
  narrow_ ? shorten_as<uint16_t>(cursor) : shorten_as<uint32_t>(cursor);
}

// On a node.
template <typename Symbol>
bool FrozenIndex::next_as(const FrozenCursor& cursor, Next& next) const {
  Edge edge;
  if (!best_edge<Symbol>(cursor.node, edge)) return false;
  next = {token_of(text_at<Symbol>(edge.position)),
          edge.target == kLeaf ? weight_of_leaf(edge.position) : weight_of_node(edge.target), edge.target,
          edge.position, edge.length};
  return next.token >= 0;
}

float FrozenIndex::weight_next(const FrozenCursor& cursor, int32_t token) const {
  if (cursor.left > 0) return token_at(cursor.position) == token ? occurrences(cursor).weight : 0;
  const uint32_t symbol = narrow_ ? symbol_of<uint16_t>(token) : symbol_of<uint32_t>(token);
  Edge edge;
  if (symbol == kStart || !(narrow_ ? find_edge<uint16_t>(cursor.node, symbol, edge)
                                    : find_edge<uint32_t>(cursor.node, symbol, edge))) {
    return 0;
  }
  return edge.target == kLeaf ? weight_of_leaf(edge.position) : weight_of_node(edge.target);
}

// What follows the cursor up to the next node; false when nothing does.
template <typename Symbol>
bool FrozenIndex::first_piece(const FrozenCursor& cursor, Piece& piece) const {
  piece.length = cursor.length;
  piece.target = cursor.target;
  if (cursor.left == 0) {
    if (cursor.length == 0) return false;
    piece.symbols = 0;
    piece.target = cursor.node;
    piece.count_after = node_at(cursor.node).count;
    return next_piece<Symbol>(piece);
  }
  if (token_at(cursor.position) < 0) return false;
  piece.position = cursor.position;
  piece.symbols = cursor.left;
  piece.count = piece.count_after = cursor.target == kLeaf ? 1 : node_at(cursor.target).count;
  piece.ratio = 1;
  return true;
}

// Moves on to the piece after the next node.
template <typename Symbol>
bool FrozenIndex::next_piece(Piece& piece) const {
  const uint32_t node = piece.target;
  piece.length += piece.symbols;
  Edge edge;
  if (node == kLeaf || piece.length > header_.text_size || !best_edge<Symbol>(node, edge)) return false;
  const bool leaf = edge.target == kLeaf;
  piece.target = edge.target;
  piece.position = edge.position;
  piece.symbols = edge.length;
  piece.count = piece.count_after;
  piece.count_after = leaf ? 1 : node_at(edge.target).count;
  if (header_.uniform_weight > 0) {
    piece.ratio = static_cast<float>(piece.count_after) / static_cast<float>(piece.count);
  } else {
    piece.ratio = (leaf ? weight_of_leaf(edge.position) : weight_of_node(edge.target)) / weight_of_node(node);
  }
  return true;
}

template bool FrozenIndex::first_piece<uint16_t>(const FrozenCursor&, Piece&) const;
template bool FrozenIndex::first_piece<uint32_t>(const FrozenCursor&, Piece&) const;
template bool FrozenIndex::next_piece<uint16_t>(Piece&) const;
template bool FrozenIndex::next_piece<uint32_t>(Piece&) const;
template bool FrozenIndex::next_as<uint16_t>(const FrozenCursor&, Next&) const;
template bool FrozenIndex::next_as<uint32_t>(const FrozenCursor&, Next&) const;
template bool FrozenIndex::shorten_as<uint16_t>(FrozenCursor&) const;
template bool FrozenIndex::shorten_as<uint32_t>(FrozenCursor&) const;

}  // namespace redraft
