// What to draft: how far to trust a source, when to stop, and how to share out a batch's budget.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace redraft {

enum class Source : uint8_t { kNone = 0, kHistory = 1, kLive = 2, kShared = 3 };
inline constexpr int kNumSources = 4;

// The probability that a token is accepted, from the share `ratio` that it has among the continuations of a
// context of `match_length` tokens which occurred `count` times. A long context predicts better than a short
// one, and many occurrences better than few; a prior of a few imagined misses says so.
inline float acceptance(uint32_t match_length, float ratio, float count) {
  const float occurrences = count * static_cast<float>(match_length + 1);
  return ratio * occurrences / (occurrences + 4.0f);  // 4 / (match_length + 1) imagined misses
}

// Survival of a token: the probability that it and all before it are accepted. Keeps the `budget` tokens with
// the highest survival over all rows, ties going to the lower row and then to the lower position, and writes
// into lengths[i] how many of row i are kept. Deterministic.
void share_out(std::span<const float> probabilities, std::span<const int32_t> offsets, int64_t budget,
               std::span<int32_t> lengths);

}  // namespace redraft
