// How much of what was proposed is drafted.
#include <algorithm>

#include "csrc/budget.h"
#include "csrc/drafter.h"

namespace redraft {
namespace {

// Keeps the beginning of each row.
void shorten(DraftBatch& batch, std::span<const int32_t> lengths) {
  int32_t at = 0;
  for (size_t row = 0; row < lengths.size(); ++row) {
    const int32_t from = batch.offsets[row];
    std::copy_n(batch.tokens.begin() + from, lengths[row], batch.tokens.begin() + at);
    std::copy_n(batch.probabilities.begin() + from, lengths[row], batch.probabilities.begin() + at);
    batch.offsets[row] = at;
    at += lengths[row];
    if (lengths[row] == 0) {
      batch.sources[row] = static_cast<uint8_t>(Source::kNone);
      batch.match_lengths[row] = 0;
    }
  }
  batch.offsets.back() = at;
  batch.tokens.resize(at);
  batch.probabilities.resize(at);
}

}  // namespace

// Spends the budget on the likeliest tokens.
void Drafter::allot(std::span<Request* const> rows, int64_t budget, const StepCosts& costs,
                    DraftBatch& batch) const {
  if (!costs.draft_tokens.empty()) {
    const int64_t most = worthwhile(batch.probabilities, batch.offsets, costs);
    budget = budget < 0 ? most : std::min(budget, most);
  }
  if (budget < 0 || static_cast<size_t>(budget) >= batch.tokens.size()) return;
  std::vector<int32_t> lengths(rows.size());
  share_out(batch.probabilities, batch.offsets, budget, lengths);
  shorten(batch, lengths);
  if (policy_) return;
  for (size_t row = 0; row < rows.size(); ++row) {
    rows[row]->num_judged = std::min(rows[row]->num_judged, static_cast<uint32_t>(lengths[row]) + 1);
  }
}

}  // namespace redraft
