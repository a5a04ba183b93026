#include <gtest/gtest.h>

#include "csrc/drafter.h"
#include "csrc/policy_shared.h"
#include "csrc/rejoin.h"
#include "tests/cpp/brute_force.h"

namespace redraft {
namespace {

using testing::Random;
using testing::Tokens;

constexpr int32_t kOther = 999;  // in no text

Tokens count_up(int32_t from, int32_t to) {
  Tokens tokens;
  for (int32_t token = from; token < to; ++token) tokens.push_back(token);
  return tokens;
}

// A text that counts from 1 to 40, and a response that has come to `last` and then goes on otherwise.
class RejoinTest : public ::testing::Test {
 protected:
  void depart(int32_t last, int32_t token) { rejoin.depart(live, live.match(count_up(1, last + 1)), token); }
  int32_t next() const {
    int32_t token = -1;
    uint32_t count;
    return rejoin.active() && live.best_next(rejoin.at(), token, count) ? token : -1;
  }

  LiveIndex live{Tokens{}, 0, 64};
  uint32_t sequence = live.add_sequence(count_up(1, 41));
  Rejoin rejoin;
};

TEST_F(RejoinTest, AnotherTokenInPlaceOfOne) {
  depart(6, kOther);
  EXPECT_EQ(next(), 8);
  EXPECT_EQ(rejoin.kind(), 0u);
  rejoin.move(live, 8);
  EXPECT_EQ(next(), 9);
  EXPECT_EQ(rejoin.kind(), 1u);
}

TEST_F(RejoinTest, ATokenMore) {
  depart(6, kOther);
  rejoin.move(live, 7);
  EXPECT_EQ(next(), 8);
}

TEST_F(RejoinTest, ATokenOrTwoLess) {
  for (const int32_t came : {8, 9}) {
    depart(6, came);
    EXPECT_EQ(next(), came + 1);
    EXPECT_EQ(rejoin.kind(), 1u);
  }
  depart(6, 10);  // three
  EXPECT_EQ(next(), 8);
}

TEST_F(RejoinTest, IsForgottenWhenTheTextsAgreeAgain) {
  depart(6, kOther);
  for (int32_t token = 8; token < 15; ++token) {
    rejoin.move(live, token);
    ASSERT_TRUE(rejoin.active());
  }
  rejoin.move(live, 15);
  EXPECT_FALSE(rejoin.active());
}

TEST_F(RejoinTest, IsGivenUpWhenTheTextsGoOnDiffering) {
  depart(6, kOther);
  for (int i = 0; i < 3; ++i) {
    rejoin.move(live, kOther);
    ASSERT_TRUE(rejoin.active());
    EXPECT_EQ(rejoin.kind(), 8u);
  }
  rejoin.move(live, kOther);
  EXPECT_FALSE(rejoin.active());
}

TEST_F(RejoinTest, EndsWithTheText) {
  depart(38, kOther);
  EXPECT_EQ(next(), 40);
  rejoin.move(live, kOther);
  rejoin.move(live, kOther);
  EXPECT_FALSE(rejoin.active());
}

TEST_F(RejoinTest, AShortMatchIsNotKept) {
  rejoin.depart(live, live.match(count_up(4, 7)), kOther);
  EXPECT_FALSE(rejoin.active());
}

TEST_F(RejoinTest, GoingAlongWithFewIsNoDeparture) {
  const uint32_t sibling = live.add_sequence(count_up(1, 7));
  live.append(sibling, Tokens{50, 51});
  depart(6, 50);
  EXPECT_FALSE(rejoin.active());
}

// Classes of contexts are split when siblings are appended; a place that is kept must not lose its text.
TEST(LiveIndex, AKeptPlaceStillLeadsAlongItsText) {
  Random random(11);
  for (int round = 0; round < 100; ++round) {
    LiveIndex index({}, 0, 64);
    const Tokens text = random.tokens(3, 30);
    index.add_sequence(text);
    std::vector<LiveCursor> kept;
    for (size_t end = 1; end < text.size(); ++end) {
      kept.push_back(index.match(std::span(text).first(end)));
      ASSERT_EQ(kept.back().length, end);
    }
    for (int sibling = 0; sibling < 3; ++sibling) index.add_sequence(random.tokens(3, 30));
    for (size_t i = 0; i < kept.size(); ++i) {
      LiveCursor cursor = kept[i];
      for (size_t at = i + 1; at < text.size(); ++at) {
        int32_t token;
        uint32_t count;
        ASSERT_TRUE(index.best_next(cursor, token, count));
        ASSERT_TRUE(index.take(cursor, text[at]));
        ASSERT_EQ(cursor.length, at + 1);
      }
      EXPECT_FALSE(index.take(cursor, kOther));
      EXPECT_EQ(cursor.length, text.size());
    }
  }
}

// What a second response is drafted after it wrote a token that nobody wrote.
DraftBatch drafted_after_another_token(const BlendOptions& options) {
  Drafter drafter(0.05f, 1, &options);
  const auto live = std::make_shared<LiveIndex>(Tokens{1, 2}, 0, 64);
  const Tokens handles{drafter.open(live, count_up(10, 40), nullptr), drafter.open(live, {}, nullptr)};
  Tokens tokens = count_up(10, 20);
  drafter.step(handles, tokens, Tokens{0, 0, 10}, Tokens{0, 4}, -1);
  return drafter.step(handles, Tokens{kOther}, Tokens{0, 0, 1}, Tokens{0, 4}, -1);
}

TEST(BlendPolicy, RejoinsASiblingThatItDepartedFrom) {
  BlendOptions options;
  options.shared = false;
  const DraftBatch batch = drafted_after_another_token(options);
  EXPECT_EQ(batch.tokens.front(), 21);
  EXPECT_EQ(batch.sources[1], static_cast<uint8_t>(Source::kLive));  // not the shared index, which is off
  options.rejoin = false;
  EXPECT_EQ(drafted_after_another_token(options).tokens, Tokens{});
}

TEST(SharedIndex, SparseContextsSeeAroundWhatDiffers) {
  Random random(12);
  SharedIndex index;
  SharedContext context;
  const auto write = [&](int32_t token) {
    index.add(context, token);
    context.push(token);
  };
  // 5 is followed by 6 or 8, as two tokens further back say; what lies between is never the same.
  int32_t fresh = 100;
  for (int i = 0; i < 50; ++i) {
    const bool six = random.below(2) == 0;
    for (const int32_t token : {six ? 1 : 2, six ? 3 : 4, fresh++, fresh++, 5, six ? 6 : 8}) write(token);
  }
  for (const bool six : {true, false}) {
    for (const int32_t token : {six ? 1 : 2, six ? 3 : 4, fresh++, fresh++, 5}) write(token);
    const SharedIndex::Entry* entries[SharedIndex::kOrders];
    EXPECT_EQ(index.find(context, entries), 1u);
    const SharedIndex::Entry* sparse = index.find_sparse(context, 0);
    ASSERT_NE(sparse, nullptr);
    EXPECT_EQ(sparse->tokens[0], six ? 6 : 8);
    EXPECT_EQ(static_cast<float>(sparse->counts[0]), sparse->total);
    write(7);
  }
}

// Counts of 16 bits do not run over.
TEST(SharedIndex, WhatIsCountedOftenIsHalved) {
  SharedIndex index;
  SharedContext context;
  context.push(1);
  for (int i = 0; i < 100'000; ++i) index.add(context, i % 4 == 0 ? 3 : 2);
  const SharedIndex::Entry* entries[SharedIndex::kOrders];
  ASSERT_EQ(index.find(context, entries), 1u);
  EXPECT_EQ(entries[0]->tokens[0], 2);
  EXPECT_NEAR(entries[0]->counts[0] / entries[0]->total, 0.75, 0.01);
  EXPECT_NEAR(entries[0]->counts[1] / entries[0]->total, 0.25, 0.01);
}

}  // namespace
}  // namespace redraft
