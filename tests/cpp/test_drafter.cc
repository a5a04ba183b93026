#include <gtest/gtest.h>

#include <atomic>
#include <thread>

#include "csrc/drafter.h"
#include "tests/cpp/brute_force.h"

namespace redraft {
namespace {

using testing::Random;
using testing::Tokens;

std::shared_ptr<FrozenIndex> history_of(const std::vector<Tokens>& responses) {
  return std::make_shared<FrozenIndex>(testing::freeze(responses));
}

TEST(Drafter, DraftsASiblingsTextInTheSameStep) {
  Drafter drafter(0.0f, 1);
  const auto live = std::make_shared<LiveIndex>(Tokens{1, 2}, 0, 64);
  const Tokens requests{drafter.open(live, {}, nullptr), drafter.open(live, {}, nullptr)};
  const DraftBatch batch = drafter.step(requests, Tokens{5, 6, 7, 5}, Tokens{0, 3, 4}, Tokens{4, 4}, -1);
  const Tokens second(batch.tokens.begin() + batch.offsets[1], batch.tokens.end());
  EXPECT_EQ(second, (Tokens{6, 7}));
}

TEST(Drafter, TheBudgetKeepsTheLikeliestTokens) {
  Drafter drafter(0.0f, 1);
  const auto sure = history_of({{1, 2, 3, 4}, {1, 2, 3, 4}, {1, 2, 3, 4}});
  const auto unsure = history_of({{1, 2, 3}, {1, 3, 3}, {1, 4, 3}});
  const auto prompt = [] { return std::make_shared<LiveIndex>(Tokens{}, 0, 64); };
  const Tokens requests{drafter.open(prompt(), Tokens{1}, unsure), drafter.open(prompt(), Tokens{1}, sure)};
  const DraftBatch batch = drafter.step(requests, {}, Tokens{0, 0, 0}, Tokens{3, 3}, 3);
  EXPECT_EQ(batch.offsets, (std::vector<int32_t>{0, 0, 3}));
  EXPECT_EQ(batch.tokens, (Tokens{2, 3, 4}));
}

// Run under ThreadSanitizer: writers and readers of everything that may be shared.
void stress(const BlendOptions* policy) {
  Random random(7);
  const auto history = history_of({random.tokens(5, 300), random.tokens(5, 300)});
  const auto live = std::make_shared<LiveIndex>(Tokens{1, 2, 3}, 0, 64);
  Drafter drafter(0.1f, 2, policy);
  std::atomic<int> running{3};
  const auto write = [&](uint64_t seed) {
    Random own(seed);
    for (int round = 0; round < 30; ++round) {
      const int32_t request = drafter.open(live, {}, round % 2 ? history : nullptr);
      for (int step = 0; step < 20; ++step) {
        const Tokens tokens = own.tokens(5, 3);
        const Tokens offsets{0, static_cast<int32_t>(tokens.size())};
        drafter.step(Tokens{request}, tokens, offsets, Tokens{8}, -1);
        if (step == 10) drafter.set_history(request, history);
      }
      drafter.close(request);
    }
    --running;
  };
  const auto read = [&](uint64_t seed) {
    Random own(seed);
    while (running > 0) {
      const Tokens context = own.tokens(5, 10);
      {
        const auto guard = live->guard();
        const LiveCursor cursor = live->match(context);
        EXPECT_LE(cursor.length, context.size());
        EXPECT_GT(live->nbytes(), 0u);
      }
      FrozenCursor cursor;
      history->advance(cursor, context);
      EXPECT_GE(history->occurrences(cursor).count, 1u);
      EXPECT_GE(drafter.stats().steps, 0);
      EXPECT_GE(drafter.num_requests(), 0);
    }
  };
  // Siblings that are generated elsewhere come in on a thread of their own.
  const auto relay = [&](uint64_t seed) {
    Random own(seed);
    for (int round = 0; round < 100 && running > 0; ++round) {
      uint32_t sequence;
      {
        const auto guard = live->guard();
        sequence = live->add_sequence({});
      }
      for (int piece = 0; piece < 5; ++piece) {
        const auto guard = live->guard();
        live->append(sequence, own.tokens(5, 20));
      }
      const auto guard = live->guard();
      live->end_sequence(sequence);
    }
  };
  std::vector<std::thread> threads;
  for (uint64_t seed = 1; seed <= 3; ++seed) threads.emplace_back(write, seed);
  threads.emplace_back(relay, 21);
  for (uint64_t seed = 11; seed <= 12; ++seed) threads.emplace_back(read, seed);
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(drafter.num_requests(), 0);
  EXPECT_EQ(drafter.stats().steps, 3 * 30 * 20);
}

TEST(Drafter, SurvivesReadersAndWritersOnAllThreads) { stress(nullptr); }

TEST(Drafter, SurvivesThemWithTheBlendingPolicyToo) {
  const BlendOptions policy;
  stress(&policy);
}

}  // namespace
}  // namespace redraft
