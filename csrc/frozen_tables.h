// The frozen index while it is built: what the builder fills, the folder of runs makes smaller and the writer
// lays out as a blob.
#pragma once

#include <cstdint>
#include <memory_resource>
#include <vector>

#include "csrc/frozen_format.h"

namespace redraft {

// A node while the index is built: its id is its place among the nodes.
struct BuiltNode {
  uint32_t length;
  uint32_t link;
  uint32_t end;
  uint32_t count;
  uint32_t edges;  // index of its first edge word; its last one is before the next node's first
  uint32_t shape;  // as in FrozenNode
};

template <typename Symbol>
struct FrozenTables {
  template <typename T>
  using Vector = std::pmr::vector<T>;
  static constexpr uint32_t kEdgeWords = sizeof(InnerEdge<Symbol>) / 4;

  explicit FrozenTables(std::pmr::memory_resource* resource) : memory(resource) {}

  // One past a node's last edge word.
  uint32_t stop_of(uint32_t node) const {
    return static_cast<uint32_t>(node + 1 < nodes.size() ? nodes[node + 1].edges : edge_words.size());
  }

  std::pmr::memory_resource* memory;
  float uniform_weight = 0;  // 0 when weights differ
  Vector<int32_t> token_ids{memory};
  Vector<Symbol> symbol_table{memory};
  Vector<uint32_t> starts{memory};  // text positions of the STARTs
  Vector<Symbol> text{memory};
  Vector<BuiltNode> nodes{memory};
  Vector<float> node_weights{memory};  // when weights differ
  Vector<uint32_t> edge_words{memory};
  Vector<LongLabel> long_labels{memory};  // by index of an edge word
  Vector<RootEdge> root_edges{memory};
  Vector<FrozenRun> runs{memory};  // of the last nodes, which `nodes` then has no longer
};

}  // namespace redraft
