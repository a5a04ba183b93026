// The shared index: what followed the last few tokens, whatever the prompt. For text that all prompts share.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <memory>

namespace redraft {

// The contexts of 1, 2, ... kOrders tokens before a place in a text, as hashes that move on with it.
class SharedContext {
 public:
  static constexpr uint32_t kOrders = 5;

  void push(int32_t token) {
    // The low bits of all tokens reach the low bits of the sum, and those are the place in the table.
    const uint32_t hash =
        static_cast<uint32_t>(((static_cast<uint32_t>(token) + uint64_t{1}) * 0xD6E8FEB86659FD93u) >> 32);
    for (uint32_t order = kOrders - 1; order > 0; --order) {
      hashes_[order] = hashes_[order - 1] * 0x9E3779B1u + hash;
    }
    hashes_[0] = hash;
    if (orders_ < kOrders) ++orders_;
  }
  uint32_t orders() const { return orders_; }
  // Of the context of `order` + 1 tokens; never 0. Two contexts are taken for one about once in 4,000 chance
  // meetings in a full table, which costs a bad draft.
  uint32_t tag(uint32_t order) const { return hashes_[order] | 1; }

 private:
  std::array<uint32_t, kOrders> hashes_{};
  uint32_t orders_ = 0;  // that are there
};

// A table of bounded size: contexts of 1 to kOrders tokens, each with its most frequent continuations. A
// context is entered when the one shorter by a token is known, so that one-off text takes little room, and
// what is rarely met makes room for what is met now. Not thread-safe.
class SharedIndex {
 public:
  static constexpr uint32_t kOrders = SharedContext::kOrders;
  static constexpr uint32_t kNexts = 5;

  struct Entry {
    uint32_t tag;  // 0 when free
    float total;
    // The most frequent continuation comes first; what is free, with a count of 0, comes last.
    std::array<int32_t, kNexts> tokens;
    std::array<float, kNexts> counts;

    float count(int32_t token) const;
  };

  SharedIndex();

  // The entries of the contexts of 1, 2, ... tokens; returns how many, up to the first that is unknown.
  // Pointers hold until the next add().
  uint32_t find(const SharedContext& context, const Entry** entries) const {
    uint32_t order = 0;
    for (; order < context.orders(); ++order) {
      const Entry& entry = entries_[place(context.tag(order))];
      if (entry.tag != context.tag(order)) break;
      entries[order] = &entry;
    }
    return order;
  }
  // Says that `token` came after those contexts.
  void add(const SharedContext& context, int32_t token);

  uint64_t nbytes() const { return size_ * sizeof(Entry); }

 private:
  static constexpr uint32_t kFirstBits = 15;
  static constexpr uint32_t kMostBits = 20;  // 48 MiB

  struct Free {
    void operator()(Entry* entries) const { std::free(entries); }
  };
  using Table = std::unique_ptr<Entry[], Free>;

  static Table make(size_t size);
  size_t place(uint32_t tag) const { return tag >> 1 & (size_ - 1); }
  void grow();

  size_t size_ = size_t{1} << kFirstBits;
  Table entries_;  // zeros until used: untouched pages take no memory
  size_t used_ = 0;
};

}  // namespace redraft
