#include "csrc/frozen_builder.h"

#include <cstring>
#include <memory_resource>

#include "csrc/frozen_input.h"
#include "csrc/frozen_runs.h"
#include "csrc/frozen_tables.h"
#include "csrc/frozen_writer.h"
#include "csrc/memory.h"
#include "csrc/next_smaller.h"
#include "csrc/suffix_array.h"

namespace redraft {
namespace {

constexpr uint32_t kNone = 0xFFFFFFFFu;
constexpr uint32_t kAhead = 16;  // entries that the sequential passes prefetch ahead of random reads

// The compact automaton is read off the suffix tree, and the suffix tree off the suffix array: a tree node is
// an interval of the array. Tree nodes whose occurrences are all preceded by one symbol say the same as the
// node of the context one longer; only the others ("left-maximal") become nodes, and stand for the whole
// chain.
template <typename Symbol>
class Builder {
 public:
  Builder(std::span<const int64_t> offsets, std::span<const float> weights, std::pmr::memory_resource* memory)
      : offsets_(offsets), weights_(weights), memory_(memory) {
    uniform_weight_ = weights.empty() ? 1.0f : weights[0];
    for (float weight : weights) {
      if (weight != uniform_weight_) uniform_weight_ = 0;
    }
  }

  std::vector<uint64_t> build(std::span<const int32_t> tokens, const std::pmr::vector<int32_t>& token_ids,
                              LimitedMemory& meter, uint64_t memory_limit) {
    token_ids_ = token_ids;
    make_text(tokens);
    sort();
    scan();
    resolve_chains();
    link();
    RunFolder<Symbol>(tables_).fold();
    return FrozenWriter<Symbol>(tables_).write(weights_, meter, memory_limit);
  }

 private:
  static constexpr uint32_t kEdgeWords = FrozenTables<Symbol>::kEdgeWords;
  static constexpr uint32_t kMixed = 0xFFFFFFFEu;  // more than one symbol precedes

  template <typename T>
  using Vector = std::pmr::vector<T>;

  struct Interval {  // of the suffix array, still open to the right
    uint32_t left;
    uint32_t depth;
    uint32_t before;    // the one symbol before all its suffixes, kNone or kMixed
    uint32_t children;  // where its children start in pending_
    double weight;
  };
  struct TreeNode {
    uint32_t left;
    uint32_t size;
    uint32_t depth;
    uint32_t boundary;  // start of its second child
    uint32_t node;      // kNone until known
  };

  void make_text(std::span<const int32_t> tokens) {
    symbol_slots_ = 4;
    while (symbol_slots_ * 3 < token_ids_.size() * 4) symbol_slots_ *= 2;
    symbol_table_.resize(symbol_slots_, 0);
    for (size_t i = 0; i < token_ids_.size(); ++i) {
      uint32_t slot = symbol_slot(token_ids_[i], symbol_slots_);
      while (symbol_table_[slot] != 0) slot = (slot + 1) & (symbol_slots_ - 1);
      symbol_table_[slot] = static_cast<Symbol>(i + 1);
    }
    const size_t responses = offsets_.size() - 1;
    text_.resize(tokens.size() + responses + 1);
    starts_.resize(responses + 1);
    size_t at = 0;
    for (size_t response = 0; response < responses; ++response) {
      starts_[response] = static_cast<uint32_t>(at);
      text_[at++] = kStart;
      for (int64_t i = offsets_[response]; i < offsets_[response + 1]; ++i)
        text_[at++] = symbol_of(tokens[i]);
    }
    starts_[responses] = static_cast<uint32_t>(at);
    text_[at] = kStart;
    size_ = static_cast<uint32_t>(text_.size());
  }

  Symbol symbol_of(int32_t token) const {
    uint32_t slot = symbol_slot(token, symbol_slots_);
    while (token_ids_[symbol_table_[slot] - 1] != token) slot = (slot + 1) & (symbol_slots_ - 1);
    return symbol_table_[slot];
  }

