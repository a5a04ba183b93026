#include "csrc/rejoin.h"

namespace redraft {

// True when `token` is the next of the text, or comes after one that the response left out; then the place is
// after it.
bool Rejoin::skip(const LiveIndex& live, int32_t token) {
  LiveCursor ahead = at_;
  for (uint32_t i = 1; !live.take(ahead, token); ++i) {
    if (i == kSkips || !live.take_best(ahead)) return false;
  }
  at_ = ahead;
  return true;
}

// `token` stands in place of the text's next one, or after some that the response left out.
void Rejoin::differ(const LiveIndex& live, int32_t token) {
  if (!live.take_best(at_)) return drop();
  agreed_ = skip(live, token) ? 1 : 0;
}

void Rejoin::depart(const LiveIndex& live, const LiveCursor& match, int32_t token) {
  if (match.length < kLeast) return;
  LiveCursor other = match;
  if (live.take(other, token)) return;  // some text went on like that: the longest match goes with it
  at_ = departed_ = match;
  differed_ = 1;
  differ(live, token);
}

void Rejoin::move(const LiveIndex& live, int32_t token) {
  if (live.take(at_, token)) {
    if (++agreed_ == kForgets) drop();
    return;
  }
  if (agreed_ == 0 && live.take(departed_, token)) {  // the response had a token more
    at_ = departed_;
    agreed_ = 1;
    return;
  }
  if (++differed_ > kPatience) return drop();
  if (agreed_ > 0) departed_ = at_;
  differ(live, token);
}

}  // namespace redraft
