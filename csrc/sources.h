// Drafts from one source: follows the likeliest continuation while it is worth it.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "csrc/frozen_index.h"
#include "csrc/live_index.h"
#include "csrc/policy.h"

namespace redraft {

struct DraftLimits {
  uint32_t horizon;    // most tokens, > 0
  float min_survival;  // a draft ends before the first token whose survival is below this
};

// What one source proposes. Its memory is kept from request to request.
struct Proposal {
  struct Token {
    int32_t token;
    float probability;  // of its acceptance when all before it were accepted
  };
  uint32_t match_length = 0;
  uint32_t size = 0;   // tokens proposed
  float expected = 0;  // accepted tokens: the sum of all survivals
  std::vector<Token> tokens = std::vector<Token>(16);

  void clear() { match_length = size = 0, expected = 0; }
};

// Each fills a cleared proposal, or leaves it empty when nothing matches.
void propose_from_history(const FrozenIndex& history, FrozenCursor cursor, const DraftLimits& limits,
                          Proposal& proposal);
// The caller holds the index's guard, and the sequence is open.
void propose_from_live(const LiveIndex& live, uint32_t sequence, const DraftLimits& limits,
                       Proposal& proposal);

// For the benchmark: replays responses as requests side by side, each emitting what its last draft got right
// and one token more, and returns the seconds that each advance and draft took.
std::vector<double> time_drafts(const FrozenIndex& history, std::span<const int32_t> tokens,
                                std::span<const int64_t> offsets, const DraftLimits& limits);

}  // namespace redraft
