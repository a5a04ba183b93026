// Guards of live indexes, held while a batch is worked on.
#pragma once

#include <algorithm>
#include <mutex>
#include <vector>

#include "csrc/live_index.h"

namespace redraft {

// Holds the guard of one live index at a time; siblings stand side by side in most batches.
class Held {
 public:
  Held() = default;
  // Of one that another holds all that is asked for, all the time.
  static Held by_another() {
    Held held;
    held.by_another_ = true;
    return held;
  }
  void hold(const LiveIndex& live) {
    if (&live == live_ || by_another_) return;
    guard_ = {};
    guard_ = live.guard();
    live_ = &live;
  }

 private:
  bool by_another_ = false;
  const LiveIndex* live_ = nullptr;
  std::unique_lock<std::mutex> guard_;
};

// Holds the guards of many at once.
class AllHeld {
 public:
  // lives: in any order, named any number of times. Whoever holds many takes them in the order of their
  // addresses, so that nobody waits for somebody who waits.
  explicit AllHeld(std::vector<const LiveIndex*> lives) {
    std::sort(lives.begin(), lives.end(), std::less<>());
    lives.erase(std::unique(lives.begin(), lives.end()), lives.end());
    guards_.reserve(lives.size());
    for (const LiveIndex* live : lives) guards_.push_back(live->guard());
  }

 private:
  std::vector<std::unique_lock<std::mutex>> guards_;
};

}  // namespace redraft
