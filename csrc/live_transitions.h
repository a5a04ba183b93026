// How the live index stores a state's transitions, and how one is found.
#pragma once

#include <array>
#include <cstdint>

#include "csrc/live_index.h"

namespace redraft {
namespace transitions {

inline constexpr uint32_t kRemoved = 0xFFFFFFFEu;  // token of a removed entry of a hash table
inline constexpr uint32_t kNumLists = 6;

constexpr std::array<uint32_t, 32> list_sizes() {
  std::array<uint32_t, 32> sizes{1, 2, 3, 4, 6, 8};
  for (uint32_t i = kNumLists; i < sizes.size(); ++i) sizes[i] = 16u << (i - kNumLists);
  return sizes;
}
inline constexpr std::array<uint32_t, 32> kSizes = list_sizes();

inline uint32_t size_of_class(uint32_t size_class) { return kSizes[size_class]; }

// Entry 0 is the header.
inline uint32_t home(uint32_t token, uint32_t size) {
  const uint32_t slot = (token * 2654435769u) >> 5 & (size - 1);
  return slot == 0 ? 1 : slot;
}

inline uint32_t next_slot(uint32_t slot, uint32_t size) {
  slot = (slot + 1) & (size - 1);
  return slot == 0 ? 1 : slot;
}

}  // namespace transitions

inline LiveIndex::Transition* LiveIndex::entries(uint32_t block) { return &pairs_[block & kIndexMask]; }

[[gnu::always_inline]] inline LiveIndex::Transition* LiveIndex::find_entry(uint32_t block, uint32_t token) {
  if (block == kNone) return nullptr;
  Transition* list = entries(block);
  const uint32_t size = transitions::size_of_class(block >> kIndexBits);
  if (size <= kLargestList) {
    for (uint32_t i = 0; i < size; ++i) {
      if (list[i].token == token) return list + i;
    }
    return nullptr;
  }
  uint32_t slot = transitions::home(token, size);
  while (list[slot].token != kNone) {
    if (list[slot].token == token) return list + slot;
    slot = transitions::next_slot(slot, size);
  }
  return nullptr;
}

inline uint32_t* LiveIndex::find(State& state, uint32_t token) {
  if (state.token == token) return &state.target;
  Transition* entry = find_entry(state.block, token);
  return entry == nullptr ? nullptr : &entry->target;
}

inline uint32_t LiveIndex::find(uint32_t state, uint32_t token) const {
  auto* self = const_cast<LiveIndex*>(this);  // the other find() only hands out a way to write
  const uint32_t* target = self->find(self->states_[state], token);
  return target == nullptr ? kNone : *target;
}

}  // namespace redraft
