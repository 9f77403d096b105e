#include "checksum/content_hash.h"

#include <vector>

#include "base/cpu.h"
#include "checksum/content_hash_kernels.h"

// The architecture's baseline: SSE2 on x86-64, NEON on arm64, else plain C.
#define XXH_INLINE_ALL  // everything static
#include <xxhash.h>

namespace ostraca {
namespace {

std::vector<ContentHashKernel> find_kernels() {
  std::vector<ContentHashKernel> kernels;
#if defined(__x86_64__)
  if (cpu_features().avx512) kernels.push_back({"avx512", content_hash_avx512});
  if (cpu_features().avx2) kernels.push_back({"avx2", content_hash_avx2});
#endif
  kernels.push_back({"portable", content_hash_portable});
  return kernels;
}

}  // namespace

Hash128 content_hash_portable(const std::byte* data, std::size_t size) {
  const XXH128_hash_t hash = XXH3_128bits(data, size);
  return {hash.low64, hash.high64};
}

std::span<const ContentHashKernel> content_hash_kernels() {
  static const std::vector<ContentHashKernel> kernels = find_kernels();
  return kernels;
}

ContentHash content_hash(Bytes data) {
  static const ContentHashFunction function = content_hash_kernels().front().function;
  const Hash128 hash = function(data.data(), data.size());
  ContentHash canonical;  // big-endian, the high half first
  store_le(canonical.data(), __builtin_bswap64(hash.high));
  store_le(canonical.data() + 8, __builtin_bswap64(hash.low));
  return canonical;
}

}  // namespace ostraca
