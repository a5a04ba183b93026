#include <gtest/gtest.h>

#include <limits>

#include "csrc/drafter.h"
#include "csrc/error.h"
#include "tests/cpp/brute_force.h"

namespace redraft {
namespace {

using testing::Random;
using testing::Tokens;

// What an engine would emit after the draft [begin, end): what is right of it and one token more.
Tokens emit(const Tokens& text, size_t& at, const int32_t* begin, const int32_t* end) {
  Tokens tokens;
  while (at < text.size()) {
    tokens.push_back(text[at++]);
    if (begin == end || *begin++ != tokens.back()) break;
  }
  return tokens;
}

Tokens varied(Random& random, const Tokens& text) {
  Tokens copy = text;
  for (int32_t& token : copy) {
    if (random.below(8) == 0) token = static_cast<int32_t>(random.below(5));
  }
  return copy;
}

class Group {
 public:
  Group(const BlendOptions& options, const std::vector<Tokens>& history, size_t requests)
      : drafter(0.05f, 1, &options) {
    const auto index = std::make_shared<FrozenIndex>(testing::freeze(history));
    live = std::make_shared<LiveIndex>(Tokens{1, 2}, 0, 64);
    for (size_t i = 0; i < requests; ++i) handles.push_back(drafter.open(live, {}, index));
  }
  DraftBatch step(const std::vector<Tokens>& added, int32_t horizon) {
    Tokens tokens;
    Tokens offsets{0};
    for (const Tokens& more : added) {
      tokens.insert(tokens.end(), more.begin(), more.end());
      offsets.push_back(static_cast<int32_t>(tokens.size()));
    }
    return drafter.step(handles, tokens, offsets, Tokens(handles.size(), horizon), -1);
  }

  Drafter drafter;
  std::shared_ptr<LiveIndex> live;
  Tokens handles;
};

// Replays texts with the first group, which says what is emitted; calls compare(batches) after each step.
template <typename Compare>
void replay(Group& first, Group& second, int32_t second_horizon, const std::vector<Tokens>& texts,
            Compare compare) {
  std::vector<size_t> at(texts.size(), 0);
  std::vector<Tokens> added(texts.size());
  for (bool running = true; running;) {
    const DraftBatch a = first.step(added, 8);
    const DraftBatch b = second.step(added, second_horizon);
    compare(a, b);
    running = false;
    for (size_t i = 0; i < texts.size(); ++i) {
      added[i] = emit(texts[i], at[i], a.tokens.data() + a.offsets[i], a.tokens.data() + a.offsets[i + 1]);
      running = running || !added[i].empty();
    }
  }
}

// A request that drafts moves its contexts along with its drafts; one that does not, with the tokens that
// come.
TEST(BlendPolicy, WhatWasDraftedBeforeDoesNotChangeWhereARequestStands) {
  BlendOptions untaught;
  untaught.mixing = untaught.calibrated = untaught.shared = false;
  untaught.rejoin = false;  // what was drafted tells what was departed from
  Random random(4);
  for (int round = 0; round < 20; ++round) {
    const Tokens text = random.tokens(4, 60);
    const std::vector<Tokens> history{varied(random, text), varied(random, text), varied(random, text)};
    const Tokens answer = varied(random, text);
    Group drafts(untaught, history, 1);
    std::vector<Tokens> emitted;
    size_t at = 0;
    for (Tokens added; at < answer.size();) {
      const DraftBatch batch = drafts.step({added}, 8);
      Group waits(untaught, history, 1);
      for (const Tokens& tokens : emitted) waits.step({tokens}, 0);
      const DraftBatch fresh = waits.step({added}, 8);
      ASSERT_EQ(batch.tokens, fresh.tokens);
      ASSERT_EQ(batch.probabilities, fresh.probabilities);
      if (!added.empty()) emitted.push_back(added);
      added = emit(answer, at, batch.tokens.data(), batch.tokens.data() + batch.tokens.size());
    }
  }
}

TEST(BlendPolicy, AHistoryThatComesWhileADraftIsOutStandsWhereTheTokensLed) {
  const std::vector<Tokens> old{{1, 2, 3, 4, 5}, {1, 2, 3, 4, 5}};
  const auto newer = std::make_shared<FrozenIndex>(testing::freeze({{7, 1, 2, 3, 6, 8}, {1, 2, 3, 6, 8}}));
  const BlendOptions options;
  Group group(options, old, 1);
  const DraftBatch draft = group.step({{1}}, 2);
  ASSERT_EQ(draft.tokens, (Tokens{2, 3}));
  group.drafter.set_history(group.handles[0], newer);
  EXPECT_EQ(group.step({{2, 3}}, 2).tokens, (Tokens{6, 8}));
  EXPECT_EQ(group.drafter.stats().accepted[static_cast<size_t>(Source::kHistory) * 2], 1);
}

TEST(BlendPolicy, LearnsThatAContextIsWrong) {
  const std::vector<Tokens> history{{1, 2, 3, 4}, {1, 2, 3, 4}};
  Group group({}, history, 1);
  const auto index = std::make_shared<FrozenIndex>(testing::freeze(history));
  const auto ask = [&] {
    const auto live = std::make_shared<LiveIndex>(Tokens{}, 0, 64);
    const int32_t request = group.drafter.open(live, Tokens{1}, index);
    const DraftBatch batch = group.drafter.step(Tokens{request}, {}, Tokens{0, 0}, Tokens{1}, -1);
    group.drafter.step(Tokens{request}, Tokens{9}, Tokens{0, 1}, Tokens{0}, -1);
    group.drafter.close(request);
    return batch.tokens == Tokens{2} ? batch.probabilities[0] : 0.0f;
  };
  const float before = ask();
  for (int i = 0; i < 20; ++i) ask();
  EXPECT_LT(ask(), before / 2);
}

TEST(Calibration, IsTheSameAfterItWasRestored) {
  Random random(5);
  const Tokens text = random.tokens(5, 300);
  const std::vector<Tokens> history{varied(random, text), varied(random, text)};
  const std::vector<Tokens> texts{varied(random, text), varied(random, text)};
  BlendOptions options;
  options.shared = false;  // it is not saved
  Group taught(options, history, texts.size());
  Group other(options, history, texts.size());
  replay(taught, other, 0, texts, [](const DraftBatch&, const DraftBatch&) {});
  EXPECT_NE(taught.drafter.calibration(), other.drafter.calibration());
  taught.step({{}, {}}, 0);  // drops what it drafted last, without a verdict
  other.drafter.restore(taught.drafter.calibration());
  EXPECT_EQ(taught.drafter.calibration(), other.drafter.calibration());
  const DraftBatch a = taught.step({text, text}, 8);
  const DraftBatch b = other.step({text, text}, 8);
  EXPECT_EQ(a.tokens, b.tokens);
  EXPECT_EQ(a.probabilities, b.probabilities);
}

TEST(Calibration, RefusesWhatItCannotHaveGivenAndStaysAsItWas) {
  Calibration calibration;
  const std::vector<float> state = calibration.state();
  for (const float bad : {-1.0f, 2.0f, std::numeric_limits<float>::quiet_NaN()}) {
    std::vector<float> broken = state;
    broken[0] = bad;
    EXPECT_THROW(calibration.restore(broken), Error);
  }
  EXPECT_THROW(calibration.restore(std::span(state).first(10)), Error);
  EXPECT_EQ(calibration.state(), state);
}

}  // namespace
}  // namespace redraft
