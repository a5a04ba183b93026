#include "csrc/suffix_array.h"

#include <algorithm>
#include <vector>

namespace redraft {
namespace {

constexpr int32_t kEmpty = -1;
constexpr int32_t kAhead = 24;  // how far ahead the induction prefetches the symbols that it will read

// The bucket of a symbol is the range of `order` that holds the suffixes that start with it.
class Buckets {
 public:
  template <typename Symbol>
  Buckets(std::span<const Symbol> text, uint32_t alphabet, std::pmr::memory_resource* memory)
      : bounds_(alphabet + 1, 0, memory), cursor_(alphabet, 0, memory) {
    for (Symbol symbol : text) ++bounds_[symbol + 1];
    for (uint32_t symbol = 0; symbol < alphabet; ++symbol) bounds_[symbol + 1] += bounds_[symbol];
  }
  int32_t* at_starts() {
    std::copy(bounds_.begin(), bounds_.end() - 1, cursor_.begin());
    return cursor_.data();
  }
  int32_t* at_ends() {
    std::copy(bounds_.begin() + 1, bounds_.end(), cursor_.begin());
    return cursor_.data();
  }

 private:
  std::pmr::vector<int32_t> bounds_;
  std::pmr::vector<int32_t> cursor_;
};

// Given the sorted leftmost-S suffixes at their buckets' ends, fills in all others: first the L suffixes from
// left to right, then the S suffixes from right to left.
template <typename Symbol>
void induce(std::span<const Symbol> text, Buckets& buckets, std::span<int32_t> order) {
  const int32_t size = static_cast<int32_t>(text.size());
  const Symbol* symbols = text.data();
  int32_t* sorted = order.data();
  const auto prefetch = [&](int32_t index) {
    if (index >= 0 && index < size && sorted[index] > 0) __builtin_prefetch(symbols + sorted[index] - 1);
  };
  int32_t* heads = buckets.at_starts();
  sorted[heads[symbols[size - 1]]++] = size - 1;  // induced by the end of the text, the smallest suffix
  for (int32_t i = 0; i < size; ++i) {
    prefetch(i + kAhead);
    const int32_t previous = sorted[i] - 1;
    if (previous < 0) continue;  // empty, or the whole text
    // The entry is L or leftmost S, and then an equal symbol before it belongs to an L suffix.
    if (symbols[previous] >= symbols[previous + 1]) sorted[heads[symbols[previous]]++] = previous;
  }
  int32_t* tails = buckets.at_ends();
  for (int32_t i = size - 1; i >= 0; --i) {
    prefetch(i - kAhead);
    const int32_t previous = sorted[i] - 1;
    if (previous < 0) continue;
    const Symbol symbol = symbols[previous];
    const Symbol next = symbols[previous + 1];
    // With equal symbols the one before is S when the entry is, that is when it lies in its bucket's filled
    // end.
    if (symbol < next || (symbol == next && tails[next] <= i)) sorted[--tails[symbol]] = previous;
  }
}

}  // namespace

template <typename Symbol>
void sort_suffixes(std::span<const Symbol> text, uint32_t alphabet, std::span<int32_t> order,
                   std::pmr::memory_resource* memory) {
  const int32_t size = static_cast<int32_t>(text.size());
  if (size == 0) return;
  if (size == 1) {
    order[0] = 0;
    return;
  }
  Buckets buckets(text, alphabet, memory);

  // Leftmost-S positions ("LMS"): S suffixes right after an L suffix. No two are adjacent.
  std::pmr::vector<int32_t> lms(memory);
  bool next_is_s = false;  // the last suffix is L
  for (int32_t i = size - 2; i >= 0; --i) {
    const bool is_s = text[i] < text[i + 1] || (text[i] == text[i + 1] && next_is_s);
    if (!is_s && next_is_s) lms.push_back(i + 1);
    next_is_s = is_s;
  }
  std::reverse(lms.begin(), lms.end());
  const int32_t num_lms = static_cast<int32_t>(lms.size());

  const auto place = [&](std::span<const int32_t> sorted_lms) {
    std::fill(order.begin(), order.end(), kEmpty);
    int32_t* tails = buckets.at_ends();
    for (int32_t i = num_lms - 1; i >= 0; --i) order[--tails[text[sorted_lms[i]]]] = sorted_lms[i];
  };
  place(lms);
  induce(text, buckets, order);
  if (num_lms <= 1) return;

  // The induction has sorted the LMS substrings (from one LMS position to the next): name them by rank.
  // rank_of[p / 2] belongs to LMS position p, which is unique as no two are adjacent.
  std::pmr::vector<int32_t> rank_of(size / 2 + 1, kEmpty, memory);
  for (int32_t i = 0; i < num_lms; ++i) rank_of[lms[i] / 2] = i;
  std::pmr::vector<int32_t> sorted_lms(memory);
  sorted_lms.reserve(num_lms);
  for (int32_t position : order) {
    const int32_t index = rank_of[position / 2];
    if (index != kEmpty && lms[index] == position) sorted_lms.push_back(index);
  }
  std::pmr::vector<uint32_t> names(num_lms, 0, memory);
  uint32_t num_names = 0;
  int32_t before = kEmpty;
  for (int32_t index : sorted_lms) {
    bool equal = before != kEmpty && before != num_lms - 1 && index != num_lms - 1;
    if (equal) {
      const int32_t length = lms[index + 1] - lms[index];
      equal = length == lms[before + 1] - lms[before] &&
              std::equal(text.begin() + lms[index], text.begin() + lms[index] + length + 1,
                         text.begin() + lms[before]);
    }
    if (!equal) ++num_names;
    names[index] = num_names - 1;
    before = index;
  }

  if (num_names == static_cast<uint32_t>(num_lms)) {
    for (int32_t& index : sorted_lms) index = lms[index];
  } else {
    sort_suffixes<uint32_t>(names, num_names, sorted_lms, memory);
    for (int32_t& index : sorted_lms) index = lms[index];
  }
  place(sorted_lms);
  induce(text, buckets, order);
}

template void sort_suffixes<uint16_t>(std::span<const uint16_t>, uint32_t, std::span<int32_t>,
                                      std::pmr::memory_resource*);
template void sort_suffixes<uint32_t>(std::span<const uint32_t>, uint32_t, std::span<int32_t>,
                                      std::pmr::memory_resource*);

}  // namespace redraft
