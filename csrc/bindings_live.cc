#include <algorithm>
#include <memory>

#include "csrc/bindings.h"
#include "csrc/live_index.h"
#include "csrc/suffix_rule.h"

namespace redraft {
namespace {

uint32_t sequence_of(int64_t sequence) {
  if (sequence < 0 || sequence >= LiveIndex::kNone) {
    throw Error(ErrorCode::kNotFound, "sequence: " + std::to_string(sequence) + " is unknown");
  }
  return static_cast<uint32_t>(sequence);
}

std::shared_ptr<LiveIndex> make(const py::object& prompt, int64_t memory_limit, int64_t count_depth) {
  const std::vector<int32_t> tokens = copy_tokens(prompt, "prompt_token_ids");
  const uint64_t limit = check_limit(memory_limit);
  if (count_depth <= 0 || count_depth >= LiveIndex::kNone) throw_invalid("count_depth: must be > 0");
  const py::gil_scoped_release release;
  return std::make_shared<LiveIndex>(tokens, limit, static_cast<uint32_t>(count_depth));
}

uint32_t add_sequence(LiveIndex& index, const py::object& token_ids) {
  std::vector<int32_t> tokens;
  if (!token_ids.is_none()) tokens = copy_tokens(token_ids, "token_ids");
  const py::gil_scoped_release release;
  const auto guard = index.guard();
  return index.add_sequence(tokens);
}

py::tuple continuation(const LiveIndex& index, const py::object& context, int64_t horizon) {
  const std::vector<int32_t> tokens = copy_context(context);
  check_horizon(horizon);
  std::vector<int32_t> ids;
  std::vector<float> ratios;
  {
    const py::gil_scoped_release release;
    const auto guard = index.guard();
    LiveCursor cursor = index.match(tokens);
    index.shorten_to_continuation(cursor);
    if (horizon > 0) {
      index.walk(cursor, [&](const LiveIndex::Step& step) {
        ids.push_back(step.token);
        ratios.push_back(static_cast<float>(static_cast<double>(step.count) / step.total));
        return static_cast<int64_t>(ids.size()) < horizon;
      });
    }
  }
  return py::make_tuple(to_array(ids), to_array(ratios));
}

py::tuple depth_limited(const LiveIndex& index, int64_t sequence, int64_t horizon, int64_t depth,
                        double factor, double min_probability) {
  const uint32_t handle = sequence_of(sequence);
  check_horizon(horizon);
  if (depth < 1 || depth >= LiveIndex::kNone) throw_invalid("depth: must be > 0");
  if (!(factor >= 0)) throw_invalid("factor: must be >= 0");
  if (!(min_probability >= 0)) throw_invalid("min_probability: must be >= 0");
  SuffixDraft draft;
  {
    const py::gil_scoped_release release;
    const auto guard = index.guard();
    const SuffixRule rule{static_cast<uint32_t>(depth), factor, min_probability,
                          static_cast<uint32_t>(std::min<int64_t>(horizon, depth))};
    draft = draft_by_suffix_rule(index, handle, rule);
  }
  return py::make_tuple(to_array(draft.tokens), draft.score);
}

template <typename Result>
auto locked(Result (LiveIndex::*method)() const) {
  return [method](const LiveIndex& index) {
    const py::gil_scoped_release release;
    const auto guard = index.guard();
    return (index.*method)();
  };
}

}  // namespace

void bind_live_index(py::module_& module) {
  py::class_<LiveIndex, std::shared_ptr<LiveIndex>>(module, "LiveIndex", py::is_final())
      .def(py::init(&make), py::arg("prompt_token_ids"), py::kw_only(), py::arg("memory_limit") = 0,
           py::arg("count_depth") = 8)
      .def("add_sequence", &add_sequence, py::arg("token_ids") = py::none())
      .def(
          "append",
          [](LiveIndex& index, int64_t sequence, const py::object& token_ids) {
            const std::vector<int32_t> tokens = copy_tokens(token_ids, "token_ids");
            const uint32_t handle = sequence_of(sequence);
            const py::gil_scoped_release release;
            const auto guard = index.guard();
            index.append(handle, tokens);
          },
          py::arg("sequence"), py::arg("token_ids"))
      .def(
          "end_sequence",
          [](LiveIndex& index, int64_t sequence) {
            const uint32_t handle = sequence_of(sequence);
            const py::gil_scoped_release release;
            const auto guard = index.guard();
            index.end_sequence(handle);
          },
          py::arg("sequence"))
      .def(
          "match_length",
          [](const LiveIndex& index, const py::object& context) {
            const std::vector<int32_t> tokens = copy_context(context);
            const py::gil_scoped_release release;
            const auto guard = index.guard();
            return index.match(tokens).length;
          },
          py::arg("context"))
      .def(
          "count",
          [](const LiveIndex& index, const py::object& context) {
            const std::vector<int32_t> tokens = copy_context(context);
            const py::gil_scoped_release release;
            const auto guard = index.guard();
            const LiveCursor cursor = index.match(tokens);
            return cursor.length == tokens.size() ? index.count(cursor) : 0;
          },
          py::arg("context"))
      .def("continuation", &continuation, py::arg("context"), py::kw_only(), py::arg("horizon"))
      .def("depth_limited", &depth_limited, py::arg("sequence"), py::kw_only(), py::arg("horizon"),
           py::arg("depth") = 24, py::arg("factor") = 1.0, py::arg("min_probability") = 0.1)
      .def_property_readonly("num_tokens", locked(&LiveIndex::num_tokens))
      .def_property_readonly("num_sequences", locked(&LiveIndex::num_sequences))
      .def_property_readonly("nbytes", locked(&LiveIndex::nbytes));
}

}  // namespace redraft
