// Typed errors. Graft never aborts, prints or exits: every refusal is one of these, and its message says what was given and
// what was wanted. The class names are Python's, because PEFT and PyTorch users know them.
#pragma once

#include <fmt/format.h>

#include <stdexcept>
#include <string>

namespace graft {

class Error : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

/// A value, shape, configuration or request that cannot be served.
class ValueError : public Error {
 public:
  using Error::Error;
};
/// A value of the wrong kind, such as an integer tensor where a floating one is needed.
class TypeError : public Error {
 public:
  using Error::Error;
};
/// A request that is meaningful but that this layer, format or device does not offer.
class NotImplementedError : public Error {
 public:
  using Error::Error;
};
/// A member that this kind of layer does not have (PEFT raises it for merge() on EETQ).
class AttributeError : public Error {
 public:
  using Error::Error;
};
/// A checkpoint written by a packer version that is not supported.
class ImportError : public Error {
 public:
  using Error::Error;
};
/// A file that is missing, malformed, or could not be written.
class FileError : public Error {
 public:
  using Error::Error;
};
class OutOfMemoryError : public Error {
 public:
  using Error::Error;
};
class CudaError : public Error {
 public:
  using Error::Error;
};

/// Throws `E` with the formatted message.
template <class E = ValueError, class... Args>
[[noreturn]] void fail(fmt::format_string<Args...> format, Args&&... args) {
  throw E(fmt::format(format, std::forward<Args>(args)...));
}

/// Throws `E` with the formatted message unless `ok`.
template <class E = ValueError, class... Args>
void check(bool ok, fmt::format_string<Args...> format, Args&&... args) {
  if (!ok) [[unlikely]]
    fail<E>(format, std::forward<Args>(args)...);
}

}  // namespace graft
