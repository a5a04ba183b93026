// A guard that moves from live index to live index.
#pragma once

#include <mutex>

#include "csrc/live_index.h"

namespace redraft {

// Holds the guard of one live index at a time; siblings stand side by side in most batches.
class Held {
 public:
  void hold(const LiveIndex& live) {
    if (&live == live_) return;
    guard_ = {};
    guard_ = live.guard();
    live_ = &live;
  }

 private:
  const LiveIndex* live_ = nullptr;
  std::unique_lock<std::mutex> guard_;
};

}  // namespace redraft
