#include "csrc/frozen_input.h"

#include <algorithm>
#include <cmath>
#include <string>

#include "csrc/error.h"
#include "csrc/frozen_format.h"

namespace redraft {

void check_responses(std::span<const int32_t> tokens, std::span<const int64_t> offsets,
                     std::span<const float> weights) {
  if (offsets.size() < 2) throw_invalid("offsets: must hold at least one response, that is two entries");
  if (offsets.front() != 0) throw_invalid("offsets: must start with 0");
  if (offsets.back() != static_cast<int64_t>(tokens.size())) {
    throw_invalid("offsets: must end with the number of token_ids, " + std::to_string(tokens.size()));
  }
  for (size_t i = 0; i + 1 < offsets.size(); ++i) {
    if (offsets[i + 1] < offsets[i]) throw_invalid("offsets: must not fall, at " + std::to_string(i + 1));
    if (offsets[i + 1] == offsets[i]) {
      throw_invalid("offsets: response " + std::to_string(i) + " is empty; leave empty responses out");
    }
  }
  for (size_t i = 0; i < tokens.size(); ++i) {
    if (tokens[i] < 0) throw_invalid("token_ids: negative id at " + std::to_string(i));
  }
  if (!weights.empty() && weights.size() != offsets.size() - 1) {
    throw_invalid("weights: must hold one weight for each of " + std::to_string(offsets.size() - 1) +
                  " responses, got " + std::to_string(weights.size()));
  }
  for (size_t i = 0; i < weights.size(); ++i) {
    if (!(weights[i] > 0) || !std::isfinite(weights[i])) {
      throw_invalid("weights: must be finite and > 0, at " + std::to_string(i));
    }
  }
  if (tokens.size() + offsets.size() > kLeafBit - 2) {
    throw Error(ErrorCode::kResourceExhausted,
                "token_ids: an index holds at most 2^31 - 2 tokens and responses");
  }
}

std::pmr::vector<int32_t> distinct(std::span<const int32_t> tokens, std::pmr::memory_resource* memory) {
  std::pmr::vector<int32_t> ids(memory);
  const int32_t largest = *std::max_element(tokens.begin(), tokens.end());
  if (largest < (1 << 21)) {
    std::pmr::vector<uint8_t> seen(static_cast<size_t>(largest) + 1, 0, memory);
    for (int32_t token : tokens) seen[token] = 1;
    for (int32_t token = 0; token <= largest; ++token) {
      if (seen[token]) ids.push_back(token);
    }
  } else {
    ids.assign(tokens.begin(), tokens.end());
    std::sort(ids.begin(), ids.end());
    ids.erase(std::unique(ids.begin(), ids.end()), ids.end());
  }
  return ids;
}

}  // namespace redraft
