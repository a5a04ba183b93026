#include "csrc/calibration.h"

#include <algorithm>
#include <cmath>

#include "csrc/error.h"

namespace redraft {
namespace {

// How much evidence a statement remembers, how much its prior counts for, and how fast the weights move: the
// only constants, none of them sensitive (doc/policy.md has the ablation).
constexpr float kMemory = 1000;
constexpr float kPrior = 6;
constexpr float kRate = 0.02f;
// Far beyond what is ever learned: a file that says more is damaged.
constexpr float kLargestWeight = 20;

// The middle of each class, for the prior.
constexpr float kLengthOf[] = {0.5f, 1, 2, 3, 4, 5, 6.5f, 8.5f, 10.5f, 13, 19, 27, 39, 55, 90, 200};
constexpr float kShareOf[] = {0, 0.05f, 0.2f, 0.4f, 0.6f, 0.8f, 0.95f, 1};
constexpr float kDenied[] = {0.2f, 0.12f, 0.05f, 0.02f};

float prior(uint32_t length_class, uint32_t total_class, uint32_t share_class) {
  if (share_class >= 8) return kDenied[std::min(share_class - 8, 3u)];
  // A long context predicts better than a short one, and many occurrences better than few.
  const float occurrences = static_cast<float>(1u << total_class) * (kLengthOf[length_class] + 1);
  return std::clamp(kShareOf[share_class] * occurrences / (occurrences + 4), 0.01f, 0.98f);
}

}  // namespace

Calibration::Calibration()
    : statements_(kSilent + 1), evidence_(kSilent + 1), weights_(kMatches * kMatches * kShared * kInputs) {
  for (uint32_t says = 0; says < kSilent; ++says) {
    statements_[says] = {
        prior(says / (kShares * kTotals) % kLengths, says / kShares % kTotals, says % kShares), 0};
  }
  statements_[kSilent] = {0.5f, 0};
  for (size_t i = 0; i < weights_.size(); ++i) {
    const size_t context = i % kInputs;
    const bool first = context == kHistory || context == kLive1 || context == kShared1;
    weights_[i] = context == kContexts ? 0 : first ? 0.3f : 0.15f;
  }
  for (uint32_t i = 0; i <= kPoints; ++i) {
    const float p = std::clamp((static_cast<float>(i) + 0.5f) / kPoints, 5e-4f, 0.9995f);
    stretch_[i] = std::log(p / (1 - p));
  }
  stretch_[kPoints / 2] = 0;
  for (size_t says = 0; says <= kSilent; ++says) evidence_[says] = stretch(statements_[says].truth);
  for (uint32_t i = 0; i < kPoints; ++i) {
    const float x = (static_cast<float>(i) + 0.5f) * (2 * kFurthest / kPoints) - kFurthest;
    squash_[i] = 1 / (1 + std::exp(-x));
  }
}

void Calibration::learn(const Judgement& judgement, bool accepted) {
  const float outcome = accepted ? 1.0f : 0.0f;
  float* weights = &weights_[judgement.weights * kInputs];
  const float step = learns_weights ? kRate * (outcome - judgement.probability) : 0;
  const auto teach = [&](uint32_t context) {
    const uint16_t says = judgement.says[context];
    if (says == kSilent) return;
    weights[context] += step * evidence(says);
    if (!learns_statements) return;
    Statement& statement = statements_[says];
    statement.truth += (outcome - statement.truth) / (statement.seen + kPrior);
    if (statement.seen < kMemory) statement.seen += 1;
    evidence_[says] = stretch(statement.truth);
  };
  if (is_unasked(judgement.weights)) {
    teach(kHistory);
    teach(kLive1);
  } else {
    for (uint32_t context = 0; context < kContexts; ++context) teach(context);
  }
  weights[kContexts] += step;
}

std::vector<float> Calibration::state() const {
  std::vector<float> state;
  state.reserve(2 * kSilent + weights_.size());
  for (uint32_t says = 0; says < kSilent; ++says) {
    state.push_back(statements_[says].truth);
    state.push_back(statements_[says].seen);
  }
  state.insert(state.end(), weights_.begin(), weights_.end());
  return state;
}

void Calibration::restore(std::span<const float> state) {
  if (state.size() != 2 * kSilent + weights_.size()) {
    throw_invalid("calibration: is of another version; start without it");
  }
  const auto sound = [](float value, float most) { return value >= 0 && value <= most; };
  for (size_t i = 0; i < 2 * kSilent; i += 2) {
    if (!sound(state[i], 1) || !sound(state[i + 1], kMemory)) {
      throw_invalid("calibration: holds what is no probability or count; start without it");
    }
  }
  for (size_t i = 2 * kSilent; i < state.size(); ++i) {
    if (!(std::abs(state[i]) <= kLargestWeight)) {
      throw_invalid("calibration: holds a weight that is never learned; start without it");
    }
  }
  for (size_t says = 0; says < kSilent; ++says) {
    statements_[says] = {state[2 * says], state[2 * says + 1]};
    evidence_[says] = stretch(statements_[says].truth);
  }
  std::copy(state.begin() + 2 * kSilent, state.end(), weights_.begin());
}

uint64_t Calibration::nbytes() const {
  return statements_.capacity() * sizeof(Statement) +
         (evidence_.capacity() + weights_.capacity()) * sizeof(float);
}

}  // namespace redraft
