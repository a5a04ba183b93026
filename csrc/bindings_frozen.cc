#include <utility>

#include "csrc/bindings.h"
#include "csrc/frozen_builder.h"
#include "csrc/frozen_index.h"

namespace redraft {
namespace {

using Frozen = std::shared_ptr<FrozenIndex>;

Frozen build(const py::object& token_ids, const py::object& offsets, const py::object& weights,
             int64_t memory_limit) {
  const std::vector<int32_t> tokens = copy_tokens(token_ids, "token_ids");
  const std::vector<int64_t> bounds = copy_array<int64_t>(offsets, "offsets", "int64");
  std::vector<float> by_response;
  if (!weights.is_none()) {
    by_response = copy_array<float>(weights, "weights", "float32");
    if (by_response.empty()) throw_invalid("weights: must hold one weight for each response, or be None");
  }
  const uint64_t limit = check_limit(memory_limit);
  const py::gil_scoped_release release;
  return std::make_shared<FrozenIndex>(build_frozen(tokens, bounds, by_response, limit));
}

Frozen from_buffer(const py::object& buffer, bool verify) {
  if (!PyObject_CheckBuffer(buffer.ptr())) {
    throw_invalid("buffer: must be bytes, a memoryview, an mmap or another buffer, got " +
                  std::string(py::str(py::type::of(buffer).attr("__name__"))));
  }
  auto* view = new Py_buffer;
  if (PyObject_GetBuffer(buffer.ptr(), view, PyBUF_SIMPLE) != 0) {
    delete view;
    PyErr_Clear();
    throw_invalid("buffer: must be contiguous");
  }
  std::shared_ptr<const void> owner(view->buf, [view](const void*) {
    const py::gil_scoped_acquire acquire;
    PyBuffer_Release(view);
    delete view;
  });
  // The owner may be dropped by an error, which needs the GIL, so it outlives the release.
  const py::gil_scoped_release release;
  return std::make_shared<FrozenIndex>(view->buf, static_cast<uint64_t>(view->len), owner, verify);
}

FrozenCursor match(const FrozenIndex& index, const std::vector<int32_t>& context, bool from_start) {
  FrozenCursor cursor;
  if (from_start) cursor = index.start();
  index.advance(cursor, context);
  return cursor;
}

// Occurrences of the whole context.
FrozenIndex::Occurrences occurrences(const FrozenIndex& index, const py::object& context, bool from_start) {
  const std::vector<int32_t> tokens = copy_context(context);
  const py::gil_scoped_release release;
  const FrozenCursor cursor = match(index, tokens, from_start);
  if (cursor.length != tokens.size() + (from_start ? 1 : 0)) return {0, 0};
  return index.occurrences(cursor);
}

py::tuple continuation(const FrozenIndex& index, const py::object& context, int64_t horizon,
                       bool from_start) {
  const std::vector<int32_t> tokens = copy_context(context);
  check_horizon(horizon);
  std::vector<int32_t> ids;
  std::vector<float> ratios;
  {
    const py::gil_scoped_release release;
    const FrozenCursor cursor = match(index, tokens, from_start);
    if (horizon > 0) {
      index.walk(cursor, [&](uint32_t, int32_t token, float ratio, uint32_t) {
        ids.push_back(token);
        ratios.push_back(ratio);
        return static_cast<int64_t>(ids.size()) < horizon;
      });
    }
  }
  return py::make_tuple(to_array(ids), to_array(ratios));
}

}  // namespace

void bind_frozen_index(py::module_& module) {
  py::class_<FrozenIndex, Frozen>(module, "FrozenIndex", py::is_final())
      .def_static("build", &build, py::arg("token_ids"), py::arg("offsets"), py::arg("weights") = py::none(),
                  py::kw_only(), py::arg("memory_limit") = 0)
      .def_static("from_buffer", &from_buffer, py::arg("buffer"), py::kw_only(), py::arg("verify") = true)
      .def("to_bytes",
           [](const FrozenIndex& index) { return py::bytes(index.bytes().data(), index.bytes().size()); })
      .def(
          "match_length",
          [](const FrozenIndex& index, const py::object& context, bool from_start) {
            const std::vector<int32_t> tokens = copy_context(context);
            const py::gil_scoped_release release;
            return match(index, tokens, from_start).length;
          },
          py::arg("context"), py::kw_only(), py::arg("from_start") = false)
      .def(
          "count",
          [](const FrozenIndex& index, const py::object& context, bool from_start) {
            return occurrences(index, context, from_start).count;
          },
          py::arg("context"), py::kw_only(), py::arg("from_start") = false)
      .def(
          "weight",
          [](const FrozenIndex& index, const py::object& context, bool from_start) {
            return occurrences(index, context, from_start).weight;
          },
          py::arg("context"), py::kw_only(), py::arg("from_start") = false)
      .def("continuation", &continuation, py::arg("context"), py::kw_only(), py::arg("horizon"),
           py::arg("from_start") = false)
      .def_property_readonly("num_tokens", &FrozenIndex::num_tokens)
      .def_property_readonly("num_responses", &FrozenIndex::num_responses)
      .def_property_readonly("nbytes", &FrozenIndex::nbytes);
}

}  // namespace redraft
