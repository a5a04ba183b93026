// Folds the nodes of loops: a text that repeats itself has a node for every period, each a period longer than
// the one before, with one edge between them.
#pragma once

#include <cstdint>
#include <cstring>
#include <memory_resource>
#include <vector>

#include "csrc/frozen_tables.h"

namespace redraft {

template <typename Symbol>
class RunFolder {
 public:
  explicit RunFolder(FrozenTables<Symbol>& tables) : tables_(tables) {}

  // Takes the nodes of long enough runs out of the tables and gives them the ids after all others'. Linear.
  void fold() {
    const uint32_t num_nodes = static_cast<uint32_t>(nodes_.size());
    for (uint32_t node = 1; node < num_nodes;) {
      const uint32_t end = end_of_run(node);
      if (end - node >= kShortestRun) add_run(node, end - node);
      node = end - node >= kShortestRun || end == node + 1 ? end : end - 1;
    }
    if (!runs_.empty()) move();
  }

 private:
  static constexpr uint32_t kShortestRun = 8;
  static constexpr uint32_t kEdgeWords = FrozenTables<Symbol>::kEdgeWords;
  template <typename T>
  using Vector = std::pmr::vector<T>;

  InnerEdge<Symbol> edge_at(uint32_t word) const {
    InnerEdge<Symbol> edge;
    std::memcpy(&edge, &edge_words_[word], sizeof(edge));
    return edge;
  }
  uint32_t stop_of(uint32_t node) const { return tables_.stop_of(node); }
  bool has_one_edge(uint32_t node) const {
    return nodes_[node].shape == 2 && stop_of(node) - nodes_[node].edges == kEdgeWords &&
           edge_at(nodes_[node].edges).length != kLongLabel<Symbol>;
  }

  // One past the last node of the run that begins with `first`.
  uint32_t end_of_run(uint32_t first) const {
    uint32_t end = first + 1;
    if (!has_one_edge(first)) return end;
    const InnerEdge<Symbol> edge = edge_at(nodes_[first].edges);
    for (; end < nodes_.size() && has_one_edge(end); ++end) {
      const BuiltNode& before = nodes_[end - 1];
      const BuiltNode& node = nodes_[end];
      const InnerEdge<Symbol> next = edge_at(node.edges);
      if (next.target != end - 1 || before.link != end) break;
      if (next.symbol != edge.symbol || next.length != edge.length) break;
      const BuiltNode& second = nodes_[first + 1];
      if (node.length - before.length != second.length - nodes_[first].length ||
          node.end - before.end != second.end - nodes_[first].end ||
          node.count - before.count != second.count - nodes_[first].count) {
        break;
      }
    }
    return end;
  }

  void add_run(uint32_t first, uint32_t size) {
    const BuiltNode& node = nodes_[first];
    const BuiltNode& second = nodes_[first + 1];
    const InnerEdge<Symbol> edge = edge_at(node.edges);
    runs_.push_back({first, size, node.length, second.length - node.length, node.end, second.end - node.end,
                     node.count, second.count - node.count, edge.target, nodes_[first + size - 1].link,
                     edge.length, edge.symbol});
  }

  void move() {
    const uint32_t num_nodes = static_cast<uint32_t>(nodes_.size());
    Vector<uint32_t> ids(num_nodes, tables_.memory);
    uint32_t plain = 0;
    for (size_t run = 0, node = 0; node < num_nodes;) {
      if (run < runs_.size() && runs_[run].first == node) {
        node += runs_[run++].size;
      } else {
        ids[node++] = plain++;
      }
    }
    uint32_t id = plain;
    for (const FrozenRun& run : runs_) {
      for (uint32_t i = 0; i < run.size; ++i) ids[run.first + i] = id++;
    }
    Vector<float> weights(node_weights_.size(), tables_.memory);
    if (node_weights_.size() == num_nodes) {
      for (uint32_t node = 0; node < num_nodes; ++node) weights[ids[node]] = node_weights_[node];
      node_weights_.swap(weights);
    }
    uint32_t words = 0;
    size_t label = 0;
    size_t kept_labels = 0;
    for (uint32_t node = 0; node < num_nodes; ++node) {
      if (ids[node] >= plain) continue;
      BuiltNode self = nodes_[node];
      const uint32_t begin = self.edges;
      const uint32_t stop = stop_of(node);
      // What is written lies before what is still to be read.
      for (; label < long_labels_.size() && long_labels_[label].edge < stop; ++label) {
        LongLabel moved = long_labels_[label];
        moved.edge -= begin - words;
        long_labels_[kept_labels++] = moved;
      }
      for (uint32_t edge = 0; edge < self.shape / 2; ++edge) {
        uint32_t& target = edge_words_[begin + edge * kEdgeWords];
        target = ids[target];
      }
      self.link = ids[self.link];
      self.edges = words;
      for (uint32_t word = begin; word < stop; ++word) edge_words_[words++] = edge_words_[word];
      moved_.push_back(self);
    }
    nodes_.swap(moved_);
    edge_words_.resize(words);
    for (FrozenRun& run : runs_) {
      run.first = ids[run.first];
      run.first_target = ids[run.first_target];
      run.last_link = ids[run.last_link];
    }
    for (RootEdge& edge : root_edges_) {
      if (!(edge.word & kLeafBit)) edge.word = ids[edge.word];
    }
  }

  FrozenTables<Symbol>& tables_;
  Vector<BuiltNode>& nodes_ = tables_.nodes;
  Vector<float>& node_weights_ = tables_.node_weights;
  Vector<uint32_t>& edge_words_ = tables_.edge_words;
  Vector<LongLabel>& long_labels_ = tables_.long_labels;
  Vector<RootEdge>& root_edges_ = tables_.root_edges;
  Vector<FrozenRun>& runs_ = tables_.runs;
  Vector<BuiltNode> moved_{tables_.memory};
};

}  // namespace redraft
