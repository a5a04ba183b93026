// Batches large enough to be shared between threads, also under ThreadSanitizer.
#include <gtest/gtest.h>

#include <atomic>
#include <memory>
#include <thread>
#include <vector>

#include "csrc/drafter.h"
#include "csrc/thread_pool.h"
#include "tests/cpp/brute_force.h"

namespace redraft {
namespace {

using testing::Random;
using Tokens = std::vector<int32_t>;

TEST(ThreadPool, DoesEachPieceOfWorkOnceWhoeverIsThere) {
  ThreadPool pool(4);
  for (int round = 0; round < 200; ++round) {
    if (round % 3 == 0) pool.wake();
    std::vector<int> done(100, 0);
    std::atomic<size_t> next{0};
    pool.run([&] {
      for (size_t piece; (piece = next++) < done.size();) ++done[piece];
    });
    if (round % 5 == 0) pool.rest();
    ASSERT_EQ(done, std::vector<int>(100, 1));
  }
}

TEST(ThreadPool, RethrowsAndGoesOn) {
  ThreadPool pool(3);
  for (int round = 0; round < 50; ++round) {
    std::atomic<size_t> next{0};
    const auto work = [&] {
      while (next++ < 10) {
        if (next > 5) throw std::bad_alloc();
      }
    };
    ASSERT_THROW(pool.run(work), std::bad_alloc);
  }
  std::atomic<int> calls{0};
  pool.run([&] { ++calls; });
  EXPECT_GE(calls, 1);
}

// Many requests of a few groups, in turn or group by group, which draft and learn from step to step.
class Replay {
 public:
  static constexpr size_t kGroups = 5;
  static constexpr size_t kRequests = 150;

  Replay(int threads, const BlendOptions* policy, bool in_turn, uint64_t memory_limit)
      : drafter_(0.1f, threads, policy) {
    Random random(17);
    std::vector<std::shared_ptr<LiveIndex>> lives;
    std::vector<std::shared_ptr<const FrozenIndex>> histories;
    std::vector<Tokens> themes;
    for (size_t group = 0; group < kGroups; ++group) {
      themes.push_back(random.tokens(9, 120));
      histories.push_back(
          std::make_shared<FrozenIndex>(testing::freeze({vary(random, themes[group]), themes[group]})));
      lives.push_back(std::make_shared<LiveIndex>(Tokens{1, 2}, memory_limit, 8));
    }
    for (size_t i = 0; i < kRequests; ++i) {
      const size_t group = in_turn ? i % kGroups : i * kGroups / kRequests;
      requests_.push_back(drafter_.open(lives[group], {}, i % 7 == 0 ? nullptr : histories[group]));
      texts_.push_back(vary(random, themes[group]));
    }
    at_.assign(kRequests, 0);
    drafts_.offsets.assign(kRequests + 1, 0);
    lives_ = lives;
  }
  DraftBatch step() {
    Tokens tokens;
    Tokens offsets{0};
    for (size_t i = 0; i < kRequests; ++i) {
      int32_t drafted = drafts_.offsets[i];
      while (at_[i] < texts_[i].size()) {
        tokens.push_back(texts_[i][at_[i]++]);
        if (drafted == drafts_.offsets[i + 1] || drafts_.tokens[drafted++] != tokens.back()) break;
      }
      offsets.push_back(static_cast<int32_t>(tokens.size()));
    }
    return drafts_ = drafter_.step(requests_, tokens, offsets, Tokens(kRequests, 12), 400);
  }
  Drafter& drafter() { return drafter_; }
  LiveIndex& live(size_t group) { return *lives_[group]; }

 private:
  static Tokens vary(Random& random, Tokens text) {
    for (int32_t& token : text) {
      if (random.below(8) == 0) token = static_cast<int32_t>(random.below(9));
    }
    return text;
  }

  Drafter drafter_;
  std::vector<std::shared_ptr<LiveIndex>> lives_;
  Tokens requests_;
  std::vector<Tokens> texts_;
  std::vector<size_t> at_;
  DraftBatch drafts_;
};

void compare(const BlendOptions* policy, bool in_turn, uint64_t memory_limit) {
  Replay one(1, policy, in_turn, memory_limit);
  Replay three(3, policy, in_turn, memory_limit);
  for (int step = 0; step < 40; ++step) {
    const DraftBatch a = one.step();
    const DraftBatch b = three.step();
    ASSERT_EQ(a.tokens, b.tokens);
    ASSERT_EQ(a.offsets, b.offsets);
    ASSERT_EQ(a.probabilities, b.probabilities);
    ASSERT_EQ(a.sources, b.sources);
    ASSERT_EQ(a.match_lengths, b.match_lengths);
  }
  EXPECT_EQ(one.drafter().calibration(), three.drafter().calibration());
  const DraftStats a = one.drafter().stats();
  const DraftStats b = three.drafter().stats();
  EXPECT_EQ(a.accepted, b.accepted);
  EXPECT_EQ(a.emitted, b.emitted);
  EXPECT_EQ(a.live_dropped, b.live_dropped);
  EXPECT_EQ(a.live_dropped > 0, memory_limit > 0);
}

TEST(SharedBatch, ThreadsDoNotChangeWhatIsDraftedAndLearned) {
  const BlendOptions policy;
  for (const bool in_turn : {false, true}) {
    compare(nullptr, in_turn, 0);
    compare(&policy, in_turn, 0);
  }
}

TEST(SharedBatch, ThreadsDoNotChangeWhoLosesItsGroup) { compare(nullptr, true, 100'000); }

// What siblings write elsewhere comes in on a thread of its own, and others look on.
TEST(SharedBatch, GoesOnWhileOthersAppendAndRead) {
  const BlendOptions policy;
  Replay replay(3, &policy, true, 0);
  std::atomic<bool> running{true};
  std::thread relay([&] {
    Random random(23);
    const auto of = [&](size_t group) {
      const auto guard = replay.live(group).guard();
      return replay.live(group).add_sequence({});
    };
    std::vector<uint32_t> sequences;
    for (size_t group = 0; group < Replay::kGroups; ++group) sequences.push_back(of(group));
    while (running) {
      for (size_t group = 0; group < Replay::kGroups; ++group) {
        const auto guard = replay.live(group).guard();
        replay.live(group).append(sequences[group], random.tokens(9, 3));
      }
      replay.drafter().stats();
    }
  });
  size_t drafted = 0;
  for (int step = 0; step < 40; ++step) drafted += replay.step().tokens.size();
  running = false;
  relay.join();
  EXPECT_GT(drafted, 0u);
}

}  // namespace
}  // namespace redraft
