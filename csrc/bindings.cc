// The Python module: the only files that see pybind11. What each name means is said in redraft/_core.pyi.
#include "csrc/bindings.h"

#include "csrc/error.h"

namespace redraft {
namespace {

const char* class_of(ErrorCode code) {
  switch (code) {
    case ErrorCode::kInvalidArgument:
      return "InvalidArgument";
    case ErrorCode::kNotFound:
      return "NotFound";
    case ErrorCode::kResourceExhausted:
      return "ResourceExhausted";
    case ErrorCode::kDataLoss:
      return "DataLoss";
  }
  return "RedraftError";
}

void raise(const char* name, const char* message) {
  const py::object type = py::module_::import("redraft.errors").attr(name);
  py::set_error(type, message);
}

}  // namespace

PYBIND11_MODULE(_core, module) {
  py::register_exception_translator([](std::exception_ptr thrown) {
    try {
      std::rethrow_exception(thrown);
    } catch (const Error& error) {
      raise(class_of(error.code()), error.what());
    } catch (const std::bad_alloc&) {
      raise("ResourceExhausted", "memory: the system has none left; index fewer tokens");
    }
  });
  bind_frozen_index(module);
  bind_live_index(module);
  bind_drafter(module);
}

}  // namespace redraft
