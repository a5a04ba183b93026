#include "csrc/correction.h"

#include <algorithm>
#include <cmath>
#include <string>

#include "csrc/error.h"

namespace redraft {
namespace {

constexpr float kPrior = 8;      // promised and accepted, before the first outcome
constexpr float kMemory = 1000;  // promised acceptances after which the old ones are halved

}  // namespace

void Correction::weigh(uint16_t slot) {
  const Evidence& evidence = evidence_[slot];
  factors_[slot] = (evidence.accepted + kPrior) / (evidence.promised + kPrior);
}

size_t Correction::learn(std::span<const Judged> judged, std::span<const int32_t> emitted) {
  const size_t known = std::min(judged.size(), emitted.size());
  for (size_t i = 0; i < known; ++i) {
    const auto& [token, estimate, probability, slot] = judged[i];
    const bool accepted = token == emitted[i];
    Evidence& evidence = evidence_[slot];
    evidence.promised += estimate;
    if (accepted) evidence.accepted += 1;
    if (evidence.promised > kMemory) {
      evidence.promised /= 2;
      evidence.accepted /= 2;
    }
    weigh(slot);
    if (!accepted) return i;
  }
  return known;
}

std::vector<float> Correction::state() const {
  std::vector<float> state;
  state.reserve(evidence_.size() * 2);
  for (const Evidence& evidence : evidence_) {
    state.push_back(evidence.promised);
    state.push_back(evidence.accepted);
  }
  return state;
}

void Correction::restore(std::span<const float> state) {
  if (state.size() != evidence_.size() * 2) {
    throw_invalid("calibration: must hold " + std::to_string(evidence_.size() * 2) +
                  " values, as calibration() gives");
  }
  for (const float value : state) {
    if (!(value >= 0) || !std::isfinite(value)) throw_invalid("calibration: must hold finite values >= 0");
  }
  for (uint16_t slot = 0; slot < evidence_.size(); ++slot) {
    evidence_[slot] = {state[2 * slot], state[2 * slot + 1]};
    weigh(slot);
  }
}

}  // namespace redraft
