// Arbitrary text as manifest and intent, with the closing CRC made right. What decodes encodes, and that decodes to the
// same again.
#include <cstdio>
#include <cstdlib>

#include "checksum/crc32c.h"
#include "container/manifest.h"

namespace {

using namespace ostraca;

std::string sealed(std::string text) {
  text += "\"crc32c\": \"";
  char digits[16];
  std::snprintf(digits, sizeof digits, "%08x", static_cast<unsigned>(crc32c(as_bytes(text))));
  return text + digits + "\"\n}\n";
}

void check(const std::string& text) {
  if (const auto manifest = decode_manifest(text); manifest.ok()) {
    const auto encoded = encode_manifest(*manifest);
    if (!encoded.ok()) std::abort();
    const auto again = decode_manifest(*encoded);
    if (!again.ok() || *encode_manifest(*again) != *encoded) std::abort();
    if (again->metadata != manifest->metadata || again->files.size() != manifest->files.size()) std::abort();
  }
  if (const auto intent = decode_intent(text); intent.ok()) {
    const auto encoded = encode_intent(*intent);
    if (!encoded.ok()) std::abort();
    const auto again = decode_intent(*encoded);
    if (!again.ok() || *encode_intent(*again) != *encoded) std::abort();
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string text(reinterpret_cast<const char*>(data), size);
  check(text);
  check(sealed(text));
  return 0;
}
