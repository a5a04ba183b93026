// What the binding files share: checked arguments in, arrays out.
#pragma once

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <cstdint>
#include <string>
#include <vector>

#include "csrc/error.h"

namespace redraft {

namespace py = pybind11;

void bind_frozen_index(py::module_& module);
void bind_live_index(py::module_& module);
void bind_drafter(py::module_& module);

// Copies a contiguous one-dimensional array of exactly this type; throws InvalidArgument with the argument's
// name. A copy, as another thread may write into the caller's array once the GIL is released.
template <typename T>
std::vector<T> copy_array(const py::object& value, const char* name, const char* type) {
  const auto refuse = [&](const std::string& got) {
    throw_invalid(std::string(name) + ": must be a contiguous 1-D " + type + " array, got " + got);
  };
  if (!py::isinstance<py::array>(value)) refuse(py::str(py::type::of(value).attr("__name__")));
  const auto array = py::reinterpret_borrow<py::array>(value);
  if (!array.dtype().is(py::dtype::of<T>()) && !array.dtype().equal(py::dtype::of<T>())) {
    refuse("dtype " + std::string(py::str(array.dtype())));
  }
  if (array.ndim() != 1) refuse(std::to_string(array.ndim()) + " dimensions");
  if (!(array.flags() & py::array::c_style)) refuse("a strided view");
  const T* data = static_cast<const T*>(array.data());
  return std::vector<T>(data, data + array.size());
}

inline std::vector<int32_t> copy_tokens(const py::object& value, const char* name) {
  return copy_array<int32_t>(value, name, "int32");
}

// Copies token ids and refuses negative ones.
inline std::vector<int32_t> copy_context(const py::object& value) {
  std::vector<int32_t> tokens = copy_tokens(value, "context");
  for (size_t i = 0; i < tokens.size(); ++i) {
    if (tokens[i] < 0) throw_invalid("context: negative id at " + std::to_string(i));
  }
  return tokens;
}

inline uint64_t check_limit(int64_t memory_limit) {
  if (memory_limit < 0) throw_invalid("memory_limit: must be >= 0 bytes, 0 for no limit");
  return static_cast<uint64_t>(memory_limit);
}

inline int64_t check_horizon(int64_t horizon) {
  if (horizon < 0) throw_invalid("horizon: must be >= 0");
  return horizon;
}

template <typename T>
py::array_t<T> to_array(const std::vector<T>& values) {
  return py::array_t<T>(static_cast<py::ssize_t>(values.size()), values.data());
}

}  // namespace redraft
