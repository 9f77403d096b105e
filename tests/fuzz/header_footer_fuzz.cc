// Arbitrary bytes as header, footer and extent table, also with CRCs and magic numbers made right, so that the checks
// behind them are reached. What decodes encodes to the same bytes.
#include <algorithm>
#include <array>
#include <cstdlib>
#include <cstring>

#include "checksum/crc32c.h"
#include "container/file_format.h"

namespace {

using namespace ostraca;

void expect_same(Bytes a, Bytes b) {
  if (!std::equal(a.begin(), a.end(), b.begin(), b.end())) std::abort();
}

void check_header(Bytes bytes) {
  const auto header = decode_header(bytes);
  if (header.ok()) expect_same(encode_header(*header), bytes);
}

void check_footer(Bytes bytes) {
  const auto footer = decode_footer(bytes, load_le<std::uint64_t>(bytes.data() + 64));
  if (footer.ok()) expect_same(encode_footer(*footer), bytes);
}

template <std::size_t kSize>
std::array<std::byte, kSize> sealed(Bytes bytes, std::size_t magic_at, Bytes magic) {
  std::array<std::byte, kSize> out;
  std::ranges::copy(bytes, out.begin());
  std::ranges::copy(magic, out.begin() + static_cast<std::ptrdiff_t>(magic_at));
  store_le(out.data() + kSize - 4, crc32c(Bytes(out).first(kSize - 4)));
  return out;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const Bytes bytes(reinterpret_cast<const std::byte*>(data), size);
  if (size >= kHeaderBytes) {
    const auto valid = encode_header({});
    const Bytes head = bytes.first(kHeaderBytes);
    check_header(head);
    check_header(sealed<kHeaderBytes>(head, 0, Bytes(valid).first(12)));  // magic and version
  }
  if (size >= kFooterBytes) {
    const auto valid = encode_footer({});
    const Bytes tail = bytes.first(kFooterBytes);
    check_footer(tail);
    check_footer(sealed<kFooterBytes>(tail, 80, Bytes(valid).subspan(80, 8)));
  }
  if (size >= 8) {
    const Bytes table = bytes.subspan(8);
    const auto alignment = load_le<std::uint32_t>(bytes.data() + 4);
    const std::uint64_t table_offset = load_le<std::uint32_t>(bytes.data());
    const auto extents = decode_extents(table, alignment, table_offset);
    if (extents.ok()) expect_same(encode_extents(*extents), table);
  }
  return 0;
}
