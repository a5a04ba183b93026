// The drafting rule of vLLM's `suffix` method, as a baseline of the replay benchmark.
#pragma once

#include <cstdint>
#include <vector>

#include "csrc/live_index.h"

namespace redraft {

struct SuffixRule {
  uint32_t depth = 24;           // most tokens of match and draft together
  double factor = 1;             // most draft tokens for each matched token
  double min_probability = 0.1;  // of a drafted token, with all before it
  uint32_t horizon = 0;          // most tokens
};

struct SuffixDraft {
  std::vector<int32_t> tokens;
  double score = 0;  // the sum of the tokens' survivals, by shares of occurrences
};

// For every length of match that occurs twice or more (the text's own end is one), the heaviest continuation;
// returns the one with the highest score, of equals that of the shortest match. Lengths of one class of
// contexts have one continuation, so the work is a walk for each class. The caller holds the guard.
SuffixDraft draft_by_suffix_rule(const LiveIndex& index, uint32_t sequence, const SuffixRule& rule);

}  // namespace redraft
