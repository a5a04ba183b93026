// A text of the group that a response has departed from, and may come back to.
#pragma once

#include <cstdint>

#include "csrc/live_index.h"

namespace redraft {

// Sampled responses to one prompt often differ in a word and then go on alike. The longest match is lost at
// that word, and for some tokens a short one is all there is; what followed in the old text is still a good
// guess. So its place is kept for a while, as the match model of paq8px does when it recovers
// (github.com/hxim/paq8px), here also for words that one text has and the other has not.
//
// A plain value, for one live index, whose guard the caller holds.
class Rejoin {
 public:
  bool active() const { return at_.length > 0; }
  // The place in the old text.
  const LiveCursor& at() const { return at_; }
  // 0 to 15: the tokens that agreed since the texts last differed, and whether they had differed before. What
  // such a place is worth is learned for each.
  uint32_t kind() const { return agreed_ + (differed_ > 1 ? kForgets : 0); }
  void drop() { at_ = {}; }

  // `token` came after `match`, the longest match, which was expected to go on with another.
  void depart(const LiveIndex& live, const LiveCursor& match, int32_t token);
  // `token` came; active.
  void move(const LiveIndex& live, int32_t token);

 private:
  static constexpr uint32_t kLeast = 4;     // tokens matched, for a place that is worth keeping
  static constexpr uint32_t kForgets = 8;   // agreeing tokens: the longest match is as good again
  static constexpr uint32_t kPatience = 4;  // tokens that differ, after which the text is given up
  static constexpr uint32_t kSkips = 2;     // tokens that the response may leave out at once

  void differ(const LiveIndex& live, int32_t token);
  bool skip(const LiveIndex& live, int32_t token);

  LiveCursor at_;
  LiveCursor departed_;  // where the texts last differed
  uint32_t agreed_ = 0;
  uint32_t differed_ = 0;
};

}  // namespace redraft
