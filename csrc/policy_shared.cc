#include "csrc/policy_shared.h"

#include <algorithm>
#include <utility>

namespace redraft {
namespace {

// Hashes of the contexts of 1 to `orders` tokens before `end`; never 0. The low bits are the place, all of it
// is the tag: two contexts are taken for one about once in 4,000 chance meetings, which costs a bad draft.
void hash_contexts(const int32_t* end, uint32_t orders, uint32_t* hashes) {
  uint64_t hash = 0x9E3779B97F4A7C15u;
  for (uint32_t order = 0; order < orders; ++order) {
    hash ^= static_cast<uint32_t>(*--end) + uint64_t{1};
    hash *= 0xD6E8FEB86659FD93u;
    hash ^= hash >> 32;
    hashes[order] = std::max<uint32_t>(1, static_cast<uint32_t>(hash >> 20));
  }
}

}  // namespace

float SharedIndex::Entry::count(int32_t token) const {
  for (uint32_t i = 0; i < kNexts; ++i) {
    if (counts[i] > 0 && tokens[i] == token) return counts[i];
  }
  return 0;
}

uint32_t SharedIndex::find(const int32_t* end, uint32_t length, const Entry** entries) const {
  const uint32_t orders = std::min(length, kOrders);
  const size_t mask = entries_.size() - 1;
  uint32_t hashes[kOrders];
  hash_contexts(end, orders, hashes);
  for (uint32_t order = 0; order < orders; ++order) __builtin_prefetch(&entries_[hashes[order] & mask]);
  for (uint32_t order = 0; order < orders; ++order) {
    const Entry& entry = entries_[hashes[order] & mask];
    if (entry.tag != hashes[order]) return order;
    entries[order] = &entry;
  }
  return orders;
}

void SharedIndex::add(const int32_t* end, uint32_t length, int32_t token) {
  if (used_ * 2 > entries_.size() && entries_.size() < size_t{1} << kMostBits) grow();
  const uint32_t orders = std::min(length, kOrders);
  const size_t mask = entries_.size() - 1;
  uint32_t hashes[kOrders];
  hash_contexts(end, orders, hashes);
  for (uint32_t order = 0; order < orders; ++order) __builtin_prefetch(&entries_[hashes[order] & mask], 1);
  for (uint32_t order = 0; order < orders; ++order) {
    Entry& entry = entries_[hashes[order] & mask];
    const bool known = entry.tag == hashes[order];
    if (!known) {
      // Another context lives here: it wears off by half each time that it is in the way.
      entry.total *= 0.5f;
      if (entry.tag != 0 && entry.total > 1) return;
      used_ += entry.tag == 0 ? 1 : 0;
      entry = {};
      entry.tag = hashes[order];
    }
    entry.total += 1;
    uint32_t place = 0;
    if (entry.tokens[0] != token || entry.counts[0] == 0) {
      uint32_t rarest = 0;
      place = kNexts;
      for (uint32_t i = 0; i < kNexts; ++i) {
        if (entry.counts[i] > 0 && entry.tokens[i] == token) place = i;
        if (entry.counts[i] < entry.counts[rarest]) rarest = i;
      }
      if (place == kNexts) {
        place = rarest;
        entry.tokens[place] = token;
        entry.counts[place] = 0;
      }
    }
    entry.counts[place] += 1;
    if (entry.counts[place] > entry.counts[0]) {
      std::swap(entry.counts[place], entry.counts[0]);
      std::swap(entry.tokens[place], entry.tokens[0]);
    }
    if (!known) return;
  }
}

void SharedIndex::grow() {
  std::vector<Entry> larger(entries_.size() * 2);
  for (const Entry& entry : entries_) {
    if (entry.tag != 0) larger[entry.tag & (larger.size() - 1)] = entry;
  }
  entries_.swap(larger);
}

}  // namespace redraft
