#include "csrc/calibration.h"

#include <algorithm>
#include <bit>
#include <cmath>

#include "csrc/error.h"

namespace redraft {
namespace {

// How much evidence each learner remembers, how much its prior counts for, and how fast the mixer moves:
// the only constants, none of them sensitive (doc/policy.md has the ablation).
constexpr float kMemory = 4000;
constexpr float kDistrustPrior = 4;
constexpr float kMapPrior = 20;
constexpr float kRate = 0.005f;

// Classes begin at 0, 1, 2, 3, 4, 5, 6, 8, 10, 12, 16, 24, 32, 48, 64 and 128.
uint32_t length_class(uint32_t length) {
  static constexpr uint8_t kShort[] = {0, 1, 2, 3, 4, 5, 6, 6, 7, 7, 8, 8, 9, 9, 9, 9};
  static constexpr uint8_t kMedium[] = {0, 0, 10, 11, 12, 12, 13, 13};  // by eighths of 64
  if (length < 16) return kShort[length];
  return length < 64 ? kMedium[length / 8] : length < 128 ? 14 : 15;
}

uint32_t match_class(uint32_t length) {
  return length == 0 ? 0 : length < 3 ? 1 : length < 8 ? 2 : length < 24 ? 3 : 4;
}

// Natural logarithm of a positive normal number to within 1e-5, in a fraction of the library's time; the
// mixer needs no more. The mantissa's logarithm to base 2 is interpolated by a polynomial through both ends.
float quick_log(float x) {
  const uint32_t bits = std::bit_cast<uint32_t>(x);
  const float m = std::bit_cast<float>((bits & 0x007FFFFFu) | 0x3F800000u) - 1;
  const float base2 =
      m * (1.44254494f +
           m * (-0.71814525f + m * (0.45754919f + m * (-0.27790394f + m * (0.12191127f - m * 0.02595601f)))));
  return 0.69314718f * (static_cast<float>(static_cast<int32_t>(bits >> 23) - 127) + base2);
}

float stretch(float p) {
  p = std::clamp(p, 5e-4f, 0.9995f);
  return quick_log(p / (1 - p));
}

float squash(float x) { return 1 / (1 + std::exp(-std::clamp(x, -20.0f, 20.0f))); }

float map_point(uint32_t i) { return -8.0f + static_cast<float>(i) / 1.5f; }

void forget(float& sum, float& weight) {
  if (weight <= kMemory) return;
  sum *= kMemory / weight;
  weight = kMemory;
}

}  // namespace

Calibration::Calibration(bool mixing)
    : mixing_(mixing),
      distrust_(kSources * kLengths * kTotals * kShares),
      rests_(distrust_.size()),
      weights_(kWeightSets * kMixInputs),
      map_(kSources * kLengths * kMapPoints) {
  for (uint32_t set = 0; set < kWeightSets; ++set) {
    float* weights = &weights_[set * kMixInputs];
    weights[1] = weights[2] = 0.2f;
    weights[3] = 0.6f;
  }
  for (uint32_t bucket = 0; bucket < rests_.size(); ++bucket) rests_[bucket] = estimate(bucket);
  for (uint32_t point = 0; point < kMapPoints; ++point) map_priors_[point] = squash(map_point(point));
}

uint16_t Calibration::bucket(uint32_t source, uint32_t length, float total, float best_share) {
  // Classes begin at 0, 1.5, 3, 6 ...: by the exponent of total / 1.5.
  const uint32_t exponent = std::bit_cast<uint32_t>(total * (1 / 1.5f)) >> 23;
  const uint32_t totals = exponent < 127 ? 0 : std::min(exponent - 126, kTotals - 1);
  const uint32_t shares = best_share >= 0.999f ? 3 : best_share > 0.9f ? 2 : best_share > 0.5f ? 1 : 0;
  return static_cast<uint16_t>(((source * kLengths + length_class(length)) * kTotals + totals) * kShares +
                               shares);
}

float Calibration::estimate(uint32_t bucket) const {
  const uint32_t totals = bucket / kShares % kTotals;
  const float prior = 1 / (1.5f + static_cast<float>(1u << totals));
  const Evidence& seen = distrust_[bucket];
  return std::clamp((seen.sum + kDistrustPrior * prior) / (seen.weight + kDistrustPrior), 1e-3f, 0.995f);
}

void Calibration::mix(Judgement& judgement, uint32_t history_length, uint32_t live_length) const {
  float shared = judgement.base;
  float history = judgement.base;
  float live = judgement.base;
  float chain = judgement.base;
  bool with_shared = false;
  for (uint32_t i = 0; i < judgement.num_says; ++i) {
    const Say& say = judgement.says[i];
    const float rest = distrust(say.bucket);
    const float own = (1 - rest) * say.share;
    chain = own + rest * chain;
    if (say.source == 0) {
      shared = history = live = chain;
      with_shared = true;
    } else if (say.source == 1) {
      history = own + rest * history;
    } else {
      live = own + rest * live;
    }
  }
  judgement.mixed = chain;
  if (!mixing_) return;
  judgement.weight_set = static_cast<uint8_t>((with_shared ? 25 : 0) + match_class(history_length) * 5 +
                                              match_class(live_length));
  judgement.inputs = {with_shared ? stretch(shared) : 0, stretch(history), stretch(live), stretch(chain),
                      0.3f};
  const float* weights = &weights_[judgement.weight_set * kMixInputs];
  float sum = 0;
  for (uint32_t i = 0; i < kMixInputs; ++i) sum += weights[i] * judgement.inputs[i];
  judgement.mixed = squash(sum);
}

void Calibration::map(Judgement& judgement, uint32_t top_source, uint32_t top_length, bool learned) const {
  const float mixed = std::clamp(judgement.mixed, 1e-4f, 0.9999f);
  const float x = (std::clamp(quick_log(mixed / (1 - mixed)), -8.0f, 7.99f) + 8) * 1.5f;
  const uint32_t point = std::min(static_cast<uint32_t>(x), kMapPoints - 2);
  judgement.map_slot =
      static_cast<uint16_t>((top_source * kLengths + length_class(top_length)) * kMapPoints + point);
  judgement.map_part = x - static_cast<float>(point);
  judgement.probability = mixed;
  if (!learned) return;
  const auto at = [&](uint32_t i) {
    const Evidence& seen = map_[judgement.map_slot + i];
    return (seen.sum + kMapPrior * map_priors_[point + i]) / (seen.weight + kMapPrior);
  };
  judgement.probability = (1 - judgement.map_part) * at(0) + judgement.map_part * at(1);
}

void Calibration::learn(const Judgement& judgement, bool accepted) {
  const float outcome = accepted ? 1.0f : 0.0f;
  // Expectation of "the truth came from the shorter contexts", given whether the token was right.
  float chain = judgement.base;
  for (uint32_t i = 0; i < judgement.num_says; ++i) {
    const Say& say = judgement.says[i];
    const float rest = rests_[say.bucket];
    const float share = std::min(say.share, 0.9999f);
    const float blended = (1 - rest) * share + rest * chain;
    const float from_shorter = accepted ? rest * chain / blended : rest * (1 - chain) / (1 - blended);
    Evidence& seen = distrust_[say.bucket];
    seen.sum += from_shorter;
    seen.weight += 1;
    forget(seen.sum, seen.weight);
    rests_[say.bucket] = estimate(say.bucket);
    chain = blended;
  }
  if (mixing_) {
    float* weights = &weights_[judgement.weight_set * kMixInputs];
    const float error = outcome - judgement.mixed;
    for (uint32_t i = 0; i < kMixInputs; ++i) weights[i] += kRate * error * judgement.inputs[i];
  }
  for (uint32_t i = 0; i < 2; ++i) {
    const float part = i == 0 ? 1 - judgement.map_part : judgement.map_part;
    Evidence& seen = map_[judgement.map_slot + i];
    seen.sum += part * outcome;
    seen.weight += part;
    forget(seen.sum, seen.weight);
  }
}

std::vector<float> Calibration::state() const {
  std::vector<float> state;
  state.reserve(2 * (distrust_.size() + map_.size()) + weights_.size());
  for (const std::vector<Evidence>* table : {&distrust_, &map_}) {
    for (const Evidence& seen : *table) {
      state.push_back(seen.sum);
      state.push_back(seen.weight);
    }
  }
  state.insert(state.end(), weights_.begin(), weights_.end());
  return state;
}

void Calibration::restore(std::span<const float> state) {
  if (state.size() != 2 * (distrust_.size() + map_.size()) + weights_.size()) {
    throw_invalid("calibration: is of another version; start without it");
  }
  for (const float value : state) {
    if (!std::isfinite(value)) throw_invalid("calibration: must be finite; start without it");
  }
  size_t at = 0;
  for (std::vector<Evidence>* table : {&distrust_, &map_}) {
    for (Evidence& seen : *table) {
      seen.sum = state[at++];
      seen.weight = state[at++];
      if (seen.weight < 0 || seen.sum < 0 || seen.sum > seen.weight * 1.001f) seen = {};
    }
  }
  std::copy(state.begin() + static_cast<std::ptrdiff_t>(at), state.end(), weights_.begin());
  for (uint32_t bucket = 0; bucket < rests_.size(); ++bucket) rests_[bucket] = estimate(bucket);
}

uint64_t Calibration::nbytes() const {
  return (distrust_.capacity() + map_.capacity()) * sizeof(Evidence) +
         (rests_.capacity() + weights_.capacity()) * sizeof(float);
}

}  // namespace redraft
