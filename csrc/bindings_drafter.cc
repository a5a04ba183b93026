#include <pybind11/stl.h>

#include <algorithm>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "csrc/bindings.h"
#include "csrc/drafter.h"
#include "csrc/sources.h"

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
                  const py::object& offsets, const py::object& horizons, int64_t budget,
                  const py::object& costs) {
  const std::vector<int32_t> handles = copy_tokens(requests, "requests");
  const std::vector<int32_t> tokens = copy_tokens(new_token_ids, "new_token_ids");
  const std::vector<int32_t> bounds = copy_tokens(offsets, "offsets");
  const std::vector<int32_t> limits = copy_tokens(horizons, "horizons");
  std::vector<int32_t> counts;
  std::vector<float> seconds;
  if (!costs.is_none()) {
    if (!py::isinstance<py::tuple>(costs) || py::len(costs) != 2) {
      throw_invalid("costs: must be a tuple of draft tokens, int32, and seconds, float32");
    }
    counts = copy_tokens(py::reinterpret_borrow<py::tuple>(costs)[0], "costs");
    seconds = copy_array<float>(py::reinterpret_borrow<py::tuple>(costs)[1], "costs", "float32");
    if (counts.empty()) throw_invalid("costs: draft tokens must start with 0");
  }
  DraftBatch batch;
  {
    const py::gil_scoped_release release;
    batch = drafter.step(handles, tokens, bounds, limits, budget, {counts, seconds});
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

std::unique_ptr<Drafter> make_drafter(float min_survival, int num_threads, const std::string& policy,
                                      const std::vector<std::string>& without) {
  static constexpr std::pair<std::string_view, bool BlendOptions::*> kIngredients[] = {
      {"shared", &BlendOptions::shared},          {"mixing", &BlendOptions::mixing},
      {"calibration", &BlendOptions::calibrated}, {"blending", &BlendOptions::blending},
      {"sparse", &BlendOptions::sparse},          {"rejoin", &BlendOptions::rejoin}};
  BlendOptions options;
  for (const std::string& ingredient : without) {
    const auto known = std::find_if(std::begin(kIngredients), std::end(kIngredients),
                                    [&](const auto& named) { return named.first == ingredient; });
    if (known == std::end(kIngredients)) {
      throw_invalid("without: must hold shared, mixing, calibration, blending, sparse or rejoin, got " +
                    ingredient);
    }
    options.*known->second = false;
  }
  if (policy != "blend" && policy != "longest")
    throw_invalid("policy: must be blend or longest, got " + policy);
  return std::make_unique<Drafter>(min_survival, num_threads, policy == "blend" ? &options : nullptr);
}

void check_ragged(const std::vector<int32_t>& tokens, const std::vector<int64_t>& offsets) {
  bool sound =
      !offsets.empty() && offsets.front() == 0 && offsets.back() == static_cast<int64_t>(tokens.size());
  for (size_t i = 0; i + 1 < offsets.size(); ++i) sound = sound && offsets[i] <= offsets[i + 1];
  if (!sound) throw_invalid("offsets: must rise from 0 to the number of token_ids");
}

py::array_t<double> time_drafts_of(const FrozenIndex& history, const py::object& token_ids,
                                   const py::object& offsets, int64_t horizon) {
  const std::vector<int32_t> tokens = copy_tokens(token_ids, "token_ids");
  const std::vector<int64_t> bounds = copy_array<int64_t>(offsets, "offsets", "int64");
  check_ragged(tokens, bounds);
  if (check_horizon(horizon) == 0) throw_invalid("horizon: must be > 0");
  std::vector<double> seconds;
  {
    const py::gil_scoped_release release;
    const uint32_t most = static_cast<uint32_t>(std::min<int64_t>(horizon, 1 << 20));
    seconds = time_drafts(history, tokens, bounds, {most, 0.0f});
  }
  return to_array(seconds);
}

}  // namespace

void bind_drafter(py::module_& module) {
  module.def("time_drafts", &time_drafts_of, py::arg("history"), py::arg("token_ids"), py::arg("offsets"),
             py::kw_only(), py::arg("horizon"));

  using release = py::call_guard<py::gil_scoped_release>;
  module.attr("SOURCE_NONE") = static_cast<int>(Source::kNone);
  module.attr("SOURCE_HISTORY") = static_cast<int>(Source::kHistory);
  module.attr("SOURCE_LIVE") = static_cast<int>(Source::kLive);
  module.attr("SOURCE_SHARED") = static_cast<int>(Source::kShared);

  py::class_<PyDraftBatch>(module, "DraftBatch", py::is_final())
      .def_readonly("token_ids", &PyDraftBatch::token_ids)
      .def_readonly("offsets", &PyDraftBatch::offsets)
      .def_readonly("probabilities", &PyDraftBatch::probabilities)
      .def_readonly("sources", &PyDraftBatch::sources)
      .def_readonly("match_lengths", &PyDraftBatch::match_lengths);

  py::class_<Drafter>(module, "Drafter", py::is_final())
      .def(py::init(&make_drafter), py::kw_only(), py::arg("min_survival") = 0.25f,
           py::arg("num_threads") = 1, py::arg("policy") = "longest", py::arg("without") = py::tuple())
      .def("set_min_survival", &Drafter::set_min_survival, py::arg("min_survival"), release())
      .def("calibration", [](const Drafter& drafter) { return to_array(drafter.calibration()); })
      .def(
          "restore",
          [](Drafter& drafter, const py::object& calibration) {
            const auto values =
                py::array_t<float, py::array::c_style | py::array::forcecast>::ensure(calibration);
            if (!values || values.ndim() != 1) {
              PyErr_Clear();
              throw_invalid("calibration: must be float32 of shape (n,), as calibration() gives it");
            }
            const std::vector<float> copy(values.data(), values.data() + values.size());
            const py::gil_scoped_release unlocked;
            drafter.restore(copy);
          },
          py::arg("calibration"))
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
           py::arg("horizons"), py::kw_only(), py::arg("budget") = -1, py::arg("costs") = py::none())
      .def("stats", &stats)
      .def_property_readonly("num_requests", py::cpp_function(&Drafter::num_requests, release()))
      .def_property_readonly("nbytes", py::cpp_function(&Drafter::nbytes, release()));
}

}  // namespace redraft
