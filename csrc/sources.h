// Drafts from one source: follows the likeliest continuation while it is worth it.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "csrc/correction.h"
#include "csrc/frozen_index.h"
#include "csrc/live_index.h"
#include "csrc/policy.h"

namespace redraft {

struct DraftLimits {
  uint32_t horizon;    // most tokens, > 0
  float min_survival;  // a draft ends before the first token whose survival is below this
};

// What one source proposes, by estimates that are corrected. Its memory is kept from request to request.
struct Proposal {
  static constexpr uint32_t kUsual = 16;  // tokens that there is room for at once

  uint32_t match_length = 0;
  uint32_t size = 0;        // tokens proposed
  uint32_t num_judged = 0;  // these, and the one that was not worth it, if that is what ended them
  float expected = 0;       // accepted tokens: the sum of all survivals
  std::vector<Judged> tokens = std::vector<Judged>(kUsual + 1);

  void clear() { match_length = size = num_judged = 0, expected = 0; }
};

// Each fills a cleared proposal, or leaves it empty when nothing matches.
void propose_from_history(const FrozenIndex& history, FrozenCursor cursor, const DraftLimits& limits,
                          const Correction& correction, Proposal& proposal);
// The caller holds the index's guard, and the sequence is open.
void propose_from_live(const LiveIndex& live, uint32_t sequence, const DraftLimits& limits,
                       const Correction& correction, Proposal& proposal);

// For the benchmark: replays responses as requests side by side, each emitting what its last draft got right
// and one token more, and returns the seconds that each advance and draft took.
std::vector<double> time_drafts(const FrozenIndex& history, std::span<const int32_t> tokens,
                                std::span<const int64_t> offsets, const DraftLimits& limits);

}  // namespace redraft
