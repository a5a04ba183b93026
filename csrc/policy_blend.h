// Which token comes next, and how surely: the blend of every source's contexts, weighed by what was learned.
//
// Ideas from data compression: shorter contexts fill in for longer ones as in PPM (Cleary and Witten 1984)
// with shares learned by deleted interpolation (Jelinek and Mercer 1980); the sources' verdicts are mixed in
// the logistic domain and corrected by an adaptive map, as in PAQ (Mahoney 2005).
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "csrc/calibration.h"
#include "csrc/frozen_index.h"
#include "csrc/live_index.h"
#include "csrc/policy.h"
#include "csrc/policy_shared.h"

namespace redraft {

// Which ingredients take part; all of them by default. For ablations.
struct BlendOptions {
  bool shared = true;      // the bounded index over all prompts
  bool mixing = true;      // logistic mixing of the sources; else one chain of contexts
  bool calibrated = true;  // the learned map from blended to observed acceptance
  bool blending = true;    // shorter contexts below the longest match of each source
};

// A request's two longest contexts in its history: the second is the longest that occurs more often. It moves
// along with the first, as finding it anew means to read the first one's label again.
struct HistoryContexts {
  FrozenCursor first;
  FrozenCursor second;

  void start(const FrozenIndex& history, std::span<const int32_t> tokens);
  void advance(const FrozenIndex& history, std::span<const int32_t> tokens);
};

// Several threads may draft at the same time; learn() and observe() want to be alone.
class BlendPolicy {
 public:
  explicit BlendPolicy(const BlendOptions& options) : options_(options), calibration_(options.mixing) {}

  struct Context {
    const FrozenIndex* history = nullptr;  // null without
    HistoryContexts frozen;
    const LiveIndex* live = nullptr;  // null without; its guard is held by the caller
    uint32_t sequence = 0;
    std::span<const int32_t> response;  // all tokens so far
  };

  // What was thought of each drafted token, and of one more that was not drafted, until the verdict comes.
  using Trail = std::vector<Judgement>;

  // Drafts up to `horizon` tokens while survival is at least `min_survival`.
  void draft(const Context& context, uint32_t horizon, float min_survival, Draft& draft, Trail& trail) const;
  // Learns from the tokens that came where `trail` was drafted, and clears it.
  void learn(Trail& trail, std::span<const int32_t> tokens);
  // Adds the last `added` tokens of a response to the shared index.
  void observe(std::span<const int32_t> response, size_t added);

  Calibration& calibration() { return calibration_; }
  uint64_t nbytes() const { return sizeof(*this) + shared_.nbytes() + calibration_.nbytes(); }

 private:
  static constexpr uint32_t kLevels = 2;       // contexts of history and of live, longest first
  static constexpr uint32_t kChoices = 4;      // tokens compared
  static constexpr float kNegligible = 0.01f;  // weight in the blend below which contexts are left out

  struct Level {
    Source source;
    uint8_t say;      // the source as calibration counts it
    uint16_t bucket;  // class of contexts
    uint32_t length;
    float scale;  // 1 / occurrences
    float rest;   // distrust
    int32_t best;
    float best_share;
    FrozenCursor frozen;
    LiveCursor at;
    const SharedIndex::Entry* entry;
  };

  void judge(Level& level, float total, float best_count) const;
  uint32_t gather(const Context& context, const HistoryContexts& frozen, const LiveCursor& live, bool own,
                  uint32_t length, Level* levels) const;
  uint32_t gather_shared(const int32_t* end, uint32_t length, Level* levels) const;
  float share(const Context& context, const Level& level, int32_t token) const;
  Judgement choose(const Context& context, std::span<const Level> levels, float base) const;

  BlendOptions options_;
  Calibration calibration_;
  SharedIndex shared_;
  std::vector<int32_t> text_;  // scratch of observe()
};

}  // namespace redraft
