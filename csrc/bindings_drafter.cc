#include <memory>
#include <utility>

#include "csrc/bindings.h"
#include "csrc/drafter.h"

namespace redraft {
namespace {

struct PyDraftBatch {
  py::array_t<int32_t> token_ids;
  py::array_t<int32_t> offsets;
  py::array_t<float> probabilities;
  py::array_t<uint8_t> sources;
  py::array_t<int32_t> match_lengths;
};

PyDraftBatch step(Drafter& drafter, const py::object& requests, const py::object& new_token_ids,
                  const py::object& offsets, const py::object& horizons, int64_t budget) {
  const std::vector<int32_t> handles = copy_tokens(requests, "requests");
  const std::vector<int32_t> tokens = copy_tokens(new_token_ids, "new_token_ids");
  const std::vector<int32_t> bounds = copy_tokens(offsets, "offsets");
  const std::vector<int32_t> limits = copy_tokens(horizons, "horizons");
  DraftBatch batch;
  {
    const py::gil_scoped_release release;
    batch = drafter.step(handles, tokens, bounds, limits, budget);
  }
  return {to_array(batch.tokens), to_array(batch.offsets), to_array(batch.probabilities),
          to_array(batch.sources), to_array(batch.match_lengths)};
}

py::dict stats(const Drafter& drafter) {
  DraftStats stats;
  {
    const py::gil_scoped_release release;
    stats = drafter.stats();
  }
  const auto table = [&](const std::vector<int64_t>& counts) {
    py::array_t<int64_t> array(
        {static_cast<py::ssize_t>(kNumSources), static_cast<py::ssize_t>(stats.positions)});
    std::copy(counts.begin(), counts.end(), array.mutable_data());
    return array;
  };
  const auto single = [](int64_t value) { return to_array(std::vector<int64_t>{value}); };
  py::dict result;
  result["drafted"] = table(stats.drafted);
  result["accepted"] = table(stats.accepted);
  result["steps"] = single(stats.steps);
  result["emitted"] = single(stats.emitted);
  result["live_dropped"] = single(stats.live_dropped);
  return result;
}

}  // namespace

void bind_drafter(py::module_& module) {
  module.attr("SOURCE_NONE") = static_cast<int>(Source::kNone);
  module.attr("SOURCE_HISTORY") = static_cast<int>(Source::kHistory);
  module.attr("SOURCE_LIVE") = static_cast<int>(Source::kLive);

  py::class_<PyDraftBatch>(module, "DraftBatch", py::is_final())
      .def_readonly("token_ids", &PyDraftBatch::token_ids)
      .def_readonly("offsets", &PyDraftBatch::offsets)
      .def_readonly("probabilities", &PyDraftBatch::probabilities)
      .def_readonly("sources", &PyDraftBatch::sources)
      .def_readonly("match_lengths", &PyDraftBatch::match_lengths);

  using release = py::call_guard<py::gil_scoped_release>;
  py::class_<Drafter>(module, "Drafter", py::is_final())
      .def(py::init([](float min_survival, int num_threads) {
             return std::make_unique<Drafter>(min_survival, num_threads);
           }),
           py::kw_only(), py::arg("min_survival") = 0.25f, py::arg("num_threads") = 1)
      .def(
          "open",
          [](Drafter& drafter, const std::shared_ptr<LiveIndex>& live, const py::object& response_token_ids,
             const std::shared_ptr<FrozenIndex>& history) {
            if (!live) throw_invalid("live: must be a LiveIndex, got None");
            std::vector<int32_t> tokens;
            if (!response_token_ids.is_none()) tokens = copy_tokens(response_token_ids, "response_token_ids");
            const py::gil_scoped_release release;
            return drafter.open(live, tokens, history);
          },
          py::arg("live"), py::arg("response_token_ids") = py::none(), py::kw_only(),
          py::arg("history") = py::none())
      .def(
          "set_history",
          [](Drafter& drafter, int32_t request, const std::shared_ptr<FrozenIndex>& history) {
            const py::gil_scoped_release release;
            drafter.set_history(request, history);
          },
          py::arg("request"), py::arg("history").none(true))
      .def(
          "close",
          [](Drafter& drafter, int32_t request) {
            const py::gil_scoped_release release;
            drafter.close(request);
          },
          py::arg("request"))
      .def(
          "length",
          [](const Drafter& drafter, int32_t request) {
            const py::gil_scoped_release release;
            return drafter.length(request);
          },
          py::arg("request"))
      .def("step", &step, py::arg("requests"), py::arg("new_token_ids"), py::arg("offsets"),
           py::arg("horizons"), py::kw_only(), py::arg("budget") = -1)
      .def("stats", &stats)
      .def_property_readonly("num_requests", py::cpp_function(&Drafter::num_requests, release()))
      .def_property_readonly("nbytes", py::cpp_function(&Drafter::nbytes, release()));
}

}  // namespace redraft
