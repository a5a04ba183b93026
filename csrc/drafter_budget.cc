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

// Corrects the estimates of the longest match, cuts the rows whose survival is too low by that, and spends
// the budget. Each request remembers what it will learn from: its draft and one token more, which the bonus
// token judges; so what is not worth drafting now is still known when it becomes so.
void Drafter::allot(std::span<Request* const> rows, int64_t budget, const StepCosts& costs,
                    DraftBatch& batch) const {
  std::vector<int32_t> limits(rows.size());
  std::vector<Judged> judged;
  if (!policy_) judged.reserve(batch.tokens.size());
  for (size_t row = 0; row < rows.size(); ++row) {
    const int32_t from = batch.offsets[row];
    const int32_t length = batch.offsets[row + 1] - from;
    limits[row] = length;
    if (policy_) continue;
    float survival = 1;
    for (int32_t i = 0; i < length; ++i) {
      float& probability = batch.probabilities[from + i];
      const uint16_t slot = Correction::slot(
          batch.sources[row], static_cast<uint32_t>(batch.match_lengths[row] + i), probability);
      judged.push_back({batch.tokens[from + i], slot, probability});
      probability = correction_.correct(slot, probability);
      survival *= probability;
      if (survival < min_survival_) {
        limits[row] = std::min(limits[row], i);
        probability = 0;  // the last that any budget goes to
      }
    }
  }
  if (!costs.draft_tokens.empty()) {
    const int64_t most = worthwhile(batch.probabilities, batch.offsets, costs);
    budget = budget < 0 ? most : std::min(budget, most);
  }
  std::vector<int32_t> lengths = limits;
  if (budget >= 0 && static_cast<size_t>(budget) < batch.tokens.size()) {
    share_out(batch.probabilities, batch.offsets, budget, lengths);
  }
  bool shorter = false;
  for (size_t row = 0; row < rows.size(); ++row) {
    const int32_t from = batch.offsets[row];
    const int32_t length = batch.offsets[row + 1] - from;
    lengths[row] = std::min(lengths[row], limits[row]);
    shorter = shorter || lengths[row] < length;
    if (policy_) continue;
    const auto begin = judged.begin() + from;
    rows[row]->judged.assign(begin, begin + std::min(length, lengths[row] + 1));
  }
  if (shorter) shorten(batch, lengths);
}

}  // namespace redraft
