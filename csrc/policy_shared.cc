#include "csrc/policy_shared.h"

#include <algorithm>

namespace redraft {
namespace {

struct Place {
  uint32_t slot;
  uint32_t tag;
};

// Places of the contexts of 1 to `orders` tokens before `end`.
void places(const int32_t* end, uint32_t orders, uint32_t bits, Place* result) {
  uint64_t hash = 0x9E3779B97F4A7C15u;
  for (uint32_t order = 0; order < orders; ++order) {
    hash ^= static_cast<uint32_t>(*--end) + uint64_t{1};
    hash *= 0xD6E8FEB86659FD93u;
    hash ^= hash >> 32;
    result[order] = {static_cast<uint32_t>(hash & ((1u << bits) - 1)),
                     static_cast<uint32_t>(hash >> 40) << 1 | 1};
  }
}

}  // namespace

uint32_t SharedIndex::Entry::best() const {
  return static_cast<uint32_t>(std::max_element(counts.begin(), counts.end()) - counts.begin());
}

float SharedIndex::Entry::count(int32_t token) const {
  for (uint32_t i = 0; i < kNexts; ++i) {
    if (tokens[i] == token) return counts[i];
  }
  return 0;
}

uint32_t SharedIndex::find(const int32_t* end, uint32_t length, const Entry** entries) const {
  if (entries_.empty()) return 0;
  const uint32_t orders = std::min(length, kOrders);
  Place at[kOrders];
  places(end, orders, kBits, at);
  for (uint32_t order = 0; order < orders; ++order) __builtin_prefetch(&entries_[at[order].slot]);
  for (uint32_t order = 0; order < orders; ++order) {
    const Entry& entry = entries_[at[order].slot];
    if (entry.tag != at[order].tag) return order;
    entries[order] = &entry;
  }
  return orders;
}

void SharedIndex::add(const int32_t* end, uint32_t length, int32_t token) {
  if (entries_.empty()) entries_.resize(size_t{1} << kBits);
  const uint32_t orders = std::min(length, kOrders);
  Place at[kOrders];
  places(end, orders, kBits, at);
  for (uint32_t order = 0; order < orders; ++order) __builtin_prefetch(&entries_[at[order].slot], 1);
  for (uint32_t order = 0; order < orders; ++order) {
    Entry& entry = entries_[at[order].slot];
    if (entry.tag != at[order].tag) {
      // Another context lives here: it wears off by half each time that it is in the way.
      entry.total *= 0.5f;
      if (entry.tag != 0 && entry.total > 1) continue;
      entry = {};
      entry.tag = at[order].tag;
    }
    entry.total += 1;
    uint32_t place = kNexts;
    uint32_t rarest = 0;
    for (uint32_t i = 0; i < kNexts; ++i) {
      if (entry.counts[i] > 0 && entry.tokens[i] == token) place = i;
      if (entry.counts[i] < entry.counts[rarest]) rarest = i;
    }
    if (place == kNexts) {
      place = rarest;
      entry.tokens[place] = token;
      entry.counts[place] = 0;
    }
    entry.counts[place] += 1;
  }
}

}  // namespace redraft
