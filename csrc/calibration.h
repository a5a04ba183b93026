// Calibration: what is learned from accept outcomes, online. All of it starts from a prior that is sensible
// at step 0 and forgets what is old as the policy drifts.
#pragma once

#include <algorithm>
#include <array>
#include <bit>
#include <cstdint>
#include <span>
#include <vector>

namespace redraft {

// The contexts that speak about a token: the longest match of each source, of two a shorter one, a text of
// the group that may be rejoined, and the shared index's sparse contexts.
enum Context : uint32_t { kHistory, kLive1, kLive2, kRejoin, kShared1, kShared2, kSparse1, kSparse2 };
inline constexpr uint32_t kContexts = 8;

// What was thought of one token.
struct Judgement {
  int32_t token = -1;
  float probability = 0;
  uint16_t weights = 0;                    // set of the mixer's weights
  std::array<uint16_t, kContexts> says{};  // each context's class of statements
};

// Each context says one of a few thousand classes of statements about a token: "I am history's longest match,
// of 8 tokens, met about 4 times, and it came next about half of the time". How often such a statement comes
// true is learned, and so are the weights with which the statements are mixed. Not thread-safe.
class Calibration {
 public:
  Calibration();

  // The class of a context of `length` tokens that occurred `total` times.
  static uint16_t kind(Context context, uint32_t length, float total) {
    return kind_of_class(context, kLengthClass[length < kLongest ? length : kLongest], total);
  }
  // The same for a class below 16 that stands in for the length's.
  static uint16_t kind_of_class(Context context, uint32_t length_class, float total) {
    return static_cast<uint16_t>(((context * kLengths + length_class) * kTotals + total_class(total)) *
                                 kShares);
  }
  // What a context says about a token that followed it in this share of its occurrences, > 0.
  static uint16_t says(uint16_t kind, float share) {
    return static_cast<uint16_t>(kind + share_class(share));
  }
  // The same for a token that never followed it, by the share of the one that did most often.
  static uint16_t denies(uint16_t kind, float best_share) {
    return static_cast<uint16_t>(kind + 8 + share_class(best_share) / 2);
  }
  static constexpr uint16_t kSilent = 16384;  // what a context that is not there says

  // The set of weights, by the lengths of the sources' longest matches, 0 for none; shared: kUnasked when
  // the longest matches of history and live are all that speaks.
  static constexpr uint32_t kUnasked = 7;
  static uint16_t weights(uint32_t history, uint32_t live, uint32_t shared) {
    constexpr auto match = [](uint32_t length) { return kMatchClass[length < kLongest ? length : kLongest]; };
    return static_cast<uint16_t>((match(history) * kMatches + match(live)) * kShared + kSharedClass[shared]);
  }
  static bool is_unasked(uint16_t set) { return set % kShared == kSharedClass[kUnasked]; }

  // What a statement says, as log odds: 0 for a silent context.
  float evidence(uint16_t says) const { return evidence_[says]; }
  // The weights of a set: by context, and last the constant's, with which the mix begins.
  const float* weights_of(uint16_t set) const { return &weights_[set * kInputs]; }
  // The probability of mixed log odds.
  float squash(float x) const {
    const float at = (x + kFurthest) * (kPoints / (2 * kFurthest));
    return squash_[static_cast<uint32_t>(std::min(std::max(at, 0.0f), kPoints - 1.0f))];
  }
  // The verdict.
  void learn(const Judgement& judgement, bool accepted);

  // Everything learned, for saving with the run, as plain numbers; restore() wants what state() gave.
  std::vector<float> state() const;
  void restore(std::span<const float> state);
  uint64_t nbytes() const;

  // For ablations.
  bool learns_statements = true;
  bool learns_weights = true;

 private:
  struct Statement {
    float truth;  // how often it was true
    float seen;   // outcomes behind that, up to kMemory
  };
  static constexpr uint32_t kLengths = 16;
  static constexpr uint32_t kTotals = 8;
  static constexpr uint32_t kShares = 16;
  static constexpr uint32_t kMatches = 5;
  static constexpr uint32_t kInputs = kContexts + 1;  // weights of the contexts and a constant
  static constexpr uint32_t kLongest = 128;
  static constexpr uint32_t kPoints = 4096;
  static constexpr float kFurthest = 12;
  static_assert(kSilent == kContexts * kLengths * kTotals * kShares);

  // Classes begin at 0, 1, 2, 3, 4, 5, 6, 8, 10, 12, 16, 24, 32, 48, 64 and 128 tokens.
  static constexpr std::array<uint8_t, kLongest + 1> kLengthClass = [] {
    constexpr std::array<uint32_t, kLengths> begins{0, 1, 2, 3, 4, 5, 6, 8, 10, 12, 16, 24, 32, 48, 64, 128};
    std::array<uint8_t, kLongest + 1> classes{};
    for (uint32_t length = 0; length <= kLongest; ++length) {
      for (uint8_t c = 0; c < kLengths; ++c) {
        if (begins[c] <= length) classes[length] = c;
      }
    }
    return classes;
  }();
  // 0, 1-2, 3-7, 8-23, 24 and more tokens.
  static constexpr std::array<uint8_t, kLongest + 1> kMatchClass = [] {
    std::array<uint8_t, kLongest + 1> classes{};
    for (uint32_t i = 0; i <= kLongest; ++i) {
      classes[i] = static_cast<uint8_t>((i >= 1) + (i >= 3) + (i >= 8) + (i >= 24));
    }
    return classes;
  }();
  static constexpr uint32_t kShared = 6;
  static constexpr uint8_t kSharedClass[] = {0, 1, 2, 2, 3, 3, 4, 5};
  // By 32nds; 1 is a class of its own.
  static constexpr std::array<uint8_t, 33> kShareClass = [] {
    std::array<uint8_t, 33> classes{};
    for (uint32_t i = 0; i < 33; ++i) {
      classes[i] = static_cast<uint8_t>(i >= 32   ? 7
                                        : i >= 29 ? 6
                                        : i >= 23 ? 5
                                        : i >= 16 ? 4
                                        : i >= 10 ? 3
                                        : i >= 3  ? 2
                                                  : 1);
    }
    return classes;
  }();
  // Classes begin at 0, 1.5, 3, 6 ...: by the exponent of total / 1.5.
  static constexpr std::array<uint8_t, 512> kTotalClass = [] {
    std::array<uint8_t, 512> classes{};
    for (int32_t i = 0; i < 256; ++i) {
      classes[i] = static_cast<uint8_t>(std::clamp(i - 126, 0, static_cast<int32_t>(kTotals) - 1));
    }
    return classes;
  }();
  static uint32_t total_class(float total) {
    return kTotalClass[std::bit_cast<uint32_t>(total * (1 / 1.5f)) >> 23];
  }
  // Of any number, as a damaged index may say anything.
  static uint32_t share_class(float share) {
    return kShareClass[static_cast<uint32_t>(
        static_cast<int32_t>(std::min(1.0f, std::max(0.0f, share)) * 32))];
  }

  float stretch(float truth) const { return stretch_[static_cast<uint32_t>(truth * kPoints)]; }

  std::vector<Statement> statements_;
  std::vector<float> evidence_;             // log odds of each statement's truth
  std::vector<float> weights_;              // by set and context, the constant's last
  std::array<float, kPoints + 1> stretch_;  // log(p / (1 - p))
  std::array<float, kPoints> squash_;       // and back, from -kFurthest to kFurthest
};

}  // namespace redraft
