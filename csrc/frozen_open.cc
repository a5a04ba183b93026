// Opening a frozen index: what is checked before anything of it is read.
#include <bit>
#include <cstddef>
#include <string>
#include <utility>

#include "csrc/checksum.h"
#include "csrc/error.h"
#include "csrc/frozen_index.h"

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
  const uint64_t symbols = h.num_symbols;
  const uint64_t responses = h.num_responses;
  const bool weighted = h.uniform_weight == 0;
  const auto inside = [&](uint64_t offset, uint64_t bytes) {
    return offset >= sizeof(FrozenHeader) && offset <= size && bytes <= size - offset;
  };
  const bool sound =
      (symbol == 2 || symbol == 4) && std::has_single_bit(h.symbol_slots) && symbols < h.symbol_slots &&
      h.node_words == kNodeWords + (weighted ? 1 : 0) && h.num_words >= h.node_words &&
      uint64_t{h.num_words} + h.num_run_nodes < kLeafBit && (h.num_run_nodes == 0 || h.num_runs > 0) &&
      responses > 0 && h.text_size > 0 && h.uniform_weight >= 0 && inside(h.token_ids, symbols * 4) &&
      inside(h.symbol_table, uint64_t{h.symbol_slots} * symbol) &&
      inside(h.response_starts, (responses + 1) * 4) && inside(h.text, uint64_t{h.text_size} * symbol) &&
      inside(h.root_edges, (symbols + 1) * sizeof(RootEdge)) && inside(h.nodes, uint64_t{h.num_words} * 4) &&
      inside(h.runs, uint64_t{h.num_runs} * sizeof(FrozenRun)) &&
      inside(h.long_labels, uint64_t{h.num_long_labels} * sizeof(LongLabel)) &&
      (!weighted ||
       (inside(h.response_weights, responses * 4) && inside(h.run_weights, uint64_t{h.num_run_nodes} * 4)));
  if (!sound) throw_data_loss("inconsistent header");
  token_ids_ = data_ + h.token_ids;
  symbol_table_ = data_ + h.symbol_table;
  text_ = data_ + h.text;
  nodes_ = data_ + h.nodes;
  last_node_ = h.num_words - h.node_words;
  if (verify &&
      h.content_checksum != checksum(data_ + sizeof(FrozenHeader), size - sizeof(FrozenHeader), h.version)) {
    throw_data_loss("damaged content");
  }
}

}  // namespace redraft
