// Arbitrary bytes as a directory. What decodes encodes to the same bytes, and every accessor and reference is safe.
#include <algorithm>
#include <cstdlib>

#include "container/directory.h"

namespace {

template <class Kind>
void check(ostraca::Bytes bytes, ostraca::Result<Kind> (*decode)(ostraca::Bytes)) {
  const auto directory = decode(bytes);
  if (!directory.ok()) return;
  const auto encoded = ostraca::encode_directory(*directory);
  if (!std::equal(encoded.begin(), encoded.end(), bytes.begin(), bytes.end())) std::abort();
  for (const auto& leaf : directory->leaves)
    if (!ostraca::decode_key_path(directory->path(leaf)).ok()) std::abort();
  const std::vector<ostraca::Extent> table(16);
  const std::vector<const std::vector<ostraca::Extent>*> tables(directory->files.size(), &table);
  (void)ostraca::check_references(*directory, tables).ok();
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const ostraca::Bytes bytes(reinterpret_cast<const std::byte*>(data), size);
  check(bytes, ostraca::decode_data_directory);
  check(bytes, ostraca::decode_index_directory);
  return 0;
}
