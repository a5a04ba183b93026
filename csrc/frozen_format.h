// Layout of the frozen index's blob. doc/suffix_tree.md draws it and says why it is so.
//
// Little-endian, position independent: every reference is an index or an offset from the blob's start.
// Written once by the builder, then only read. Only the checksums of the header are trusted after opening:
// readers check every index before they follow it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <type_traits>

namespace redraft {

inline constexpr char kMagic[8] = {'R', 'D', 'R', 'F', 'T', 'I', 'X', '\n'};
inline constexpr uint32_t kFormatVersion = 3;

// The symbol before every response and after the last one. Real tokens have symbols from 1, by rising id.
inline constexpr uint32_t kStart = 0;

// One state of the compact automaton: a class of contexts with the same occurrences. `length` belongs to the
// longest of them; the shortest is one longer than the class that `link` names. A node's id is the index of
// its first word among the nodes' words.
struct FrozenNode {
  uint32_t length;  // tokens, START included
  uint32_t link;    // node of the longest shorter context that occurs more often; the root (0) names itself
  uint32_t end;     // text position just after one occurrence
  uint32_t count;   // occurrences
  uint32_t shape;   // number of inner edges * 2 + (1 when the heaviest edge is a leaf edge)
  uint32_t leaves;  // number of leaf edges
};
static_assert(sizeof(FrozenNode) == 24 && std::is_trivially_copyable_v<FrozenNode>);
inline constexpr uint32_t kNodeWords = sizeof(FrozenNode) / 4;

// After a node comes its weight, a float, unless all responses weigh the same, and then its edges, so that
// going on from a node mostly reads memory that is there already: inner edges, then leaf edges, each sorted
// by first symbol, but for the heaviest edge, which comes first among its kind. A leaf edge is one word: the
// text position of its label, which runs to the next START. An inner edge is:
template <typename Symbol>
struct InnerEdge {
  uint32_t target;
  Symbol symbol;  // first of the label
  Symbol length;  // of the label, in symbols; kLongLabel: look it up among the long labels
};
template <typename Symbol>
inline constexpr Symbol kLongLabel = static_cast<Symbol>(~Symbol{0});

// The root's edges, one for each symbol, found by the symbol itself.
struct RootEdge {
  uint32_t word;    // target node, or kLeafBit + text position of the label
  uint32_t length;  // of the label; 0 for a leaf
};
inline constexpr uint32_t kLeafBit = 0x80000000u;

struct LongLabel {
  uint32_t edge;  // index of the inner edge's first word among the nodes' words
  uint32_t length;
};

// Nodes of a text that repeats itself, folded: all with one inner edge and no leaf, each leading to the one
// before and linking to the one after, their values rising by the same steps (modulo 2^32). They are not
// among the other nodes; their ids, one after the other, begin with the number of the others' words.
struct FrozenRun {
  uint32_t first;   // id of its first node
  uint32_t size;    // nodes
  uint32_t length;  // of the first node
  uint32_t length_step;
  uint32_t end;
  uint32_t end_step;
  uint32_t count;
  uint32_t count_step;
  uint32_t first_target;  // where the first node's edge leads
  uint32_t last_link;     // the last node's link
  uint32_t label;         // length of each edge's label
  uint32_t symbol;        // and its first symbol
};
static_assert(sizeof(FrozenRun) == 48 && std::is_trivially_copyable_v<FrozenRun>);

// A section's bytes: [offset, next section's offset), aligned to 8.
struct FrozenHeader {
  char magic[8];
  uint32_t version;
  uint32_t symbol_bytes;   // 2 or 4
  uint64_t total_bytes;    // of the blob, header included
  uint64_t num_tokens;     // of all responses; START not counted
  uint32_t num_responses;  // m
  uint32_t num_symbols;    // distinct tokens; symbols are 0..num_symbols
  uint32_t num_words;      // of the nodes that are in no run, and their edges
  uint32_t num_run_nodes;  // nodes that are in runs
  uint32_t num_runs;
  uint32_t num_long_labels;
  uint32_t symbol_slots;  // of the open-addressing table from token id to symbol, a power of two
  uint32_t text_size;     // num_tokens + m + 1
  float uniform_weight;   // > 0: the weight of every response, and then no weights are stored
  uint32_t node_words;    // of a node without its edges: 6, and 1 for its weight
  // Offsets of the sections.
  uint64_t token_ids;         // int32[num_symbols]: token of symbol s at s - 1
  uint64_t symbol_table;      // Symbol[symbol_slots]: 0 for an empty slot
  uint64_t response_starts;   // uint32[m + 1]: text positions of the STARTs
  uint64_t response_weights;  // float[m], or nothing
  uint64_t text;              // Symbol[text_size]
  uint64_t root_edges;        // RootEdge[num_symbols + 1]
  uint64_t nodes;             // uint32[num_words]
  uint64_t run_weights;       // float[num_run_nodes], or nothing
  uint64_t long_labels;       // LongLabel[num_long_labels], sorted by edge
  uint64_t runs;              // FrozenRun[num_runs], sorted by first
  uint64_t content_checksum;  // of all bytes after the header
  uint64_t header_checksum;   // of all bytes of the header before this field
};
static_assert(std::is_trivially_copyable_v<FrozenHeader> && sizeof(FrozenHeader) % 8 == 0);

inline constexpr uint64_t align8(uint64_t bytes) { return (bytes + 7) & ~uint64_t{7}; }

// Home slot of a token id in the symbol table.
inline uint32_t symbol_slot(int32_t token, uint32_t slots) {
  return (static_cast<uint32_t>(token) * 2654435769u) >> 7 & (slots - 1);
}

}  // namespace redraft