  // Suffix array, its inverse, and the common prefixes of neighbours, which never run past a START.
  void sort() {
    order_.resize(size_);
    sort_suffixes<Symbol>(text_, static_cast<uint32_t>(token_ids_.size()) + 1, order_, memory_);
    rank_.resize(size_);
    for (uint32_t i = 0; i < size_; ++i) rank_[order_[i]] = i;
    common_.resize(size_);
    common_[0] = 0;
    uint32_t length = 0;
    for (uint32_t position = 0; position + 1 < size_; ++position) {  // the last START sorts first: rank 0
      if (position + kAhead < size_) __builtin_prefetch(&order_[rank_[position + kAhead]] - 1);
      const uint32_t rank = rank_[position];
      const uint32_t other = order_[rank - 1];
      if (other + 1 == size_) {  // the last START starts no response
        length = 0;
      } else {
        if (length == 0 && text_[position] == text_[other]) length = 1;
        if (length > 0) {
          while (text_[position + length] == text_[other + length] && text_[position + length] != kStart)
            ++length;
        }
      }
      common_[rank] = length;
      if (length > 0) --length;
    }
  }

  // Walks the array once; an interval is closed, and then numbered, when its last suffix has been seen.
  void scan() {
    outermost_at_left_.resize(size_);
    outermost_at_right_.resize(size_);
    owner_.resize(size_);
    nodes_.push_back(BuiltNode{0, 0, 0, size_ - 1, 0, 0});
    node_weights_.push_back(0);
    open_.push_back({1, 0, kNone, 0, 0});
    for (uint32_t i = 1; i < size_; ++i) {
      if (i + kAhead < size_) __builtin_prefetch(&text_[order_[i + kAhead]] - 1);
      const uint32_t next = i + 1 < size_ ? common_[i + 1] : 0;
      if (next > open_.back().depth) open(i, next);
      add_leaf(i);
      while (next < open_.back().depth) {
        const Interval closed = open_.back();
        open_.pop_back();
        const uint32_t tree = close(closed, i);
        if (next > open_.back().depth) open(closed.left, next);
        add_child(tree, closed);
      }
    }
    close_root();
  }

  void open(uint32_t left, uint32_t depth) {
    open_.push_back({left, depth, kNone, static_cast<uint32_t>(pending_.size()), 0});
  }

  static void merge_before(Interval& into, uint32_t before) {
    if (into.before == kNone) {
      into.before = before;
    } else if (into.before != before) {
      into.before = kMixed;
    }
  }

  float weight_at(uint32_t position) const {
    if (uniform_weight_ > 0) return uniform_weight_;
    const auto after = std::upper_bound(starts_.begin(), starts_.end(), position);
    return weights_[after - starts_.begin() - 1];
  }

  void add_leaf(uint32_t i) {
    Interval& top = open_.back();
    const uint32_t position = order_[i];
    // Nothing precedes a response, so contexts that begin with START stand for themselves.
    merge_before(top, text_[position] == kStart ? kMixed : text_[position - 1]);
    if (uniform_weight_ == 0) top.weight += weight_at(position);
    pending_.push_back(kLeafBit | i);
  }

  void add_child(uint32_t tree, const Interval& closed) {
    Interval& top = open_.back();
    merge_before(top, closed.before);
    top.weight += closed.weight;
    pending_.push_back(tree);
  }

  uint32_t left_of(uint32_t child) const { return child & kLeafBit ? child & ~kLeafBit : tree_[child].left; }

  uint32_t close(const Interval& closed, uint32_t right) {
    const uint32_t id = static_cast<uint32_t>(tree_.size());
    const uint32_t size = right - closed.left + 1;
    outermost_at_left_[closed.left] = id;  // an outer interval with the same bound comes later
    outermost_at_right_[right] = id;
    for (size_t child = closed.children + 1; child < pending_.size(); ++child) {
      owner_[left_of(pending_[child])] = id;
    }
    uint32_t node = kNone;
    if (closed.before == kMixed) node = add_node(closed, size);
    tree_.push_back({closed.left, size, closed.depth, left_of(pending_[closed.children + 1]), node});
    if (uniform_weight_ == 0) tree_weights_.push_back(static_cast<float>(closed.weight));
    pending_.resize(closed.children);
    return id;
  }

