// The shared index: what followed the last few tokens, whatever the prompt. For text that all prompts share.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <memory>

namespace redraft {

// The contexts before a place in a text, as hashes that move on with it: its last 1, 2, ... kOrders tokens,
// and sparse ones (Mahoney 2005), which leave tokens out, so that a word that differs does not hide what is
// around.
class SharedContext {
 public:
  static constexpr uint32_t kOrders = 5;
  static constexpr uint32_t kSparse = 2;

  void push(int32_t token) {
    // The low bits of all tokens reach the low bits of the sum, and those are the place in the table.
    const uint32_t hash =
        static_cast<uint32_t>(((static_cast<uint32_t>(token) + uint64_t{1}) * 0xD6E8FEB86659FD93u) >> 32);
    for (uint32_t order = kOrders - 1; order > 0; --order) {
      hashes_[order] = hashes_[order - 1] * 0x9E3779B1u + hash;
    }
    hashes_[0] = hash;
    tokens_[++num_tokens_ % kTokens] = hash;
    if (orders_ < kOrders) ++orders_;
  }
  uint32_t orders() const { return orders_; }
  // Of the context of `order` + 1 tokens; never 0. Two contexts are taken for one about once in 4,000 chance
  // meetings in a full table, which costs a bad draft.
  uint32_t tag(uint32_t order) const { return hashes_[order] | 1; }
  // Of the last token and the two next to each other that are 3 or, `which` being 1, 6 tokens before it.
  uint32_t sparse_tag(uint32_t which) const {
    const uint32_t far = 3 * (which + 1);
    return ((back(0) * 0x85EBCA6Bu + back(far)) * 0xC2B2AE35u + back(far + 1) + which) | 1;
  }

 private:
  static constexpr uint32_t kTokens = 8;
  static_assert(kTokens >= 3 * kSparse + 2);

  // The hash of the token so many before the last one, 0 before the beginning.
  uint32_t back(uint32_t by) const { return tokens_[(num_tokens_ - by) % kTokens]; }

  std::array<uint32_t, kOrders> hashes_{};
  std::array<uint32_t, kTokens> tokens_{};  // hashes of the last ones: a ring
  uint32_t num_tokens_ = 0;
  uint32_t orders_ = 0;  // that are there
};

// A table of bounded size: contexts, each with its most frequent continuations. A context of several tokens
// is entered when the one shorter by a token is known, sparse ones always; what is rarely met makes room for
// what is met now. Not thread-safe.
class SharedIndex {
 public:
  static constexpr uint32_t kOrders = SharedContext::kOrders;
  static constexpr uint32_t kNexts = 4;

  struct alignas(32) Entry {  // never in two cache lines
    uint32_t tag;             // 0 when free
    float total;
    // The most frequent continuation comes first; what is free, with a count of 0, comes last.
    std::array<int32_t, kNexts> tokens;
    std::array<uint16_t, kNexts> counts;

    float count(int32_t token) const;
  };
  static_assert(sizeof(Entry) == 32);

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
  // The entry of a sparse context; null when it is unknown. Holds as long.
  const Entry* find_sparse(const SharedContext& context, uint32_t which) const {
    const uint32_t tag = context.sparse_tag(which);
    const Entry& entry = entries_[place(tag)];
    return entry.tag == tag ? &entry : nullptr;
  }
  // Asks for the entries of these contexts, which are soon needed. Most are in nobody's cache. Always inline,
  // as GCC drops calls of functions that do nothing else.
  [[gnu::always_inline]] void prefetch(const SharedContext& context) const {
    for (uint32_t order = 0; order < kOrders; ++order) prefetch(context.tag(order));
    for (uint32_t which = 0; which < SharedContext::kSparse; ++which) prefetch(context.sparse_tag(which));
  }
  // Says that `token` came after those contexts.
  void add(const SharedContext& context, int32_t token);

  uint64_t nbytes() const { return size_ * sizeof(Entry); }

 private:
  static constexpr uint32_t kFirstBits = 15;
  static constexpr uint32_t kMostBits = 20;  // 32 MiB
  static constexpr uint16_t kMostCounted = 65535;

  struct Free {
    void operator()(Entry* entries) const { std::free(entries); }
  };
  using Table = std::unique_ptr<Entry[], Free>;

  [[gnu::always_inline]] void prefetch(uint32_t tag) const { __builtin_prefetch(&entries_[place(tag)]); }
  static Table make(size_t size);
  bool count(uint32_t tag, int32_t token);
  size_t place(uint32_t tag) const { return tag >> 1 & (size_ - 1); }
  void grow();

  size_t size_ = size_t{1} << kFirstBits;
  Table entries_;
  size_t used_ = 0;
};

}  // namespace redraft
