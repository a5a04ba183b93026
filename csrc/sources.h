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

// Each fills a cleared draft, or leaves it empty when nothing matches.
void draft_from_history(const FrozenIndex& history, FrozenCursor cursor, const DraftLimits& limits,
                        Draft& draft);
// The caller holds the index's guard.
void draft_from_live(const LiveIndex& live, uint32_t sequence, const DraftLimits& limits, Draft& draft);

// For the benchmark: replays responses as requests side by side, each emitting what its last draft got right
// and one token more, and returns the seconds that each advance and draft took.
std::vector<double> time_drafts(const FrozenIndex& history, std::span<const int32_t> tokens,
                                std::span<const int64_t> offsets, const DraftLimits& limits);

}  // namespace redraft
