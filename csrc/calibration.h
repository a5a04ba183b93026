// Calibration: what is learned from accept outcomes, online. All of it starts from a prior that is sensible
// at step 0 and forgets what is old as the policy drifts.
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <vector>

namespace redraft {

// One context's say about one token: the share `share` of the context's occurrences, and the class of
// contexts (source, length, occurrences, how one-sided) whose reliability is learned.
struct Say {
  uint16_t bucket;
  uint8_t source;
  float share;
};

inline constexpr uint32_t kMaxSays = 12;
inline constexpr uint32_t kMixInputs = 5;

// What was thought of one token.
struct Judgement {
  int32_t token = -1;
  uint8_t num_says = 0;
  uint8_t weight_set = 0;
  uint16_t map_slot = 0;
  float map_part = 0;     // how far between map_slot and the next
  float base = 0;         // probability below the weakest say
  float mixed = 0;        // probability before the map
  float probability = 0;  // and after it: the one to use
  std::array<float, kMixInputs> inputs{};
  std::array<Say, kMaxSays> says{};
};

// Not thread-safe.
class Calibration {
 public:
  static constexpr uint32_t kSources = 3;  // shared, history, live: the order in which contexts are blended

  explicit Calibration(bool mixing);

  // The class of a context. source: 0 shared, 1 history, 2 live. best_share: of its most frequent
  // continuation.
  static uint16_t bucket(uint32_t source, uint32_t length, float total, float best_share);

  // The share of the truth that comes from contexts shorter than those of the class.
  float distrust(uint16_t bucket) const { return rests_[bucket]; }
  // The probability that a chain of contexts starts from: that of a token which none of them knows.
  static constexpr float kUnheard = 2e-5f;

  // Fills in `mixed` and the inputs from the says, which go from the weakest context to the strongest.
  // history_length, live_length: longest matches, 0 for none.
  void mix(Judgement& judgement, uint32_t history_length, uint32_t live_length) const;
  // Fills in `probability`. top_source, top_length: of the strongest context.
  void map(Judgement& judgement, uint32_t top_source, uint32_t top_length, bool learned) const;
  // The verdict.
  void learn(const Judgement& judgement, bool accepted);

  // Everything learned, for saving with the run, as plain numbers; restore() wants what state() gave.
  std::vector<float> state() const;
  void restore(std::span<const float> state);
  uint64_t nbytes() const;

 private:
  struct Evidence {
    float sum = 0;
    float weight = 0;
  };
  static constexpr uint32_t kLengths = 16;
  static constexpr uint32_t kTotals = 8;
  static constexpr uint32_t kShares = 4;
  static constexpr uint32_t kMapPoints = 25;
  static constexpr uint32_t kWeightSets =
      50;  // by match lengths of history and live, without and with shared contexts

  float estimate(uint32_t bucket) const;

  bool mixing_;
  std::vector<Evidence> distrust_;  // by bucket: share of the truth that comes from shorter contexts
  std::vector<float> rests_;        // by bucket: what that evidence says
  std::vector<float> weights_;      // by weight set and input
  std::vector<Evidence> map_;       // by strongest context and point
  std::array<float, kMapPoints> map_priors_;
};

}  // namespace redraft
