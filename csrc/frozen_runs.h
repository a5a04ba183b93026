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
    const uint32_t num_nodes = static_cast<uint32_t>(tables_.nodes.size());
    for (uint32_t node = 1; node < num_nodes;) {
      const uint32_t end = end_of_run(node);
      if (end - node >= kShortestRun) add_run(node, end - node);
      node = end - node >= kShortestRun || end == node + 1 ? end : end - 1;
    }
    if (!tables_.runs.empty()) move();
  }

 private:
  static constexpr uint32_t kShortestRun = 8;
  static constexpr uint32_t kEdgeWords = FrozenTables<Symbol>::kEdgeWords;
  template <typename T>
  using Vector = std::pmr::vector<T>;

  InnerEdge<Symbol> edge_at(uint32_t word) const {
    InnerEdge<Symbol> edge;
    std::memcpy(&edge, &tables_.edge_words[word], sizeof(edge));
    return edge;
  }
  bool has_one_edge(uint32_t node) const {
    return tables_.nodes[node].shape == 2 &&
           tables_.stop_of(node) - tables_.nodes[node].edges == kEdgeWords &&
           edge_at(tables_.nodes[node].edges).length != kLongLabel<Symbol>;
  }

  // One past the last node of the run that begins with `first`.
  uint32_t end_of_run(uint32_t first) const {
    uint32_t end = first + 1;
    if (!has_one_edge(first)) return end;
    const InnerEdge<Symbol> edge = edge_at(tables_.nodes[first].edges);
    for (; end < tables_.nodes.size() && has_one_edge(end); ++end) {
      const BuiltNode& before = tables_.nodes[end - 1];
      const BuiltNode& node = tables_.nodes[end];
      const InnerEdge<Symbol> next = edge_at(node.edges);
      if (next.target != end - 1 || before.link != end) break;
      if (next.symbol != edge.symbol || next.length != edge.length) break;
      const BuiltNode& second = tables_.nodes[first + 1];
      if (node.length - before.length != second.length - tables_.nodes[first].length ||
          node.end - before.end != second.end - tables_.nodes[first].end ||
          node.count - before.count != second.count - tables_.nodes[first].count) {
        break;
      }
    }
    return end;
  }

  void add_run(uint32_t first, uint32_t size) {
    const BuiltNode& node = tables_.nodes[first];
    const BuiltNode& second = tables_.nodes[first + 1];
    const InnerEdge<Symbol> edge = edge_at(node.edges);
    tables_.runs.push_back({first, size, node.length, second.length - node.length, node.end,
                            second.end - node.end, node.count, second.count - node.count, edge.target,
                            tables_.nodes[first + size - 1].link, edge.length, edge.symbol});
  }

  void move() {
    const uint32_t num_nodes = static_cast<uint32_t>(tables_.nodes.size());
    Vector<uint32_t> ids(num_nodes, tables_.memory);
    uint32_t plain = 0;
    for (size_t run = 0, node = 0; node < num_nodes;) {
      if (run < tables_.runs.size() && tables_.runs[run].first == node) {
        node += tables_.runs[run++].size;
      } else {
        ids[node++] = plain++;
      }
    }
    uint32_t id = plain;
    for (const FrozenRun& run : tables_.runs) {
      for (uint32_t i = 0; i < run.size; ++i) ids[run.first + i] = id++;
    }
    Vector<float> weights(tables_.node_weights.size(), tables_.memory);
    if (tables_.node_weights.size() == num_nodes) {
      for (uint32_t node = 0; node < num_nodes; ++node) weights[ids[node]] = tables_.node_weights[node];
      tables_.node_weights.swap(weights);
    }
    Vector<BuiltNode> moved{tables_.memory};
    uint32_t words = 0;
    size_t label = 0;
    size_t kept_labels = 0;
    for (uint32_t node = 0; node < num_nodes; ++node) {
      if (ids[node] >= plain) continue;
      BuiltNode self = tables_.nodes[node];
      const uint32_t begin = self.edges;
      const uint32_t stop = tables_.stop_of(node);
      // What is written lies before what is still to be read.
      for (; label < tables_.long_labels.size() && tables_.long_labels[label].edge < stop; ++label) {
        LongLabel kept = tables_.long_labels[label];
        kept.edge -= begin - words;
        tables_.long_labels[kept_labels++] = kept;
      }
      for (uint32_t edge = 0; edge < self.shape / 2; ++edge) {
        uint32_t& target = tables_.edge_words[begin + edge * kEdgeWords];
        target = ids[target];
      }
      self.link = ids[self.link];
      self.edges = words;
      for (uint32_t word = begin; word < stop; ++word) tables_.edge_words[words++] = tables_.edge_words[word];
      moved.push_back(self);
    }
    tables_.nodes.swap(moved);
    tables_.edge_words.resize(words);
    for (FrozenRun& run : tables_.runs) {
      run.first = ids[run.first];
      run.first_target = ids[run.first_target];
      run.last_link = ids[run.last_link];
    }
    for (RootEdge& edge : tables_.root_edges) {
      if (!(edge.word & kLeafBit)) edge.word = ids[edge.word];
    }
  }

  FrozenTables<Symbol>& tables_;
};

}  // namespace redraft
