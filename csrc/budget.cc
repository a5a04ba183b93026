#include "csrc/budget.h"

#include <algorithm>
#include <array>
#include <string>

#include "csrc/error.h"

namespace redraft {
namespace {

constexpr int kLevels = 1024;

// Walks along the points as the number of tokens rises.
class Price {
 public:
  explicit Price(const StepCosts& costs) : costs_(costs) {}

  double at(int64_t tokens) {
    const size_t points = costs_.draft_tokens.size();
    while (upper_ + 1 < points && costs_.draft_tokens[upper_] < tokens) ++upper_;
    if (points == 1) return costs_.seconds[0];
    const double from = costs_.draft_tokens[upper_ - 1];
    const double part = (static_cast<double>(tokens) - from) / (costs_.draft_tokens[upper_] - from);
    if (part == 0) return costs_.seconds[upper_ - 1];  // the neighbour may be infinite
    if (part == 1) return costs_.seconds[upper_];
    return costs_.seconds[upper_ - 1] + part * (costs_.seconds[upper_] - costs_.seconds[upper_ - 1]);
  }
  // The first point at or beyond `tokens`, which at() was asked for last.
  int64_t next_point() const { return costs_.draft_tokens[std::min(upper_, costs_.draft_tokens.size() - 1)]; }

 private:
  StepCosts costs_;
  size_t upper_ = 1;
};

}  // namespace

void check_costs(const StepCosts& costs) {
  if (costs.draft_tokens.empty() || costs.draft_tokens.front() != 0) {
    throw_invalid("costs: draft tokens must start with 0");
  }
  if (costs.seconds.size() != costs.draft_tokens.size()) {
    throw_invalid("costs: must hold as many seconds as draft tokens");
  }
  for (size_t i = 0; i < costs.seconds.size(); ++i) {
    if (i > 0 && costs.draft_tokens[i] <= costs.draft_tokens[i - 1]) {
      throw_invalid("costs: draft tokens must rise, at " + std::to_string(i));
    }
    if (!(costs.seconds[i] > 0)) throw_invalid("costs: seconds must be > 0, at " + std::to_string(i));
  }
}

int64_t worthwhile(std::span<const float> probabilities, std::span<const int32_t> offsets,
                   const StepCosts& costs) {
  struct Level {
    int64_t tokens = 0;
    double survivals = 0;
  };
  std::array<Level, kLevels + 1> levels{};
  const size_t requests = offsets.size() - 1;
  for (size_t row = 0; row < requests; ++row) {
    float survival = 1;
    for (int32_t i = offsets[row]; i < offsets[row + 1]; ++i) {
      survival = std::clamp(survival * probabilities[i], 0.0f, 1.0f);
      Level& level = levels[static_cast<int>(survival * kLevels)];
      ++level.tokens;
      level.survivals += survival;
    }
  }
  // Within a level and between two points, tokens over time is a quotient of linear functions and so
  // monotone: its best is at one of the ends.
  Price price(costs);
  const double emitted = static_cast<double>(requests);
  double best = emitted / price.at(0);
  int64_t best_tokens = 0;
  int64_t tokens = 0;
  double expected = emitted;
  for (int i = kLevels; i >= 0; --i) {
    if (levels[i].tokens == 0) continue;
    const double each = levels[i].survivals / static_cast<double>(levels[i].tokens);
    for (int64_t left = levels[i].tokens; left > 0;) {
      price.at(tokens + 1);
      int64_t stride = price.next_point() - tokens;
      if (stride <= 0 || stride > left) stride = left;
      tokens += stride;
      left -= stride;
      expected += each * static_cast<double>(stride);
      const double rate = expected / price.at(tokens);
      if (rate > best) {
        best = rate;
        best_tokens = tokens;
      }
    }
  }
  return best_tokens;
}

}  // namespace redraft
