// Lays an index's tables out as a blob (frozen_format.h).
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <string>
#include <vector>

#include "csrc/checksum.h"
#include "csrc/error.h"
#include "csrc/frozen_format.h"
#include "csrc/frozen_tables.h"
#include "csrc/memory.h"

namespace redraft {

// Takes the tables apart: what was written is of no meaning afterwards.
template <typename Symbol>
class FrozenWriter {
 public:
  explicit FrozenWriter(FrozenTables<Symbol>& tables)
      : tables_(tables),
        num_plain_(static_cast<uint32_t>(tables.nodes.size())),
        node_words_(kNodeWords + (tables.uniform_weight > 0 ? 0 : 1)),
        num_words_(num_plain_ * uint64_t{node_words_} + tables.edge_words.size()) {
    for (const FrozenRun& run : tables.runs) num_run_nodes_ += run.size;
    if (num_words_ + num_run_nodes_ >= kLeafBit) {
      throw Error(ErrorCode::kResourceExhausted, "token_ids: too many different contexts for one index");
    }
  }

  // Throws ResourceExhausted when the blob and what `meter` holds are beyond the limit; 0 means no limit.
  std::vector<uint64_t> write(std::span<const float> weights, const LimitedMemory& meter,
                              uint64_t memory_limit) {
    rename();
    const FrozenHeader header = plan(weights.size());
    const uint64_t bytes = header.total_bytes;
    if (memory_limit != 0 && meter.used() + bytes > memory_limit) {
      throw Error(ErrorCode::kResourceExhausted, "memory_limit: the index needs " + std::to_string(bytes) +
                                                     " bytes beside its building; raise the limit");
    }
    std::vector<uint64_t> blob(bytes / 8);
    fill(header, weights, reinterpret_cast<char*>(blob.data()));
    return blob;
  }

 private:
  static constexpr uint32_t kEdgeWords = FrozenTables<Symbol>::kEdgeWords;

  // The id in the blob of a node of the tables.
  uint32_t id_of(uint32_t node) const {
    if (node >= num_plain_) return static_cast<uint32_t>(num_words_) + (node - num_plain_);
    return node * node_words_ + tables_.nodes[node].edges;
  }

  // Everything but the nodes themselves gets the ids of the blob.
  void rename() {
    for (RootEdge& edge : tables_.root_edges) {
      if (!(edge.word & kLeafBit)) edge.word = id_of(edge.word);
    }
    for (FrozenRun& run : tables_.runs) {
      run.first = id_of(run.first);
      run.first_target = id_of(run.first_target);
      run.last_link = id_of(run.last_link);
    }
    uint32_t node = 0;
    for (LongLabel& label : tables_.long_labels) {
      while (tables_.stop_of(node) <= label.edge) ++node;
      label.edge += (node + 1) * node_words_;
    }
  }

  FrozenHeader plan(size_t num_weights) const {
    FrozenHeader header{};
    std::memcpy(header.magic, kMagic, sizeof(kMagic));
    header.version = kFormatVersion;
    header.symbol_bytes = sizeof(Symbol);
    header.num_tokens = tables_.text.size() - tables_.starts.size();
    header.num_responses = static_cast<uint32_t>(tables_.starts.size() - 1);
    header.num_symbols = static_cast<uint32_t>(tables_.token_ids.size());
    header.num_words = static_cast<uint32_t>(num_words_);
    header.num_run_nodes = num_run_nodes_;
    header.num_runs = static_cast<uint32_t>(tables_.runs.size());
    header.num_long_labels = static_cast<uint32_t>(tables_.long_labels.size());
    header.symbol_slots = static_cast<uint32_t>(tables_.symbol_table.size());
    header.text_size = static_cast<uint32_t>(tables_.text.size());
    header.uniform_weight = tables_.uniform_weight;
    header.node_words = node_words_;
    const bool weighted = tables_.uniform_weight == 0;
    uint64_t at = sizeof(FrozenHeader);
    const auto place = [&](uint64_t& offset, uint64_t bytes) {
      offset = at;
      at = align8(at + bytes);
    };
    place(header.token_ids, tables_.token_ids.size() * 4);
    place(header.symbol_table, tables_.symbol_table.size() * sizeof(Symbol));
    place(header.response_starts, tables_.starts.size() * 4);
    place(header.response_weights, weighted ? num_weights * 4 : 0);
    place(header.text, tables_.text.size() * sizeof(Symbol));
    place(header.root_edges, tables_.root_edges.size() * sizeof(RootEdge));
    place(header.nodes, num_words_ * 4);
    place(header.run_weights, weighted ? num_run_nodes_ * uint64_t{4} : 0);
    place(header.long_labels, tables_.long_labels.size() * sizeof(LongLabel));
    place(header.runs, tables_.runs.size() * sizeof(FrozenRun));
    header.total_bytes = at;
    return header;
  }

  void fill(FrozenHeader header, std::span<const float> weights, char* bytes) const {
    const auto copy = [&](uint64_t offset, const auto& values) {
      if (!values.empty()) std::memcpy(bytes + offset, values.data(), values.size() * sizeof(values[0]));
    };
    copy(header.token_ids, tables_.token_ids);
    copy(header.symbol_table, tables_.symbol_table);
    copy(header.response_starts, tables_.starts);
    copy(header.text, tables_.text);
    copy(header.root_edges, tables_.root_edges);
    copy(header.long_labels, tables_.long_labels);
    copy(header.runs, tables_.runs);
    if (header.uniform_weight == 0) {
      copy(header.response_weights, weights);
      copy(header.run_weights, std::span(tables_.node_weights).subspan(num_plain_));
    }
    fill_nodes(reinterpret_cast<uint32_t*>(bytes + header.nodes));
    header.content_checksum =
        checksum(bytes + sizeof(header), header.total_bytes - sizeof(header), kFormatVersion);
    header.header_checksum = checksum(&header, offsetof(FrozenHeader, header_checksum), kFormatVersion);
    std::memcpy(bytes, &header, sizeof(header));
  }

  void fill_nodes(uint32_t* words) const {
    for (uint32_t node = 0; node < num_plain_; ++node) {
      const BuiltNode& built = tables_.nodes[node];
      const uint32_t num_inner = built.shape >> 1;
      const uint32_t* edges = tables_.edge_words.data() + built.edges;
      const uint32_t* const leaves = edges + num_inner * kEdgeWords;
      const uint32_t* const stop = tables_.edge_words.data() + tables_.stop_of(node);
      const FrozenNode self{built.length, id_of(built.link), built.end,
                            built.count,  built.shape,       static_cast<uint32_t>(stop - leaves)};
      std::memcpy(words, &self, sizeof(self));
      if (node_words_ > kNodeWords) std::memcpy(words + kNodeWords, &tables_.node_weights[node], 4);
      words += node_words_;
      for (; edges < leaves; edges += kEdgeWords, words += kEdgeWords) {
        words[0] = id_of(edges[0]);
        for (uint32_t i = 1; i < kEdgeWords; ++i) words[i] = edges[i];
      }
      while (edges < stop) *words++ = *edges++;
    }
  }

  FrozenTables<Symbol>& tables_;
  const uint32_t num_plain_;  // nodes that are in no run
  const uint32_t node_words_;
  const uint64_t num_words_;
  uint32_t num_run_nodes_ = 0;
};

}  // namespace redraft
