// What accept outcomes say about the estimates of the longest match: how much of what was promised came true.
#pragma once

#include <algorithm>
#include <array>
#include <bit>
#include <cstdint>
#include <span>
#include <vector>

namespace redraft {

// A drafted token, or the one after a draft: what the engine emits in its place tells whether it was right.
struct Judged {
  int32_t token;
  float estimate;     // of the probability that it is accepted when all before it were
  float probability;  // the same, corrected
  uint16_t slot;      // of the correction
};

// A factor on the estimated probability for each class of tokens: source, length of the match that the token
// continues, estimate. It is the share of the promised acceptances that happened, over about the last
// thousand of the class, and 1 before the first outcome. Not thread-safe.
class Correction {
 public:
  Correction() { factors_.fill(1); }

  static constexpr uint32_t kSources = 4;
  static constexpr uint32_t kLengths = 10;  // 1, 2, 3, 4-7, 8-15, ... 256 and more
  static constexpr uint32_t kEstimates = 8;

  // estimate: >= 0, and 1 at most.
  static uint16_t slot(uint8_t source, uint32_t match_length, float estimate) {
    const uint32_t length_class = kLengthClass[match_length < kLongest ? match_length : kLongest];
    return static_cast<uint16_t>((source * kLengths + length_class) * kEstimates +
                                 static_cast<uint32_t>(estimate * kAlmost));
  }
  float correct(uint16_t slot, float probability) const {
    return std::min(kHighest, probability * factors_[slot]);
  }
  // judged: in the order of their positions; emitted: what the engine brought, accepted tokens first. Returns
  // how many of the judged were right.
  size_t learn(std::span<const Judged> judged, std::span<const int32_t> emitted);

  std::vector<float> state() const;
  void restore(std::span<const float> state);

 private:
  struct Evidence {
    float promised = 0;
    float accepted = 0;
  };
  static constexpr float kHighest = 0.999f;
  static constexpr float kAlmost = kEstimates - 1e-3f;  // so that 1 is of the last class
  static constexpr uint32_t kLongest = 256;
  static constexpr std::array<uint8_t, kLongest + 1> kLengthClass = [] {
    std::array<uint8_t, kLongest + 1> classes{};
    for (uint32_t length = 1; length <= kLongest; ++length) {
      const uint32_t width = static_cast<uint32_t>(std::bit_width(length));  // 1: 1, 2-3: 2, 4-7: 3 ...
      classes[length] = static_cast<uint8_t>(length < 4 ? length - 1 : std::min(width, kLengths - 1));
    }
    return classes;
  }();

  void weigh(uint16_t slot);

  std::array<Evidence, kSources * kLengths * kEstimates> evidence_{};
  std::array<float, kSources * kLengths * kEstimates> factors_;  // what the evidence says
};

}  // namespace redraft
