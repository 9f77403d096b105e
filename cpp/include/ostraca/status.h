// Status and Result<T>: how every engine function reports failure. The engine throws nothing of its own.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <utility>

namespace ostraca {

enum class Code : std::uint8_t {
  kOk,
  kCorruption,       // stored bytes differ from what was written (checksum, hash, size)
  kFormat,           // not ours, malformed, or newer than this build
  kNotFound,         // no such checkpoint or array
  kExists,           // a checkpoint is already there
  kMismatch,         // shape, dtype or names differ from what the caller asked for
  kCoordination,     // another process failed or is missing
  kCommitUncertain,  // an error after publication: the commit may or may not be durable
  kCancelled,        // the caller asked to stop
  kInvalidArgument,  // the caller broke the contract of a function
  kOutOfMemory,      // memory cannot be had: the message says how much, and what takes less
  kSystem,           // the operating system refused: os_error() and path() are set
};

class [[nodiscard]] Status {
 public:
  Status() = default;
  Status(Code code, std::string message) : code_(code), message_(std::move(message)) {}

  // `what` is the failed action ("write", "open"); the message is composed from it, the path and errno's text.
  static Status system(int os_error, const std::string& what, std::string path);

  bool ok() const { return code_ == Code::kOk; }
  Code code() const { return code_; }
  const std::string& message() const { return message_; }
  int os_error() const { return os_error_; }         // an errno value; 0 unless code() is kSystem
  const std::string& path() const { return path_; }  // the path of a kSystem error

  // Same code, with `context` put before the message: "array 'w': ...".
  Status with_context(const std::string& context) const;

 private:
  Code code_ = Code::kOk;
  int os_error_ = 0;
  std::string message_;
  std::string path_;
};

inline Status corruption(std::string m) { return {Code::kCorruption, std::move(m)}; }
inline Status format_error(std::string m) { return {Code::kFormat, std::move(m)}; }
inline Status not_found(std::string m) { return {Code::kNotFound, std::move(m)}; }
inline Status exists(std::string m) { return {Code::kExists, std::move(m)}; }
inline Status mismatch(std::string m) { return {Code::kMismatch, std::move(m)}; }
inline Status cancelled(std::string m) { return {Code::kCancelled, std::move(m)}; }
inline Status out_of_memory(std::uint64_t wanted_bytes) {
  return {Code::kOutOfMemory, std::to_string(wanted_bytes) + " bytes of memory cannot be had"};
}
inline Status invalid_argument(std::string m) { return {Code::kInvalidArgument, std::move(m)}; }

// Either a value or a Status that is not ok.
template <class T>
class [[nodiscard]] Result {
 public:
  Result(T value) : value_(std::move(value)) {}          // NOLINT: implicit, so that `return value;` works
  Result(Status status) : status_(std::move(status)) {}  // NOLINT: implicit; REQUIRES: !status.ok()

  bool ok() const { return value_.has_value(); }
  const Status& status() const { return status_; }
  T& operator*() { return *value_; }
  const T& operator*() const { return *value_; }
  T* operator->() { return &*value_; }
  const T* operator->() const { return &*value_; }
  T take() { return std::move(*value_); }  // REQUIRES: ok()

 private:
  Status status_;
  std::optional<T> value_;
};

}  // namespace ostraca

#define OSTRACA_CONCAT_(a, b) a##b
#define OSTRACA_CONCAT(a, b) OSTRACA_CONCAT_(a, b)
#define OSTRACA_RETURN_IF_ERROR(expression)                                      \
  do {                                                                           \
    if (::ostraca::Status status_ = (expression); !status_.ok()) return status_; \
  } while (false)
#define OSTRACA_ASSIGN_OR_RETURN(target, expression) \
  OSTRACA_ASSIGN_OR_RETURN_(OSTRACA_CONCAT(result_, __LINE__), target, expression)
#define OSTRACA_ASSIGN_OR_RETURN_(result, target, expression) \
  auto result = (expression);                                 \
  if (!result.ok()) return result.status();                   \
  target = result.take()
