#include "csrc/correction.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <string>

#include "csrc/error.h"

namespace redraft {
namespace {

constexpr float kPrior = 8;      // promised and accepted, before the first outcome
constexpr float kMemory = 1000;  // promised acceptances after which the old ones are halved
constexpr float kHighest = 0.999f;

}  // namespace

uint16_t Correction::slot(uint8_t source, uint32_t match_length, float probability) {
  const uint32_t length = std::max(match_length, 1u);
  const uint32_t width = static_cast<uint32_t>(std::bit_width(length));  // 1: 1, 2-3: 2, 4-7: 3 ...
  const uint32_t length_class = length < 4 ? length - 1 : std::min(width, kLengths - 1);
  const uint32_t estimate =
      std::min(static_cast<uint32_t>(std::max(probability, 0.0f) * kEstimates), kEstimates - 1);
  return static_cast<uint16_t>((source * kLengths + length_class) * kEstimates + estimate);
}

float Correction::correct(uint16_t slot, float probability) const {
  const Evidence& evidence = evidence_[slot];
  return std::min(kHighest, probability * (evidence.accepted + kPrior) / (evidence.promised + kPrior));
}

void Correction::learn(std::span<const Judged> judged, std::span<const int32_t> emitted) {
  const size_t known = std::min(judged.size(), emitted.size());
  for (size_t i = 0; i < known; ++i) {
    const bool accepted = judged[i].token == emitted[i];
    Evidence& evidence = evidence_[judged[i].slot];
    evidence.promised += judged[i].probability;
    evidence.accepted += accepted ? 1.0f : 0.0f;
    if (evidence.promised > kMemory) {
      evidence.promised /= 2;
      evidence.accepted /= 2;
    }
    if (!accepted) return;
  }
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
  for (size_t i = 0; i < evidence_.size(); ++i) evidence_[i] = {state[2 * i], state[2 * i + 1]};
}

}  // namespace redraft
