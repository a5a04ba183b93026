// Replays recorded groups through Drafter::step, without Python: for callgrind and for profilers.
//
//   redraft_step TRACE STEPS [longest|blend]
//
// TRACE: little-endian int32 numbers, written by `redraft bench index --callgrind`: the number of groups,
// then for each group its prompt, its history and its live responses; a token list is its length and its
// tokens, a list of responses is their number and each one's token list. Prints one JSON object.

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <memory>
#include <vector>

#include "csrc/drafter.h"
#include "csrc/frozen_builder.h"

namespace {

using Tokens = std::vector<int32_t>;

class Trace {
 public:
  explicit Trace(const char* path) : file_(path, std::ios::binary) {}
  int32_t number() {
    int32_t value = 0;
    if (!file_.read(reinterpret_cast<char*>(&value), sizeof(value))) {
      std::fprintf(stderr, "TRACE: cannot be read or is too short\n");
      std::exit(1);
    }
    return value;
  }
  Tokens tokens() {
    Tokens list(number());
    for (int32_t& token : list) token = number();
    return list;
  }
  std::vector<Tokens> responses() {
    std::vector<Tokens> list(number());
    for (Tokens& response : list) response = tokens();
    return list;
  }

 private:
  std::ifstream file_;
};

// Siblings, which share a live index.
struct Group {
  Tokens prompt;
  std::shared_ptr<const redraft::FrozenIndex> history;
  std::vector<std::shared_ptr<redraft::LiveIndex>> lives;  // by how often its requests have started over

  const std::shared_ptr<redraft::LiveIndex>& live(size_t round) {
    while (lives.size() <= round) lives.push_back(std::make_shared<redraft::LiveIndex>(prompt, 0, 8));
    return lives[round];
  }
};

struct Running {
  Tokens text;
  size_t group;
  size_t at = 0;
  size_t round = 0;
};

// What the engine would emit: the accepted part of the draft and one token more.
Tokens emit(Running& request, const int32_t* draft, int32_t drafted) {
  Tokens tokens;
  int32_t accepted = 0;
  while (request.at < request.text.size()) {
    const int32_t token = request.text[request.at++];
    tokens.push_back(token);
    if (accepted == drafted || draft[accepted++] != token) break;
  }
  return tokens;
}

}  // namespace

int main(int count, char** arguments) {
  if (count < 3 || count > 4) {
    std::fprintf(stderr, "usage: redraft_step TRACE STEPS [longest|blend]\n");
    return 2;
  }
  Trace trace(arguments[1]);
  const int steps = std::atoi(arguments[2]);
  const redraft::BlendOptions blend;
  const bool blending = count == 4 && std::strcmp(arguments[3], "blend") == 0;
  redraft::Drafter drafter(0.25f, 1, blending ? &blend : nullptr);
  std::vector<Group> groups;
  std::vector<Running> running;
  std::vector<int32_t> handles;
  for (int32_t left = trace.number(); left > 0; --left) {
    Group& group = groups.emplace_back();
    group.prompt = trace.tokens();
    Tokens flat;
    std::vector<int64_t> bounds{0};
    for (const Tokens& response : trace.responses()) {
      flat.insert(flat.end(), response.begin(), response.end());
      bounds.push_back(static_cast<int64_t>(flat.size()));
    }
    group.history = std::make_shared<redraft::FrozenIndex>(redraft::build_frozen(flat, bounds, {}, 0));
    for (const Tokens& response : trace.responses()) {
      running.push_back({response, groups.size() - 1});
      handles.push_back(drafter.open(group.live(0), {}, group.history));
    }
  }
  const std::vector<int32_t> horizons(handles.size(), 16);
  redraft::DraftBatch batch;
  batch.offsets.assign(handles.size() + 1, 0);
  std::vector<double> seconds;
  for (int step = 0; step < steps; ++step) {
    Tokens tokens;
    std::vector<int32_t> offsets{0};
    for (size_t row = 0; row < running.size(); ++row) {
      const int32_t from = batch.offsets[row];
      int32_t drafted = batch.offsets[row + 1] - from;
      Running& request = running[row];
      if (request.at == request.text.size()) {  // it has ended: one of another group takes its place
        Group& group = groups[request.group];
        drafter.close(handles[row]);
        handles[row] = drafter.open(group.live(++request.round), {}, group.history);
        request.at = 0;
        drafted = 0;
      }
      const Tokens emitted = emit(request, batch.tokens.data() + from, drafted);
      tokens.insert(tokens.end(), emitted.begin(), emitted.end());
      offsets.push_back(static_cast<int32_t>(tokens.size()));
    }
    const auto start = std::chrono::steady_clock::now();
    batch = drafter.step(handles, tokens, offsets, horizons, -1);
    seconds.push_back(std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count());
  }
  std::sort(seconds.begin(), seconds.end());
  const redraft::DraftStats stats = drafter.stats();
  std::printf(
      "{\"requests\": %zu, \"steps\": %d, \"step_ms_p50\": %.4f, \"step_ms_min\": %.4f, \"tokens_per_step\": "
      "%.3f}\n",
      handles.size(), steps, seconds[seconds.size() / 2] * 1e3, seconds[0] * 1e3,
      static_cast<double>(stats.emitted) / static_cast<double>(std::max<int64_t>(stats.steps, 1)));
  return 0;
}