  float child_weight(uint32_t child) const {
    if (child & kLeafBit) return weight_at(order_[child & ~kLeafBit]);
    return uniform_weight_ > 0 ? static_cast<float>(tree_[child].size) : tree_weights_[child];
  }

  uint32_t add_node(const Interval& closed, uint32_t size) {
    const uint32_t node = static_cast<uint32_t>(nodes_.size());
    const uint32_t depth = closed.depth;
    inner_.clear();
    leaves_.clear();
    size_t best_inner = 0;
    size_t best_leaf = 0;
    bool leaf_is_best = false;
    float heaviest = 0;
    for (size_t i = closed.children; i < pending_.size(); ++i) {
      const uint32_t child = pending_[i];
      const uint32_t position = order_[left_of(child)] + depth;
      if (text_[position] == kStart) continue;  // a response ends here: nothing to draft
      float weight = 1;
      if (child & kLeafBit) {
        if (uniform_weight_ == 0) weight = child_weight(child);
        leaves_.push_back(position);
      } else {
        weight = uniform_weight_ > 0 ? static_cast<float>(tree_[child].size) : tree_weights_[child];
        inner_.push_back(child);
      }
      if (weight > heaviest) {  // among equals the lowest token id wins
        heaviest = weight;
        leaf_is_best = child & kLeafBit;
        (leaf_is_best ? best_leaf : best_inner) = (leaf_is_best ? leaves_.size() : inner_.size()) - 1;
      }
    }
    if (leaf_is_best) {
      std::rotate(leaves_.begin(), leaves_.begin() + best_leaf, leaves_.begin() + best_leaf + 1);
    } else if (!inner_.empty()) {
      std::rotate(inner_.begin(), inner_.begin() + best_inner, inner_.begin() + best_inner + 1);
    }
    nodes_.push_back({depth, 0, order_[closed.left] + depth, size, static_cast<uint32_t>(edge_words_.size()),
                      static_cast<uint32_t>(inner_.size()) * 2 + (leaf_is_best ? 1 : 0)});
    if (uniform_weight_ == 0) node_weights_.push_back(static_cast<float>(closed.weight));
    for (uint32_t child : inner_) add_inner_edge(child, depth);
    edge_words_.insert(edge_words_.end(), leaves_.begin(), leaves_.end());
    return node;
  }

  void add_inner_edge(uint32_t child, uint32_t depth) {
    const uint32_t length = tree_[child].depth - depth;
    InnerEdge<Symbol> edge{child, text_[order_[tree_[child].left] + depth], kLongLabel<Symbol>};
    if (length < kLongLabel<Symbol>) {
      edge.length = static_cast<Symbol>(length);
    } else {
      long_labels_.push_back({static_cast<uint32_t>(edge_words_.size()), length});
    }
    uint32_t words[kEdgeWords];
    std::memcpy(words, &edge, sizeof(edge));
    edge_words_.insert(edge_words_.end(), words, words + kEdgeWords);
  }

  void close_root() {
    root_edges_.resize(token_ids_.size() + 1, RootEdge{kLeafBit, 0});
    double weight = 0;
    for (uint32_t child : pending_) {
      const uint32_t position = order_[left_of(child)];
      RootEdge& edge = root_edges_[text_[position]];
      edge = child & kLeafBit ? RootEdge{kLeafBit | position, 0} : RootEdge{child, tree_[child].depth};
    }
    weight = open_.back().weight;
    node_weights_[0] = static_cast<float>(weight);
  }

