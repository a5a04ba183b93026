// How many draft tokens of a batch are worth what their verification costs.
#pragma once

#include <cstdint>
#include <span>

namespace redraft {

// What the next engine step costs by the number of draft tokens in it: piecewise linear between the points,
// and on with the last piece's slope beyond. Any unit of time; only ratios matter.
struct StepCosts {
  std::span<const int32_t> draft_tokens;  // rising from 0
  std::span<const float> seconds;         // > 0; one entry for each of draft_tokens
};

// Throws InvalidArgument for a malformed one.
void check_costs(const StepCosts& costs);

// The number of draft tokens, the likeliest first, that maximises expected emitted tokens over time,
// (requests + sum of survivals) / seconds; the smallest among equals. offsets holds one entry more than there
// are requests; probabilities are each token's given that all before it in its row were accepted.
// Deterministic: survivals are looked at in steps of 1/1024, which is finer than anything known about them.
int64_t worthwhile(std::span<const float> probabilities, std::span<const int32_t> offsets,
                   const StepCosts& costs);

}  // namespace redraft
