#include "csrc/policy_shared.h"

#include <sys/mman.h>

#include <algorithm>
#include <new>
#include <utility>

namespace redraft {

float SharedIndex::Entry::count(int32_t token) const {
  for (uint32_t i = 0; i < kNexts; ++i) {
    if (tokens[i] == token) return counts[i];
  }
  return 0;
}

SharedIndex::SharedIndex() : entries_(make(size_)) {}

SharedIndex::Table SharedIndex::make(size_t size) {
  // In large pages where the system has them: entries are met in no order, and each page has to be looked up.
  constexpr size_t kLargePage = size_t{2} << 20;
  const size_t bytes = size * sizeof(Entry);
  Table table(static_cast<Entry*>(std::aligned_alloc(std::min(bytes, kLargePage), bytes)));
  if (!table) throw std::bad_alloc();
#ifdef MADV_HUGEPAGE
  if (bytes >= kLargePage) madvise(table.get(), bytes, MADV_HUGEPAGE);
#endif
  std::fill_n(table.get(), size, Entry{});
  return table;
}

void SharedIndex::add(const SharedContext& context, int32_t token) {
  if (used_ * 2 > size_ && size_ < size_t{1} << kMostBits) grow();
  for (uint32_t order = 0; order < context.orders() && count(context.tag(order), token); ++order) {
  }
  for (uint32_t which = 0; which < SharedContext::kSparse; ++which) count(context.sparse_tag(which), token);
}

// Counts a token that came after a context. False when the context was unknown before, and perhaps still is.
bool SharedIndex::count(uint32_t tag, int32_t token) {
  Entry& entry = entries_[place(tag)];
  if (entry.tag != tag) {
    // Another context lives here: it wears off by half each time that it is in the way.
    entry.total *= 0.5f;
    if (entry.tag != 0 && entry.total > 1) return false;
    used_ += entry.tag == 0 ? 1 : 0;
    entry = {tag, 1, {token}, {1}};
    return false;
  }
  entry.total += 1;
  if (entry.counts[0] == kMostCounted) {
    entry.total *= 0.5f;
    for (uint16_t& count : entry.counts) count /= 2;
  }
  if (entry.tokens[0] == token) {
    ++entry.counts[0];
    return true;
  }
  uint32_t place = 0;
  for (uint32_t i = 1; i < kNexts; ++i) {
    if (entry.tokens[i] == token) {
      place = i;
      break;
    }
  }
  if (place == 0) {
    place = 1;
    for (uint32_t i = 2; i < kNexts; ++i) {
      if (entry.counts[i] < entry.counts[place]) place = i;
    }
    entry.tokens[place] = token;
    entry.counts[place] = 0;
  }
  ++entry.counts[place];
  if (entry.counts[place] > entry.counts[0]) {
    std::swap(entry.counts[place], entry.counts[0]);
    std::swap(entry.tokens[place], entry.tokens[0]);
  }
  return true;
}

void SharedIndex::grow() {
  Table larger = make(size_ * 2);
  const size_t old = std::exchange(size_, size_ * 2);
  for (size_t i = 0; i < old; ++i) {
    if (entries_[i].tag != 0) larger[place(entries_[i].tag)] = entries_[i];
  }
  entries_ = std::move(larger);
}

}  // namespace redraft