  // Every tree node that is not left-maximal finds the node that stands for it: the context one symbol longer
  // has an interval of the same size, at the rank of the suffix one position earlier.
  void resolve_chains() {
    shortest_.resize(nodes_.size(), kNone);
    Vector<uint32_t> chain(memory_);
    for (uint32_t id = 0; id < tree_.size(); ++id) {
      uint32_t at = id;
      chain.clear();
      while (tree_[at].node == kNone) {
        chain.push_back(at);
        const uint32_t left = rank_[order_[tree_[at].left] - 1];
        const uint32_t size = tree_[at].size;
        const uint32_t found = outermost_at_left_[left];
        at = tree_[found].left == left && tree_[found].size == size ? found
                                                                    : outermost_at_right_[left + size - 1];
      }
      const uint32_t node = tree_[at].node;
      for (uint32_t member : chain) tree_[member].node = node;
      uint32_t& shortest = shortest_[node];
      if (shortest == kNone || tree_[id].depth < tree_[shortest].depth) shortest = id;
    }
    for (RootEdge& edge : root_edges_) {
      if (!(edge.word & kLeafBit)) edge.word = tree_[edge.word].node;
    }
    for (uint32_t node = 1; node < nodes_.size(); ++node) {
      for (uint32_t edge = 0; edge < nodes_[node].shape / 2; ++edge) {
        uint32_t& target = edge_words_[nodes_[node].edges + edge * kEdgeWords];
        target = tree_[target].node;
      }
    }
  }

  // The link of a class leads from its shortest tree node to the one without the first symbol: the interval
  // that holds both sides of one of its boundaries, each moved on by a position, and is no deeper than that.
  void link() {
    const NextSmaller next_smaller(common_, memory_);
    for (uint32_t node = 1; node < nodes_.size(); ++node) {
      const TreeNode& tree = tree_[shortest_[node]];
      if (tree.depth == 1) continue;  // links to the root
      const uint32_t from = rank_[order_[tree.boundary - 1] + 1];
      nodes_[node].link = tree_[owner_[next_smaller.find(from + 1, tree.depth - 1)]].node;
    }
  }

  std::span<const int64_t> offsets_;
  std::span<const float> weights_;
  std::pmr::memory_resource* memory_;
  FrozenTables<Symbol> tables_{memory_};
  float& uniform_weight_ = tables_.uniform_weight;
  Vector<int32_t>& token_ids_ = tables_.token_ids;
  Vector<Symbol>& symbol_table_ = tables_.symbol_table;
  Vector<uint32_t>& starts_ = tables_.starts;
  Vector<Symbol>& text_ = tables_.text;
  Vector<BuiltNode>& nodes_ = tables_.nodes;
  Vector<float>& node_weights_ = tables_.node_weights;
  Vector<uint32_t>& edge_words_ = tables_.edge_words;
  Vector<LongLabel>& long_labels_ = tables_.long_labels;
  Vector<RootEdge>& root_edges_ = tables_.root_edges;
  uint32_t size_ = 0;
  uint32_t symbol_slots_ = 0;
  Vector<int32_t> order_{memory_};
  Vector<uint32_t> rank_{memory_};
  Vector<uint32_t> common_{memory_};              // common_[i]: of suffixes order_[i - 1] and order_[i]
  Vector<uint32_t> outermost_at_left_{memory_};   // largest interval that starts there
  Vector<uint32_t> outermost_at_right_{memory_};  // largest interval that ends there
  Vector<uint32_t> owner_{memory_};               // interval whose children meet there
  Vector<Interval> open_{memory_};
  Vector<uint32_t> pending_{memory_};  // children of the open intervals
  Vector<TreeNode> tree_{memory_};
  Vector<float> tree_weights_{memory_};
  Vector<uint32_t> inner_{memory_};
  Vector<uint32_t> leaves_{memory_};
  Vector<uint32_t> shortest_{memory_};  // node -> its shallowest tree node
};

}  // namespace

std::vector<uint64_t> build_frozen(std::span<const int32_t> tokens, std::span<const int64_t> offsets,
                                   std::span<const float> weights, uint64_t memory_limit) {
  check_responses(tokens, offsets, weights);
  LimitedMemory meter(memory_limit);
  const std::pmr::vector<int32_t> ids = distinct(tokens, &meter);
  if (ids.size() < 0xFFFF)
    return Builder<uint16_t>(offsets, weights, &meter).build(tokens, ids, meter, memory_limit);
  return Builder<uint32_t>(offsets, weights, &meter).build(tokens, ids, meter, memory_limit);
}

}  // namespace redraft
