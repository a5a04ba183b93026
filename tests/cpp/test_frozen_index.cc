#include <gtest/gtest.h>

#include <cstring>

#include "csrc/error.h"
#include "tests/cpp/brute_force.h"

namespace redraft {
namespace {

using testing::BruteForce;
using testing::Random;
using testing::Tokens;

TEST(FrozenIndex, MatchesAndCountsLikeBruteForceWhileTheCursorMovesOn) {
  Random random(2);
  for (int round = 0; round < 400; ++round) {
    const uint32_t alphabet = 1 + random.below(4);
    std::vector<Tokens> responses;
    for (uint32_t i = 0; i <= random.below(4); ++i) responses.push_back(random.tokens(alphabet, 16));
    if (round % 2) responses.push_back(responses[0]);
    const FrozenIndex index = testing::freeze(responses);
    const BruteForce twin(responses);
    FrozenCursor cursor = index.start();
    Tokens context{testing::kStartToken};
    for (int32_t token : random.tokens(alphabet + (round % 5 == 0), 30)) {
      context.push_back(token);
      index.advance(cursor, std::span(&token, 1));
      ASSERT_EQ(cursor.length, twin.match_length(context));
      if (cursor.length > 0) {
        ASSERT_EQ(index.occurrences(cursor).count, twin.count(std::span(context).last(cursor.length)));
      }
    }
  }
}

TEST(FrozenIndex, LoopsMatchAndCountLikeBruteForce) {
  Random random(5);
  for (int round = 0; round < 150; ++round) {
    std::vector<Tokens> responses;
    for (uint32_t i = 0; i <= random.below(3); ++i) {
      Tokens text = random.tokens(3, 4);
      const Tokens unit = random.tokens(3, 3);
      for (uint32_t times = 10 + random.below(20); times > 0; --times) {
        text.insert(text.end(), unit.begin(), unit.end());
      }
      const Tokens rest = random.tokens(3, 4);
      if (round % 2) text.insert(text.end(), rest.begin(), rest.end());
      responses.push_back(text);
    }
    const FrozenIndex index = testing::freeze(responses);
    const BruteForce twin(responses);
    Tokens text = responses[0];
    text[random.below(static_cast<uint32_t>(text.size()))] = static_cast<int32_t>(random.below(4));
    FrozenCursor cursor = index.start();
    Tokens context{testing::kStartToken};
    for (const int32_t& token : text) {
      context.push_back(token);
      index.advance(cursor, std::span(&token, 1));
      ASSERT_EQ(cursor.length, twin.match_length(context));
      if (cursor.length > 0) {
        ASSERT_EQ(index.occurrences(cursor).count, twin.count(std::span(context).last(cursor.length)));
      }
    }
  }
}

TEST(FrozenIndex, TakesLittleMoreThanItsTextForALoop) {
  for (const uint32_t period : {1u, 3u}) {
    Tokens loop(10'000);
    for (size_t i = 0; i < loop.size(); ++i) loop[i] = static_cast<int32_t>(i % period);
    const FrozenIndex index = testing::freeze({loop});
    EXPECT_LT(index.nbytes(), 3 * loop.size());
    FrozenCursor cursor;
    index.advance(cursor, std::span(loop).last(5'000));
    EXPECT_EQ(cursor.length, 5'000u);
    EXPECT_EQ(index.occurrences(cursor).count, 5'000 / period + 1);
  }
}

TEST(FrozenIndex, ACursorMadeLateEqualsOneThatWasThereFromTheStart) {
  Random random(3);
  for (int round = 0; round < 200; ++round) {
    const FrozenIndex index = testing::freeze({random.tokens(3, 40), random.tokens(3, 40)});
    const Tokens text = random.tokens(3, 40);
    FrozenCursor early = index.start();
    for (const int32_t& token : text) index.advance(early, std::span(&token, 1));
    FrozenCursor late = index.start();
    index.advance(late, text);
    ASSERT_EQ(std::memcmp(&early, &late, sizeof(early)), 0);
  }
}

TEST(FrozenIndex, WideSymbolsAndLabelsLongerThanSixteenBits) {
  Tokens first(70'000);
  for (size_t i = 0; i < first.size(); ++i) first[i] = static_cast<int32_t>(i);  // distinct: 32-bit symbols
  const FrozenIndex wide = testing::freeze({first, first});
  FrozenCursor cursor = wide.start();
  wide.advance(cursor, first);
  EXPECT_EQ(cursor.length, first.size() + 1);
  EXPECT_EQ(wide.occurrences(cursor).count, 2u);

  Tokens narrow(140'000);  // few distinct tokens, no short period
  Random random(4);
  for (int32_t& token : narrow) token = static_cast<int32_t>(random.below(50'000));
  const Tokens loop(100, 50'000);  // its folded nodes move the others' long labels
  const FrozenIndex index = testing::freeze({narrow, loop, narrow});
  cursor = {};
  index.advance(cursor, std::span(narrow).subspan(5));
  EXPECT_EQ(cursor.length, narrow.size() - 5);
  EXPECT_EQ(index.occurrences(cursor).count, 2u);
  cursor = {};
  index.advance(cursor, std::span(narrow).subspan(5, 20));
  size_t drafted = 0;
  index.walk(cursor, [&](uint32_t length, int32_t token, float, uint32_t) {
    EXPECT_EQ(length, 20 + drafted);
    if (token != narrow[25 + drafted] || 26 + drafted == narrow.size()) return false;
    ++drafted;
    return true;
  });
  EXPECT_EQ(drafted + 26, narrow.size());
}

TEST(FrozenIndex, RefusesWhatIsNotItsOwnBlob) {
  const FrozenIndex index = testing::freeze({{1, 2, 3}, {1, 2, 4}});
  const std::vector<char> blob(index.bytes().begin(), index.bytes().end());
  EXPECT_NO_THROW(FrozenIndex(blob.data(), blob.size(), nullptr, true));
  for (size_t size = 0; size < blob.size(); ++size) {
    EXPECT_THROW(FrozenIndex(blob.data(), size, nullptr, false), Error);
  }
  for (size_t at = 0; at < blob.size(); ++at) {
    std::vector<char> damaged = blob;
    damaged[at] ^= 1;
    EXPECT_THROW(FrozenIndex(damaged.data(), damaged.size(), nullptr, true), Error) << at;
  }
}

}  // namespace
}  // namespace redraft
