#include "storage/storage.h"

#include "base/limits.h"

namespace ostraca {

Status check_name(const std::string& name) {
  const bool good = !name.empty() && name != "." && name != ".." && name.size() <= kNameBytesMax &&
                    name.find('/') == std::string::npos && name.find('\0') == std::string::npos;
  if (good) return {};
  return invalid_argument("a file's name must be one path component of at most " + std::to_string(kNameBytesMax) +
                          " bytes, not '" + name.substr(0, kNameBytesMax) + "'");
}

std::string temporary_name(const std::string& token) { return "manifest-" + token + ".json"; }

Result<std::string> Storage::read_small(const std::string& name, std::size_t max_bytes) {
  OSTRACA_ASSIGN_OR_RETURN(Document document, read_document(name, max_bytes));
  return std::move(document.text);
}

}  // namespace ostraca
