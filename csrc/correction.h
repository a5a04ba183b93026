// What accept outcomes say about the estimates of the longest match: how much of what was promised came true.
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <vector>

namespace redraft {

// A drafted token, or the one after a draft: what the engine emits in its place tells whether it was right.
struct Judged {
  int32_t token;
  uint16_t slot;      // of the correction
  float probability;  // as estimated, before the correction
};

// A factor on the estimated probability for each class of tokens: source, length of the match that the token
// continues, estimate. It is the share of the promised acceptances that happened, over about the last
// thousand of the class, and 1 before the first outcome. Not thread-safe.
class Correction {
 public:
  static constexpr uint32_t kSources = 4;
  static constexpr uint32_t kLengths = 10;  // 1, 2, 3, 4-7, 8-15, ... 256 and more
  static constexpr uint32_t kEstimates = 8;

  static uint16_t slot(uint8_t source, uint32_t match_length, float probability);
  float correct(uint16_t slot, float probability) const;
  // judged: in the order of their positions; emitted: what the engine brought, accepted tokens first.
  void learn(std::span<const Judged> judged, std::span<const int32_t> emitted);

  std::vector<float> state() const;
  void restore(std::span<const float> state);

 private:
  struct Evidence {
    float promised = 0;
    float accepted = 0;
  };
  std::array<Evidence, kSources * kLengths * kEstimates> evidence_{};
};

}  // namespace redraft
