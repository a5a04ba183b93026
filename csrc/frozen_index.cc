#include "csrc/frozen_index.h"

#include <bit>
#include <cstddef>
#include <string>
#include <utility>

#include "csrc/checksum.h"
#include "csrc/error.h"

namespace redraft {
namespace {

[[noreturn]] void throw_data_loss(const std::string& what) {
  throw Error(ErrorCode::kDataLoss, "buffer: " + what + "; fetch or build the index again");
}

}  // namespace

FrozenIndex::FrozenIndex(std::vector<uint64_t> blob) : blob_(std::move(blob)) {
  data_ = reinterpret_cast<const char*>(blob_.data());
  open(blob_.size() * 8, false);
}

FrozenIndex::FrozenIndex(const void* data, uint64_t size, std::shared_ptr<const void> owner, bool verify)
    : owner_(std::move(owner)), data_(static_cast<const char*>(data)) {
  open(size, verify);
}

void FrozenIndex::open(uint64_t size, bool verify) {
  static_assert(std::endian::native == std::endian::little, "the blob is little-endian");
  if (size < sizeof(FrozenHeader)) throw_data_loss("too short for an index");
  std::memcpy(&header_, data_, sizeof(header_));
  const FrozenHeader& h = header_;
  if (std::memcmp(h.magic, kMagic, sizeof(kMagic)) != 0) throw_data_loss("not a redraft index");
  if (h.version != kFormatVersion) {
    throw_data_loss("format version " + std::to_string(h.version) + ", this build reads " +
                    std::to_string(kFormatVersion));
  }
  if (h.header_checksum != checksum(data_, offsetof(FrozenHeader, header_checksum), kFormatVersion)) {
    throw_data_loss("damaged header");
  }
  if (h.total_bytes != size) {
    throw_data_loss("holds " + std::to_string(size) + " bytes of an index of " +
                    std::to_string(h.total_bytes));
  }
  narrow_ = h.symbol_bytes == 2;
  const uint64_t symbol = h.symbol_bytes;
  const uint64_t nodes = h.num_nodes;
  const uint64_t symbols = h.num_symbols;
  const uint64_t responses = h.num_responses;
  const bool weighted = h.uniform_weight == 0;
  const auto inside = [&](uint64_t offset, uint64_t bytes) {
    return offset >= sizeof(FrozenHeader) && offset <= size && bytes <= size - offset;
  };
  const bool sound =
      (symbol == 2 || symbol == 4) && std::has_single_bit(h.symbol_slots) && symbols < h.symbol_slots &&
      nodes > 0 && responses > 0 && h.text_size > 0 && h.uniform_weight >= 0 &&
      inside(h.token_ids, symbols * 4) && inside(h.symbol_table, uint64_t{h.symbol_slots} * symbol) &&
      inside(h.response_starts, (responses + 1) * 4) && inside(h.text, uint64_t{h.text_size} * symbol) &&
      inside(h.root_edges, (symbols + 1) * sizeof(RootEdge)) &&
      inside(h.nodes, (nodes + 1) * sizeof(FrozenNode)) &&
      inside(h.edge_words, uint64_t{h.num_edge_words} * 4) &&
      inside(h.long_labels, uint64_t{h.num_long_labels} * sizeof(LongLabel)) &&
      (!weighted || (inside(h.response_weights, responses * 4) && inside(h.node_weights, nodes * 4)));
  if (!sound) throw_data_loss("inconsistent header");
  if (verify &&
      h.content_checksum != checksum(data_ + sizeof(FrozenHeader), size - sizeof(FrozenHeader), h.version)) {
    throw_data_loss("damaged content");
  }
}

// ---- the blob's values
// -------------------------------------------------------------------------------------

uint32_t FrozenIndex::symbol_of(int32_t token) const {
  const uint32_t mask = header_.symbol_slots - 1;
  uint32_t slot = symbol_slot(token, header_.symbol_slots);
  for (uint32_t probes = 0; probes <= mask; ++probes) {
    const uint32_t symbol = symbol_at(header_.symbol_table, slot);
    if (symbol == 0 || symbol > header_.num_symbols) break;
    if (load<int32_t>(header_.token_ids, symbol - 1) == token) return symbol;
    slot = (slot + 1) & mask;
  }
  return kStart;
}

int32_t FrozenIndex::token_of(uint32_t symbol) const {
  if (symbol == kStart || symbol > header_.num_symbols) return -1;
  return load<int32_t>(header_.token_ids, symbol - 1);
}

uint32_t FrozenIndex::text_at(uint32_t position) const {
  return position < header_.text_size ? symbol_at(header_.text, position) : kStart;
}

float FrozenIndex::weight_of_leaf(uint32_t position) const {
  if (header_.uniform_weight > 0) return header_.uniform_weight;
  uint32_t low = 0;  // the last response that starts at or before `position`
  uint32_t high = header_.num_responses;
  while (high - low > 1) {
    const uint32_t middle = low + (high - low) / 2;
    (load<uint32_t>(header_.response_starts, middle) <= position ? low : high) = middle;
  }
  return load<float>(header_.response_weights, low);
}

float FrozenIndex::weight_of_node(uint32_t node) const {
  if (header_.uniform_weight > 0) {
    return static_cast<float>(static_cast<double>(node_at(node).count) * header_.uniform_weight);
  }
  return load<float>(header_.node_weights, node < header_.num_nodes ? node : 0);
}

FrozenNode FrozenIndex::node_at(uint32_t node) const {
  return load<FrozenNode>(header_.nodes, node < header_.num_nodes ? node : 0);
}

double FrozenIndex::total_weight() const {
  double sum = 0;
  for (uint32_t i = 0; i < header_.num_responses; ++i) {
    const uint32_t start = load<uint32_t>(header_.response_starts, i);
    const uint32_t next = load<uint32_t>(header_.response_starts, i + 1);
    sum += (static_cast<double>(next) - start - 1) * weight_of_leaf(start);
  }
  return sum;
}

// ---- edges
// -------------------------------------------------------------------------------------------------

FrozenIndex::Edges FrozenIndex::edges_of(uint32_t node) const {
  if (node == 0 || node >= header_.num_nodes) return {};
  const FrozenNode self = load<FrozenNode>(header_.nodes, node);
  const uint32_t stop = load<FrozenNode>(header_.nodes, node + 1).edges;
  const uint64_t num_inner = self.shape >> 1;
  const uint64_t inner_words =
      num_inner * (narrow_ ? sizeof(InnerEdge<uint16_t>) : sizeof(InnerEdge<uint32_t>)) / 4;
  if (stop > header_.num_edge_words || self.edges + inner_words > stop) return {};
  const uint32_t leaves = self.edges + static_cast<uint32_t>(inner_words);
  return {self.edges, static_cast<uint32_t>(num_inner), leaves, stop - leaves, (self.shape & 1) != 0};
}

uint32_t FrozenIndex::inner_symbol(uint32_t word) const {
  uint32_t symbol;
  std::memcpy(&symbol, data_ + header_.edge_words + (word + 1) * uint64_t{4}, 4);
  return narrow_ ? symbol & 0xFFFF : symbol;
}

FrozenIndex::Edge FrozenIndex::inner_edge(uint32_t word) const {
  Edge edge;
  const char* at = data_ + header_.edge_words + word * uint64_t{4};
  bool is_long;
  if (narrow_) {
    InnerEdge<uint16_t> stored;
    std::memcpy(&stored, at, sizeof(stored));
    edge = {stored.target, 0, stored.length};
    is_long = stored.length == kLongLabel<uint16_t>;
  } else {
    InnerEdge<uint32_t> stored;
    std::memcpy(&stored, at, sizeof(stored));
    edge = {stored.target, 0, stored.length};
    is_long = stored.length == kLongLabel<uint32_t>;
  }
  if (is_long) {
    uint32_t low = 0;
    uint32_t high = header_.num_long_labels;
    while (low < high) {
      const uint32_t middle = low + (high - low) / 2;
      (load<LongLabel>(header_.long_labels, middle).edge < word ? low : high) =
          load<LongLabel>(header_.long_labels, middle).edge < word ? middle + 1 : middle;
    }
    edge.length = low < header_.num_long_labels ? load<LongLabel>(header_.long_labels, low).length : 0;
  }
  edge.position = node_at(edge.target).end - edge.length;
  return edge;
}

bool FrozenIndex::find_edge(uint32_t node, uint32_t symbol, Edge& edge) const {
  if (node == 0) {
    if (symbol > header_.num_symbols) return false;
    const RootEdge root = load<RootEdge>(header_.root_edges, symbol);
    if (root.word & kLeafBit) {
      edge = {kLeaf, root.word & ~kLeafBit, kEndless};
    } else {
      edge = {root.word, node_at(root.word).end - root.length, root.length};
    }
    return edge.length > 0 && edge.target != 0;
  }
  const Edges edges = edges_of(node);
  const uint32_t stride = narrow_ ? 2 : 3;
  const auto search = [&](uint32_t count, auto symbol_of_edge) {  // the first edge is out of order
    if (count == 0 || symbol_of_edge(0) == symbol) return uint32_t{0};
    uint32_t low = 1;
    uint32_t high = count;
    while (low < high) {
      const uint32_t middle = low + (high - low) / 2;
      if (symbol_of_edge(middle) < symbol) {
        low = middle + 1;
      } else {
        high = middle;
      }
    }
    return low < count && symbol_of_edge(low) == symbol ? low : count;
  };
  const uint32_t inner =
      search(edges.num_inner, [&](uint32_t i) { return inner_symbol(edges.inner + i * stride); });
  if (inner < edges.num_inner) {
    edge = inner_edge(edges.inner + inner * stride);
    return edge.length > 0 && edge.target != 0;
  }
  const auto leaf_position = [&](uint32_t i) { return load<uint32_t>(header_.edge_words, edges.leaves + i); };
  const uint32_t leaf = search(edges.num_leaves, [&](uint32_t i) { return text_at(leaf_position(i)); });
  if (leaf >= edges.num_leaves) return false;
  edge = {kLeaf, leaf_position(leaf), kEndless};
  return true;
}

bool FrozenIndex::best_edge(uint32_t node, Edge& edge) const {
  const Edges edges = edges_of(node);
  if (edges.leaf_is_best) {
    if (edges.num_leaves == 0) return false;
    edge = {kLeaf, load<uint32_t>(header_.edge_words, edges.leaves), kEndless};
    return true;
  }
  if (edges.num_inner == 0) return false;
  edge = inner_edge(edges.inner);
  return edge.length > 0 && edge.target != 0;
}

// ---- cursors
// -----------------------------------------------------------------------------------------------

void FrozenIndex::follow(FrozenCursor& cursor, const Edge& edge, uint32_t symbols) const {
  cursor.length += symbols;
  cursor.target = edge.target;
  cursor.position = edge.position + symbols;
  cursor.left = edge.length - symbols;
  if (cursor.left == 0) {
    cursor.node = edge.target;
    cursor.depth = cursor.length;
  }
}

bool FrozenIndex::take(FrozenCursor& cursor, uint32_t symbol) const {
  if (cursor.left == 0) {
    Edge edge;
    if (!find_edge(cursor.node, symbol, edge)) return false;
    follow(cursor, edge, 1);
    return true;
  }
  if (text_at(cursor.position) != symbol) return false;
  ++cursor.length;
  ++cursor.position;
  if (--cursor.left == 0) {
    cursor.node = cursor.target;
    cursor.depth = cursor.length;
  }
  return true;
}

// Moves to the longest shorter context that occurs more often; false at the root. The label matched since the
// last node is matched again from the link, from node to node without reading what lies between (skip/count).
bool FrozenIndex::shorten(FrozenCursor& cursor) const {
  if (cursor.length == 0) return false;
  const uint32_t matched = cursor.length - cursor.depth;
  uint32_t begin = cursor.position - matched;
  const uint32_t end = cursor.position;
  FrozenCursor shorter;
  if (cursor.node == 0) {
    ++begin;
  } else {
    shorter.node = node_at(cursor.node).link;
    shorter.depth = shorter.length = node_at(shorter.node).length;
    if (shorter.depth >= cursor.depth) shorter = {};  // damaged
  }
  if (cursor.left == 0) begin = end;
  while (begin < end) {
    Edge edge;
    if (!find_edge(shorter.node, text_at(begin), edge)) {  // damaged
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

FrozenCursor FrozenIndex::start() const {
  FrozenCursor cursor;
  take(cursor, kStart);
  return cursor;
}

void FrozenIndex::advance(FrozenCursor& cursor, std::span<const int32_t> tokens) const {
  for (const int32_t token : tokens) {
    const uint32_t symbol = symbol_of(token);
    if (symbol == kStart) {  // a token that no response holds
      cursor = {};
      continue;
    }
    while (!take(cursor, symbol)) {
      if (!shorten(cursor)) break;
    }
  }
}

void FrozenIndex::shorten_to_continuation(FrozenCursor& cursor) const {
  while (cursor.length > 0) {
    FrozenCursor probe = cursor;
    if (step_on(probe).token >= 0) return;
    shorten(cursor);
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

FrozenIndex::Step FrozenIndex::step_on(FrozenCursor& cursor) const {
  Step step{-1, 1.0f, 1};
  if (cursor.left == 0) {
    Edge edge;
    if (!best_edge(cursor.node, edge)) return step;
    step.count = node_at(cursor.node).count;
    const float weight = edge.target == kLeaf ? weight_of_leaf(edge.position) : weight_of_node(edge.target);
    step.ratio = weight / weight_of_node(cursor.node);
    step.token = token_of(text_at(edge.position));
    follow(cursor, edge, 1);
    return step;
  }
  if (cursor.target != kLeaf) step.count = node_at(cursor.target).count;
  step.token = token_of(text_at(cursor.position));
  if (step.token >= 0) take(cursor, text_at(cursor.position));
  return step;
}

}  // namespace redraft
