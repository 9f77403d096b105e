#include "ostraca/status.h"

#include <system_error>

namespace ostraca {

Status Status::system(int os_error, const std::string& what, std::string path) {
  Status status(Code::kSystem, what + " '" + path + "': " + std::generic_category().message(os_error));
  status.os_error_ = os_error;
  status.path_ = std::move(path);
  return status;
}

Status Status::with_context(const std::string& context) const {
  Status status = *this;
  status.message_ = context + ": " + message_;
  return status;
}

}  // namespace ostraca
