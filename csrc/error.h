// The errors that the core raises; the bindings turn them into the classes of redraft/errors.py.
#pragma once

#include <stdexcept>
#include <string>

namespace redraft {

enum class ErrorCode { kInvalidArgument, kNotFound, kResourceExhausted, kDataLoss };

// The message starts with the name of the argument and says what to do.
class Error : public std::runtime_error {
 public:
  Error(ErrorCode code, const std::string& message) : std::runtime_error(message), code_(code) {}
  ErrorCode code() const { return code_; }

 private:
  ErrorCode code_;
};

[[noreturn]] inline void throw_invalid(const std::string& message) {
  throw Error(ErrorCode::kInvalidArgument, message);
}

}  // namespace redraft
