// The frozen index by brute force, for the C++ tests; tests/reference.py is its longer Python twin.
#pragma once

#include <algorithm>
#include <cstdint>
#include <span>
#include <vector>

#include "csrc/frozen_builder.h"
#include "csrc/frozen_index.h"

namespace redraft::testing {

using Tokens = std::vector<int32_t>;

inline constexpr int32_t kStartToken = -1;

struct BruteForce {
  std::vector<Tokens> texts;  // each begins with kStartToken

  explicit BruteForce(const std::vector<Tokens>& responses) {
    for (const Tokens& response : responses) {
      texts.push_back({kStartToken});
      texts.back().insert(texts.back().end(), response.begin(), response.end());
    }
  }
  uint32_t count(std::span<const int32_t> context) const {
    uint32_t found = 0;
    for (const Tokens& text : texts) {
      for (size_t at = 0; at + context.size() <= text.size(); ++at) {
        found += std::equal(context.begin(), context.end(), text.begin() + static_cast<int64_t>(at));
      }
    }
    return found;
  }
  uint32_t match_length(std::span<const int32_t> context) const {
    size_t length = context.size();
    while (length > 0 && count(context.subspan(context.size() - length)) == 0) --length;
    return static_cast<uint32_t>(length);
  }
};

inline FrozenIndex freeze(const std::vector<Tokens>& responses) {
  Tokens flat;
  std::vector<int64_t> offsets{0};
  for (const Tokens& response : responses) {
    flat.insert(flat.end(), response.begin(), response.end());
    offsets.push_back(static_cast<int64_t>(flat.size()));
  }
  return FrozenIndex(build_frozen(flat, offsets, {}, 0));
}

// A small deterministic generator (splitmix64).
class Random {
 public:
  explicit Random(uint64_t seed) : state_(seed) {}
  uint32_t below(uint32_t bound) {
    uint64_t z = state_ += 0x9E3779B97F4A7C15ull;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9ull;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBull;
    return static_cast<uint32_t>((z ^ (z >> 31)) % bound);
  }
  Tokens tokens(uint32_t alphabet, uint32_t longest) {
    Tokens list(1 + below(longest));
    for (int32_t& token : list) token = static_cast<int32_t>(below(alphabet));
    return list;
  }

 private:
  uint64_t state_;
};

}  // namespace redraft::testing
