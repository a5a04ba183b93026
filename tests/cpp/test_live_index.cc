#include <gtest/gtest.h>

#include "csrc/error.h"
#include "csrc/live_index.h"
#include "tests/cpp/brute_force.h"

namespace redraft {
namespace {

using testing::BruteForce;
using testing::Random;
using testing::Tokens;

uint32_t occurrences(const std::vector<Tokens>& texts, std::span<const int32_t> context) {
  BruteForce twin({});
  twin.texts = texts;
  return twin.count(context);
}

// Siblings that share no prompt, so that every text stands for itself.
TEST(LiveIndex, CountsInterleavedSiblingsExactly) {
  Random random(5);
  for (int round = 0; round < 150; ++round) {
    LiveIndex index({}, 0, 1000);
    std::vector<Tokens> texts(1 + random.below(4));
    for (size_t i = 0; i < texts.size(); ++i) index.add_sequence({});
    for (int step = 0; step < 20; ++step) {
      const uint32_t sequence = random.below(static_cast<uint32_t>(texts.size()));
      const Tokens tokens = random.tokens(3, 4);
      index.append(sequence, tokens);
      texts[sequence].insert(texts[sequence].end(), tokens.begin(), tokens.end());
      const Tokens& text = texts[sequence];
      for (size_t length = 1; length <= std::min<size_t>(text.size(), 12); ++length) {
        const auto context = std::span(text).last(length);
        const LiveCursor cursor = index.match(context);
        ASSERT_EQ(cursor.length, length);
        ASSERT_EQ(index.count(cursor), occurrences(texts, context));
      }
      const LiveCursor own = index.cursor(sequence);
      if (own.length > 0) {
        ASSERT_GE(occurrences(texts, std::span(text).last(own.length)), 1u);
      }
    }
  }
}

TEST(LiveIndex, NodesWithThousandsOfContinuationsStayFindable) {
  LiveIndex index({}, 0, 64);
  const uint32_t sequence = index.add_sequence({});
  Random random(6);
  Tokens text;
  for (int i = 0; i < 60'000; ++i) text.push_back(static_cast<int32_t>(random.below(20'000)));
  index.append(sequence, text);
  for (int i = 0; i + 3 < 60'000; i += 97) {
    ASSERT_EQ(index.match(std::span(text).subspan(i, 3)).length, 3u);
  }
}

TEST(LiveIndex, ContinuesALoopWithoutCountingForEver) {
  LiveIndex index({}, 0, 64);
  const uint32_t sequence = index.add_sequence({});
  index.append(sequence, Tokens(200'000, 7));
  uint32_t drafted = 0;
  index.walk(index.cursor(sequence), [&](const LiveIndex::Step& step) {
    EXPECT_EQ(step.token, 7);
    return ++drafted < 16;
  });
  EXPECT_LE(drafted, 16u);
  EXPECT_EQ(index.cursor(sequence).length, 199'999u);
}

TEST(LiveIndex, RefusesTokensBeyondItsLimitAndKeepsWhatItHas) {
  LiveIndex index({}, 100'000, 64);
  const uint32_t sequence = index.add_sequence({});
  EXPECT_THROW(
      {
        for (int32_t token = 0;; ++token) index.append(sequence, std::span(&token, 1));
      },
      Error);
  EXPECT_LE(index.nbytes(), 100'000u);
  EXPECT_GT(index.num_tokens(), 100u);
  const int32_t negative = -1;
  EXPECT_THROW(index.append(sequence, std::span(&negative, 1)), Error);
}

}  // namespace
}  // namespace redraft
